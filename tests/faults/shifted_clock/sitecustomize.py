"""A shifted clock for every Python that has this folder first on PYTHONPATH.

``time.time`` is ahead by the seconds in the file that CLOCK_FILE names.
"""

import os
import time
from pathlib import Path

_REAL_TIME = time.time
_CLOCK_FILE = Path(os.environ["CLOCK_FILE"])


def _shifted_time() -> float:
    return _REAL_TIME() + float(_CLOCK_FILE.read_text(encoding="utf-8"))


time.time = _shifted_time
