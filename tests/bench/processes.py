"""What does a process cost? Started, paused, weighed by /proc, ended: it and all its children."""

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
    """One program under test with all that it starts: they share a process group.

    CPU is user and system time of all threads, as the kernel charges it, to the nanosecond.
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
        """Write one line to its stdin."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()

    def pause(self) -> None:
        """Stop it where it is: what is prepared for it meanwhile is not charged to it."""
        os.killpg(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self._child.pid, signal.SIGCONT)

    def read_cpu_s(self) -> float:
        """Sum up the CPU time that it and its children have had."""
        return sum(_read_process_cpu_s(pid) for pid in self._list_pids())

    def read_peak_mb(self) -> float:
        """Give the highest resident memory (MB of 2**20) of the largest of them."""
        return max(_read_status_kb(pid, "VmHWM") for pid in self._list_pids()) / 1024

    def _list_pids(self) -> Iterator[int]:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                stat_fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(stat_fields[2]) == self._child.pid:
                    yield int(folder.name)

    async def wait_for_log(self, text: str) -> str:
        """Wait until it has written something; gives the line."""
        async with asyncio.timeout(60):
            while True:
                for line in self.log.read_text(errors="replace").splitlines():
                    if text in line:
                        return line
                if self._child.poll() is not None:
                    raise ProcessExited(self.log)
                await asyncio.sleep(0.02)

    def raise_if_ended(self) -> None:
        """Raise Broken when it has ended by itself."""
        if self._child.poll() is not None:
            raise ProcessExited(self.log)

    def kill(self) -> None:
        """End it and all that it started, at once: nothing that it would still do is measured."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()


class ProcessExited(Exception):
    """A program under test ended by itself; the text is the end of what it wrote."""

    def __init__(self, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()[-12:]
        super().__init__("\n".join(lines) or "it ended and said nothing")


def _read_process_cpu_s(pid: int) -> float:
    """Read the CPU clock of a process; the clock's id is made from the pid, as libc does."""
    with suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def _read_status_kb(pid: int, field: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0
