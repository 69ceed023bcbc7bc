"""The paths of the benchmarks: the checkout and the Python of the service."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICE_PYTHON = Path(sys.executable)
"""The Python with the service and without its peers."""
