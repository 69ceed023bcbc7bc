"""The wall clock of a Redis server, which a test can set; it needs Linux and a C compiler."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.store.embedded import EmbeddedServer

_SOURCE = Path(__file__).parent / "shifted_clock" / "redis_clock.c"
_NUMBER_BYTES = 8


class RedisClock:
    """A clock that starts right. The server that runs with ``environ`` follows it at once.

    ``ahead_s`` is how far the clock is ahead now; ``jumps_s`` are all jumps since the start.
    """

    def __init__(self, folder: Path, compiler: str) -> None:
        library, self._file = folder / "redis_clock.so", folder / "redis_clock"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, _SOURCE], check=True)
        self._file.write_bytes(bytes(_NUMBER_BYTES))
        self.environ = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(self._file)}
        self.ahead_s = 0.0
        self.jumps_s: list[float] = []

    def set_ahead(self, seconds: float) -> None:
        """Set the clock ahead of this machine's, or behind it."""
        self.jumps_s.append(seconds - self.ahead_s)
        self.ahead_s = seconds
        number = round(seconds * 1_000_000).to_bytes(_NUMBER_BYTES, sys.byteorder, signed=True)
        with self._file.open("r+b", buffering=0) as file:  # one write: the server sees no half
            file.write(number)


def build_redis_clock(folder: Path) -> RedisClock | None:
    """Return a clock whose files are in a folder; None where none can be built."""
    compiler = shutil.which("cc")
    return RedisClock(folder, compiler) if compiler and sys.platform == "linux" else None


class ServerWithClock(EmbeddedServer):
    """The embedded server, with a clock that a test sets."""

    clock: RedisClock | None = None

    def _launch(self, program: Path, lock: int) -> subprocess.Popen[bytes]:
        with _environment(self.clock.environ if self.clock else {}):
            return super()._launch(program, lock)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {**os.environ}
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
