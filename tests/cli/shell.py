"""Where are commands typed? In real processes, with an environment of their own."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from service.simulate.options import Options

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PASSWORD = "s3cr3t-that-nobody-may-see"


class CommandResult(Struct, frozen=True):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error_text(self) -> str:
        """Give its one sentence of complaint; there must be no traceback, and no secret."""
        assert "Traceback" not in self.out + self.err
        assert PASSWORD not in self.out + self.err
        assert self.err.startswith(("Error: ", "Usage: deployment-enricher"))
        return self.err


class BackgroundCommand:
    """One command that goes on until it is ended; its lines are kept."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.lines: list[str] = []
        assert child.stdout is not None
        assert child.stderr is not None
        self._reading = asyncio.gather(self._read(child.stdout), self._read(child.stderr))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.lines.append(line.decode().rstrip("\n"))

    async def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line that has a pattern."""
        async with asyncio.timeout(30):
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                assert not self._reading.done(), self.lines
                await asyncio.sleep(0.02)

    async def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; gives the exit code."""
        with suppress(ProcessLookupError):
            self.child.send_signal(signal_number)
        async with asyncio.timeout(45):  # longer than a worker's grace time
            code = await self.child.wait()
            await self._reading
        return code


class CommandRunner:
    """Where commands are typed: an environment, and what was started in it."""

    def __init__(self, home: Path) -> None:
        self.data = home / "data"
        self.started: list[BackgroundCommand] = []
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ENRICHER_", "LAUNCHDARKLY_", "OTEL_"))
        }
        self.env = inherited | {
            "ENRICHER_DATA_DIR": str(self.data),
            "ENRICHER_WEBHOOK_SECRET": SECRET,
            "ENRICHER_PORT": "0",
            "LAUNCHDARKLY_ACCESS_TOKEN": Options().token,
        }

    async def _spawn(self, command: str, changes: dict[str, str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", *command.split()),
            env=self.env | changes,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, command: str, **changes: str) -> CommandResult:
        """Run a command to its end."""
        child = await self._spawn(command, changes)
        async with asyncio.timeout(40):
            out, err = await child.communicate()
        assert child.returncode is not None
        return CommandResult(child.returncode, out.decode(), err.decode())

    async def start(self, command: str, *, ready_pattern: str, **changes: str) -> BackgroundCommand:
        """Start a command that goes on, and wait until it says that it is there."""
        background = BackgroundCommand(await self._spawn(command, changes))
        self.started.append(background)
        await background.wait_for(ready_pattern)
        return background


async def run_concurrently(*runs: Coroutine[Any, Any, CommandResult]) -> list[CommandResult]:
    """Run commands side by side."""
    return await asyncio.gather(*runs)


def processes_using(directory: Path) -> list[int]:
    """List the processes that have a file of a directory open or named on their command line."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(directory) in (process / "cmdline").read_bytes():
                pids.append(int(process.name))
    return pids


async def wait_until_unused(directory: Path) -> None:
    """Wait until nobody works on a directory any more."""
    async with asyncio.timeout(10):
        while processes_using(directory):
            await asyncio.sleep(0.02)
