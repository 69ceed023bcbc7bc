"""What is struck, and how does it come back? Doors, workers and a Redis, each a real process."""

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
from tests.faults.schedule import Stroke

_LONGEST_GOODBYE_S = 15.0
_LONGEST_START_S = 60.0

# What none of our programs may ever write, whatever befalls them.
MISTAKES = frozenset(
    {"attempt_crashed", "settling_failed", "unexpected", "webhook_crashed", "fact_unwritable"}
)


class Program:
    """One door or worker, always started again; ``facts`` counts the log lines by their event.

    ``mistakes`` are sentences about what it must not do: lines that no fault excuses, an end that
    nobody asked for, a bad exit code.
    """

    def __init__(self, command: str, name: str, *, logs: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self.facts: Counter[str] = Counter()
        self.mistakes: list[str] = []
        self.is_struck = False
        self._words = (sys.executable, "-m", "service", command)
        self._environ = {**os.environ, **environ}
        self._logs = logs
        self._starts = 0
        self._log = logs
        self._child: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; nobody waits until it is there."""
        self._starts += 1
        self._log = self._logs / f"{self.name}-{self._starts}.log"
        with self._log.open("wb") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self._words,
                env=self._environ,
                start_new_session=True,  # a Ctrl-C is for us
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
            )
        self._watch = asyncio.create_task(self._mind(self._child), name=f"mind {self.name}")

    async def wait_for_start(self) -> None:
        """Wait until it has written that it is there."""
        async with asyncio.timeout(_LONGEST_START_S):
            while not self.is_there():
                await asyncio.sleep(0.02)

    async def strike(self, stroke: Stroke) -> None:
        """Kill it, stop it or freeze it, and have it back in the end."""
        self.is_struck = True
        try:
            if stroke.blow == "freeze":
                self.send(signal.SIGSTOP)
                await asyncio.sleep(stroke.lasts_s)
                self.send(signal.SIGCONT)
            else:
                await self.end(signal.SIGKILL if stroke.blow == "kill" else signal.SIGTERM)
                await asyncio.sleep(stroke.lasts_s)
                await self.start()
                if stroke.spared:
                    with suppress(TimeoutError):  # Redis may be away for as long
                        await self.wait_for_start()
        finally:
            self.is_struck = False

    def is_there(self) -> bool:
        """Tell whether it has written that it is there."""
        log = self._log.read_bytes() if self._log.exists() else b""
        return b'"door_opened"' in log or b'"worker_started"' in log

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended just now does not mind."""
        if self._child is not None:
            _send(self._child, number)

    async def end(self, number: signal.Signals) -> None:
        """End it by a signal; SIGTERM must give exit code 0 within the grace time."""
        child, self._child = self._child, None
        if child is None:
            return
        _send(child, number)
        try:
            async with asyncio.timeout(_LONGEST_GOODBYE_S):
                code = await child.wait()
        except TimeoutError:
            _send(child, signal.SIGKILL)
            code = await child.wait()
            self.mistakes.append(f"{self.name} did not end within its grace time")
        if number == signal.SIGTERM and code != 0 and not self._is_young(code):
            self.mistakes.append(f"{self.name} ended with {code} on SIGTERM")
        if self._watch is not None:
            self._watch.cancel()
        self._read_log()

    def _is_young(self, code: int) -> bool:
        """Tell whether it was ended before it was there: no handler of ours stood yet."""
        return code == -signal.SIGTERM and not self._log.read_bytes()

    async def _mind(self, child: asyncio.subprocess.Process) -> None:
        """Say so when it ends by itself, and start it again."""
        code = await child.wait()
        if self._child is child:
            last = self._log.read_text(errors="replace")[-500:]
            self.mistakes.append(f"{self.name} ended by itself with {code}: {last}")
            self._read_log()
            await asyncio.sleep(0.5)
            await self.start()

    def _read_log(self) -> None:
        """Count the facts; a log without mistakes is not kept. The last line may be cut short."""
        *lines, _ = self._log.read_bytes().split(b"\n")
        bad = [line for line in lines if (wrong := self._count(line)) and wrong]
        for line in bad:
            self.mistakes.append(f"{self._log.name}: {line.decode(errors='replace')[:2000]}")
        if not bad:
            self._log.unlink()

    def _count(self, line: bytes) -> bool:
        """Count a line; tells whether it is one that must not be."""
        try:
            fact = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError:
            return True
        event = str(fact.get("event"))
        self.facts[event] += 1
        return event in MISTAKES or "exception" in fact


def _send(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)


class Store:
    """A Redis that is killed; its data is on disk. ``backs`` are the moments it was there again."""

    def __init__(self, data_dir: Path, *, appendfsync: AppendFsync) -> None:
        self._server = EmbeddedServer(data_dir, appendfsync=appendfsync)
        self._running = AsyncExitStack()
        self.backs: list[float] = []
        self.is_struck = False

    @property
    def url(self) -> str:
        """Its address, the same before and after."""
        return self._server.url

    async def start(self) -> None:
        """Start it and wait until it has read its data."""
        await self._running.enter_async_context(self._server)
        self.backs.append(time.monotonic())

    async def strike(self, stroke: Stroke) -> None:
        """Kill it, stop it or freeze it, and have it back in the end."""
        self.is_struck = True
        try:
            if stroke.blow == "freeze":
                self._send(signal.SIGSTOP)
                await asyncio.sleep(stroke.lasts_s)
                self._send(signal.SIGCONT)
            else:
                self._send(signal.SIGKILL if stroke.blow == "kill" else signal.SIGTERM)
                await self.end()
                await asyncio.sleep(stroke.lasts_s)
                await self.start()
        finally:
            self.is_struck = False

    async def end(self) -> None:
        """Have it gone."""
        await self._running.aclose()

    def _send(self, number: signal.Signals) -> None:
        if self._server.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._server.pid, number)
