"""The processes that a storm strikes: receivers, workers and a Redis, each restarted."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from service.store.embedded import AppendFsync, EmbeddedServer
from tests.faults.strike_schedule import Strike

_STOP_TIMEOUT_S = 15.0
_START_TIMEOUT_S = 60.0

# Log events that no fault excuses.
FORBIDDEN_LOG_EVENTS = frozenset(
    {
        "attempt_error",
        "settle_failed",
        "unhandled_error",
        "webhook_error",
        "log_event_unserializable",
    }
)


class ServiceProcess:
    """One receiver or worker that is always restarted.

    ``log_events`` counts its log lines by event. ``violations`` describes what no fault excuses: a
    forbidden log line, an exit without a signal, a wrong exit code.
    """

    def __init__(
        self, command: str, name: str, *, log_folder: Path, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log_events: Counter[str] = Counter()
        self.violations: list[str] = []
        self.is_struck = False
        self._command = (sys.executable, "-m", "service", command)
        self._environ = {**os.environ, **environ}
        self._log_folder = log_folder
        self._starts = 0
        self._log = log_folder
        self._child: asyncio.subprocess.Process | None = None
        self._monitor_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process without waiting until it is ready."""
        self._starts += 1
        self._log = self._log_folder / f"{self.name}-{self._starts}.log"
        with self._log.open("wb") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environ,
                start_new_session=True,  # Ctrl-C must reach only the storm
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
            )
        self._monitor_task = asyncio.create_task(
            self._restart_on_exit(self._child), name=f"restart {self.name}"
        )

    async def wait_for_start(self) -> None:
        """Wait until its log says that it has started."""
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not self.has_started():
                await asyncio.sleep(0.02)

    async def strike(self, strike: Strike) -> None:
        """Kill, stop or freeze the process, and restart or resume it after the downtime."""
        self.is_struck = True
        try:
            if strike.action == "freeze":
                self.send_signal(signal.SIGSTOP)
                await asyncio.sleep(strike.duration_s)
                self.send_signal(signal.SIGCONT)
            else:
                await self.stop(signal.SIGKILL if strike.action == "kill" else signal.SIGTERM)
                await asyncio.sleep(strike.duration_s)
                await self.start()
                if strike.waits_for_start:
                    with suppress(TimeoutError):  # Redis may be down longer than that
                        await self.wait_for_start()
        finally:
            self.is_struck = False

    def has_started(self) -> bool:
        """Return whether its log says that it has started."""
        log = self._log.read_bytes() if self._log.exists() else b""
        return b'"receiver_started"' in log or b'"worker_started"' in log

    def send_signal(self, signal_number: signal.Signals) -> None:
        """Send a signal, unless the process has just ended."""
        if self._child is not None:
            _send_signal(self._child, signal_number)

    async def stop(self, signal_number: signal.Signals) -> None:
        """End the process by a signal. SIGTERM must give exit code 0 within the grace time."""
        child, self._child = self._child, None
        if child is None:
            return
        _send_signal(child, signal_number)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                exit_code = await child.wait()
        except TimeoutError:
            _send_signal(child, signal.SIGKILL)
            exit_code = await child.wait()
            self.violations.append(f"{self.name} did not stop within {_STOP_TIMEOUT_S:.0f} s")
        if (
            signal_number == signal.SIGTERM
            and exit_code != 0
            and not self._was_stopped_before_start(exit_code)
        ):
            self.violations.append(f"{self.name} exited with {exit_code} on SIGTERM")
        if self._monitor_task is not None:
            self._monitor_task.cancel()
        self._read_log()

    def _was_stopped_before_start(self, exit_code: int) -> bool:
        """Return whether SIGTERM came before the process had installed its signal handler."""
        return exit_code == -signal.SIGTERM and not self._log.read_bytes()

    async def _restart_on_exit(self, child: asyncio.subprocess.Process) -> None:
        """Record a violation when the process ends by itself, and restart it."""
        exit_code = await child.wait()
        if self._child is child:
            log_tail = self._log.read_text(errors="replace")[-500:]
            self.violations.append(f"{self.name} exited by itself with {exit_code}: {log_tail}")
            self._read_log()
            await asyncio.sleep(0.5)
            await self.start()

    def _read_log(self) -> None:
        """Count the log events and delete a log without violations.

        The last line may be truncated.
        """
        *lines, _ = self._log.read_bytes().split(b"\n")
        violations = [
            line for line in lines if (is_violation := self._count_log_line(line)) and is_violation
        ]
        for line in violations:
            self.violations.append(f"{self._log.name}: {line.decode(errors='replace')[:2000]}")
        if not violations:
            self._log.unlink()

    def _count_log_line(self, line: bytes) -> bool:
        """Count a log line; return whether the line is forbidden."""
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError:
            return True
        event = str(entry.get("event"))
        self.log_events[event] += 1
        return event in FORBIDDEN_LOG_EVENTS or "exception" in entry


def _send_signal(child: asyncio.subprocess.Process, signal_number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(signal_number)


class RedisProcess:
    """A Redis that may be killed; its data is on disk.

    ``started_at`` holds the times (monotonic, in seconds) at which it was ready.
    """

    def __init__(self, data_dir: Path, *, appendfsync: AppendFsync) -> None:
        self._server = EmbeddedServer(data_dir, appendfsync=appendfsync)
        self._exit_stack = AsyncExitStack()
        self.started_at: list[float] = []
        self.is_struck = False

    @property
    def url(self) -> str:
        """The URL, which stays the same after a restart."""
        return self._server.url

    async def start(self) -> None:
        """Start the server and wait until it has loaded its data."""
        await self._exit_stack.enter_async_context(self._server)
        self.started_at.append(time.monotonic())

    async def strike(self, strike: Strike) -> None:
        """Kill, stop or freeze the server, and restart or resume it after the downtime."""
        self.is_struck = True
        try:
            if strike.action == "freeze":
                self._send_signal(signal.SIGSTOP)
                await asyncio.sleep(strike.duration_s)
                self._send_signal(signal.SIGCONT)
            else:
                self._send_signal(signal.SIGKILL if strike.action == "kill" else signal.SIGTERM)
                await self.stop()
                await asyncio.sleep(strike.duration_s)
                await self.start()
        finally:
            self.is_struck = False

    async def stop(self) -> None:
        """Stop the server."""
        await self._exit_stack.aclose()

    def _send_signal(self, signal_number: signal.Signals) -> None:
        if self._server.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._server.pid, signal_number)
