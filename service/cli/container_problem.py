"""What is wrong with a role in a container, kept in a file for the health check of the image.

Docker shows the health check's output (`docker inspect`), but runs it only while the role runs. So
a role that cannot start stays for a while, which also lets Docker start it again without delay.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

HOLD_VARIABLE = "CONTAINER_HOLD_S"
"""Set in the image: seconds for which a role stays that cannot start. Unset: there is no file."""

_CHECK_INTERVAL_S = 0.5
_FILE_NAME = "deployment-enricher-problem"


def write_problem(problem: str, environ: Mapping[str, str] = os.environ) -> None:
    """Keep what is wrong; an empty text says that nothing is. Do nothing outside of the image."""
    if read_hold_s(environ):
        with suppress(OSError):  # a disk that cannot be written to changes nothing else
            _find_file().write_text(problem, encoding="utf-8")


def read_problem() -> str:
    """Return what is wrong, or an empty text."""
    try:
        return _find_file().read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def read_hold_s(environ: Mapping[str, str]) -> float:
    """Return for how long a role stays that cannot start; 0 outside of the image."""
    try:
        return max(0.0, float(environ.get(HOLD_VARIABLE, "0")))
    except ValueError:
        return 0.0


def hold(read_states: Callable[[], object], *, hold_s: float) -> None:
    """Wait until what ``read_states`` returns changes, at most ``hold_s``."""
    first, ends_s = read_states(), time.monotonic() + hold_s
    while time.monotonic() < ends_s and read_states() == first:
        time.sleep(_CHECK_INTERVAL_S)


def _find_file() -> Path:
    return Path(os.environ.get("TMPDIR", "/tmp")) / _FILE_NAME  # noqa: S108 - of a container alone
