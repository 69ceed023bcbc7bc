"""Commands run in real processes, with an environment of their own."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from service.simulate.options import Options
from tests.cli.fork_server import ForkedProcess, ForkServer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PASSWORD = "s3cr3t-that-nobody-may-see"
_READ_AT_START = ("PYTHON", "OTEL_")


class CommandResult(Struct, frozen=True):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error_text(self) -> str:
        """Return stderr, which holds one error, no traceback and no secret."""
        assert "Traceback" not in self.out + self.err
        assert PASSWORD not in self.out + self.err
        assert self.err.startswith(("Error: ", "Usage: deployment-enricher"))
        return self.err


class BackgroundCommand:
    """A command that runs until it is stopped; its lines are kept."""

    def __init__(self, child: asyncio.subprocess.Process | ForkedProcess) -> None:
        self.child = child
        self.lines: list[str] = []
        assert child.stdout is not None
        assert child.stderr is not None
        self._reading = asyncio.gather(self._read(child.stdout), self._read(child.stderr))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.lines.append(line.decode().rstrip("\n"))

    async def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line that matches a pattern; return the match."""
        async with asyncio.timeout(30):
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                assert not self._reading.done(), self.lines
                await asyncio.sleep(0.02)

    async def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        with suppress(ProcessLookupError):
            self.child.send_signal(signal_number)
        async with asyncio.timeout(45):  # longer than a worker's grace time
            code = await self.child.wait()
            await self._reading
        return code


class CommandRunner:
    """Runs commands in one environment, and keeps those that it started.

    A fork server starts them without importing the service again. Without one, and for variables
    that Python or a library reads as it is loaded, `python -m service` starts them.
    """

    def __init__(self, home: Path, fork_server: ForkServer | None = None) -> None:
        self.fork_server = fork_server
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

    async def spawn(
        self, command: str, changes: Mapping[str, str], *, stdin: int = DEVNULL
    ) -> asyncio.subprocess.Process | ForkedProcess:
        """Start a command; ``stdin`` is a file descriptor."""
        is_read_at_start = any(name.startswith(_READ_AT_START) for name in changes)
        env = {**self.env, **changes}
        if self.fork_server is not None and not is_read_at_start:
            return await self.fork_server.fork(command.split(), env, stdin=stdin)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", *command.split()),
            env=env,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, command: str, **changes: str) -> CommandResult:
        """Run a command to its end."""
        child = await self.spawn(command, changes)
        async with asyncio.timeout(40):
            out, err = await child.communicate()
        assert child.returncode is not None
        return CommandResult(child.returncode, out.decode(), err.decode())

    async def start(self, command: str, *, ready_pattern: str, **changes: str) -> BackgroundCommand:
        """Start a command, and wait for the line that says it is ready."""
        background = BackgroundCommand(await self.spawn(command, changes))
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
    """Wait until no process uses a directory."""
    async with asyncio.timeout(10):
        while processes_using(directory):
            await asyncio.sleep(0.02)
