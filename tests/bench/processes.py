"""Measured processes: started, paused, measured by /proc and killed with all their children."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.bench.paths import ROOT


class MeasuredProcess:
    """One program under test with all its children, which share a process group.

    CPU is the user and system time of all threads, as the kernel accounts it, in nanoseconds.
    """

    def __init__(
        self, arguments: Sequence[str | Path], *, environ: Mapping[str, str], log: Path
    ) -> None:
        self.log = log
        with log.open("wb") as out:
            self._child = subprocess.Popen(
                [str(argument) for argument in arguments],
                cwd=ROOT,
                env=dict(environ),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def write_line(self, line: str) -> None:
        """Write one line to the stdin of the program."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()

    def pause(self) -> None:
        """Stop the process group, so that preparations are not charged to it."""
        os.killpg(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process group."""
        os.killpg(self._child.pid, signal.SIGCONT)

    def read_cpu_s(self) -> float:
        """Return the CPU time of the program and its children."""
        return sum(_read_process_cpu_s(pid) for pid in self._list_pids())

    def read_peak_mb(self) -> float:
        """Return the highest resident memory (MB of 2**20) of the largest process."""
        return max(_read_status_kb(pid, "VmHWM") for pid in self._list_pids()) / 1024

    def _list_pids(self) -> Iterator[int]:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                stat_fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(stat_fields[2]) == self._child.pid:
                    yield int(folder.name)

    async def wait_for_log(self, text: str) -> str:
        """Wait until the log contains a text; return its line."""
        async with asyncio.timeout(60):
            while True:
                for line in self.log.read_text(errors="replace").splitlines():
                    if text in line:
                        return line
                if self._child.poll() is not None:
                    raise ProcessExited(self.log)
                await asyncio.sleep(0.02)

    def raise_if_ended(self) -> None:
        """Raise ProcessExited when the program has ended by itself."""
        if self._child.poll() is not None:
            raise ProcessExited(self.log)

    def kill(self) -> None:
        """Kill the program and its children at once, so that nothing else is measured."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()


class ProcessExited(Exception):
    """A program under test ended by itself. The message is the end of its log."""

    def __init__(self, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()[-12:]
        super().__init__("\n".join(lines) or "it exited without output")


def _read_process_cpu_s(pid: int) -> float:
    """Return the CPU clock of a process. Its clock id is derived from the pid, as libc does."""
    with suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def _read_status_kb(pid: int, field: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0
