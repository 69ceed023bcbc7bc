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

from service.store.connect import open_client
from service.store.embedded import AppendFsync
from tests.faults.log_pipe import LogPipe
from tests.faults.redis_clock import RedisClock, ServerWithClock
from tests.faults.strike_schedule import Strike

_STOP_TIMEOUT_S = 15.0
_START_TIMEOUT_S = 60.0
_NO_MEMORY = 1  # byte

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
        self._log_pipe: LogPipe | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._monitor_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process without waiting until it is ready."""
        self._starts += 1
        self._log = self._log_folder / f"{self.name}-{self._starts}.log"
        self._log_pipe = LogPipe(self._log)
        try:
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environ,
                start_new_session=True,  # Ctrl-C must reach only the storm
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=self._log_pipe.write_fd,
            )
        finally:
            self._log_pipe.close_write_end()
        self._monitor_task = asyncio.create_task(
            self._restart_on_exit(self._child), name=f"restart {self.name}"
        )

    async def wait_for_start(self) -> None:
        """Wait until its log says that it has started."""
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not self.has_started():
                await asyncio.sleep(0.02)

    async def strike(self, strike: Strike) -> None:
        """Kill, stop or freeze the process or block its log; restart or resume it afterwards."""
        self.is_struck = True
        try:
            match strike.action:
                case "freeze":
                    self.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(strike.duration_s)
                    self.send_signal(signal.SIGCONT)
                case "log":
                    await self._block_log(strike)
                case _:
                    await self.stop(signal.SIGKILL if strike.action == "kill" else signal.SIGTERM)
                    await asyncio.sleep(strike.duration_s)
                    await self._restart(strike)
        finally:
            self.is_struck = False

    async def _block_log(self, strike: Strike) -> None:
        """Read nothing of the log for a time; then read on, or stop the process while it waits."""
        log_pipe = self._log_pipe
        assert log_pipe is not None
        log_pipe.block()
        await asyncio.sleep(strike.duration_s)
        if strike.stops_blocked:
            await self.stop(signal.SIGTERM)
            await self._restart(strike)
        log_pipe.unblock()

    async def _restart(self, strike: Strike) -> None:
        await self.start()
        if strike.waits_for_start:
            with suppress(TimeoutError):  # Redis may be down longer than that
                await self.wait_for_start()

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
        await self._read_log()

    def _was_stopped_before_start(self, exit_code: int) -> bool:
        """Return whether SIGTERM came before the process had installed its signal handler."""
        return exit_code == -signal.SIGTERM and not self._log.read_bytes()

    async def _restart_on_exit(self, child: asyncio.subprocess.Process) -> None:
        """Record a violation when the process ends by itself, and restart it."""
        exit_code = await child.wait()
        if self._child is child:
            await self._finish_log()
            log_tail = self._log.read_text(errors="replace")[-500:]
            self.violations.append(f"{self.name} exited by itself with {exit_code}: {log_tail}")
            await self._read_log()
            await asyncio.sleep(0.5)
            await self.start()

    async def _finish_log(self) -> None:
        if self._log_pipe is not None:
            await self._log_pipe.wait_until_ended()

    async def _read_log(self) -> None:
        """Count the log events and delete a log without violations.

        The last line may be truncated.
        """
        await self._finish_log()
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
    """A Redis that may be killed; its data is on disk. With a ``clock`` its time may jump.

    ``started_at`` holds the times (monotonic, in seconds) at which it was ready.
    """

    def __init__(
        self, data_dir: Path, *, appendfsync: AppendFsync, clock: RedisClock | None = None
    ) -> None:
        self._server = ServerWithClock(data_dir, appendfsync=appendfsync)
        self._server.clock = self.clock = clock
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
        """Kill, stop or freeze the server and end that later, or take its memory or its time."""
        self.is_struck = True
        try:
            match strike.action:
                case "freeze":
                    self._send_signal(signal.SIGSTOP)
                    await asyncio.sleep(strike.duration_s)
                    self._send_signal(signal.SIGCONT)
                case "memory":
                    await self._set_max_memory(_NO_MEMORY)
                    await asyncio.sleep(strike.duration_s)
                    await self._set_max_memory(0)
                case "clock" if self.clock is not None:
                    self.clock.set_ahead(strike.clock_ahead_s)
                case _:
                    self._send_signal(signal.SIGKILL if strike.action == "kill" else signal.SIGTERM)
                    await self.stop()
                    await asyncio.sleep(strike.duration_s)
                    await self.start()
        finally:
            self.is_struck = False

    async def _set_max_memory(self, max_bytes: int) -> None:
        """Set ``maxmemory``; 0: no limit. Below what is used, Redis refuses to store more."""
        async with open_client(self.url) as client:
            await client.config_set("maxmemory", max_bytes)

    async def stop(self) -> None:
        """Stop the server."""
        await self._exit_stack.aclose()

    def _send_signal(self, signal_number: signal.Signals) -> None:
        if self._server.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._server.pid, signal_number)
