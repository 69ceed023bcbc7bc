"""Where is what the benchmarks need? The checkout, and one environment for each set of peers."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICE_PYTHON = Path(sys.executable)
"""The Python that has the service and nothing of its peers."""
