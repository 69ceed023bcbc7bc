"""What does the demo show? A pipeline that deploys, records as they come, and a running count."""

import asyncio
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import TextIO

from msgspec import Struct

from service.operate.health import Standing
from service.operate.pipeline import Event, Pace, Pipeline
from service.operate.send import Sent
from service.operate.table import write_header, write_record
from service.operate.tail import Appended
from service.store import Unavailable

_LOOK_EVERY_S = 0.25
_LOOKS_PER_LINE = 12  # where no terminal can show the count in place


class Traffic(Struct, frozen=True):
    """What the upstream counted: calls, and those it answered with 429."""

    calls: int
    refused: int


class Stage(Struct, frozen=True, kw_only=True):
    """What the demo plays on: verbs that are handed in, and where it writes."""

    report: Callable[[Event], Awaitable[None]]
    post: Callable[[Event, str], Awaitable[Sent]]
    look: Callable[[], Awaitable[Standing]]
    count_calls: Callable[[], Traffic]
    records: AsyncIterator[Appended]
    out: TextIO
    columns: Callable[[], int]


class Demo:
    """Sends deployments as a pipeline would and shows what becomes of them."""

    def __init__(self, stage: Stage, *, pace: Pace, chance: Random) -> None:
        self._stage = stage
        self._events = pace.events
        self._pipeline = Pipeline(stage.report, stage.post, pace=pace, chance=chance)
        self._published = 0
        self._met = 0
        self._standing: Standing | None = None
        self._status = ""
        self._live = stage.out.isatty()

    async def play(self) -> None:
        """Play until cancelled, or until as many records as were asked for were published."""
        sending = asyncio.create_task(self._pipeline.deploy(), name="demo-send")
        counting = asyncio.create_task(self._watch(), name="demo-watch")
        self._say(write_header(columns=self._stage.columns()))
        try:
            async for appended in self._stage.records:
                self._published += 1
                self._say(write_record(appended, columns=self._stage.columns()))
                if self._events and self._published >= self._events:
                    break
        finally:
            for task in (sending, counting):
                task.cancel()
            await asyncio.gather(sending, counting, return_exceptions=True)
            await self._look()
            self._say_farewell()

    async def _watch(self) -> None:
        """Keep the count up to date, and say so when the quota is met."""
        looks = 0
        while True:
            before = self._standing
            await self._look()
            if _is_met(self._standing) and not _is_met(before):
                self._say_quota_met()
            self._show_status(in_place_only=looks % _LOOKS_PER_LINE != 0)
            looks += 1
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self) -> None:
        try:
            self._standing = await self._stage.look()
        except Unavailable:
            self._standing = None

    def _say_quota_met(self) -> None:
        if self._standing is not None and self._standing.waiting:
            self._met += 1
            self._say(
                f"-- quota met: no call for {self._standing.opens_s:.1f} s; "
                f"{self._standing.waiting} deployments wait, webhooks are still taken"
            )

    def _write_counts(self) -> str:
        standing = self._standing
        counts = {
            "received": self._pipeline.received,
            "queued": self._pipeline.queued,
            "published": self._published,
            "waiting": "?" if standing is None else standing.waiting,
            "failed": "?" if standing is None else standing.failed,
        }
        line = "  ".join(f"{name} {count}" for name, count in counts.items())
        if standing is None:
            return f"{line}  Redis is away"
        if _is_met(standing):
            return f"{line}  quota met {standing.opens_s:.1f} s"
        return f"{line}  calls left {standing.room}"

    def _say_farewell(self) -> None:
        traffic = self._stage.count_calls()
        met = "once" if self._met == 1 else f"{self._met} times"
        self._status, line = "", self._write_counts().rpartition("  ")[0]
        told = (
            f"What you saw: {self._pipeline.received} signed webhooks came in, of which "
            f"{self._pipeline.repeated} were repeats and known as such; LaunchDarkly "
            f"(simulated) took {traffic.calls} calls and refused {traffic.refused}, the quota was "
            f"met {met}, and {self._published} deployments came out, each as one "
            "enriched record on a Redis stream."
        )
        width = max(40, min(self._stage.columns(), 100))
        self._say("\n".join(("", line, *textwrap.wrap(told, width))))

    def _say(self, text: str) -> None:
        """Write what stays; on a terminal the count stays below it."""
        self._write(f"\r\x1b[K{text}\n{self._status}" if self._live else f"{text}\n")

    def _show_status(self, *, in_place_only: bool) -> None:
        """Show the count, in one line that does not wrap: else it could not be written over."""
        line = self._write_counts()[: self._stage.columns() - 1]
        if self._live:
            self._status = line
            self._write(f"\r\x1b[K{line}")
        elif not in_place_only and self._pipeline.received:
            self._write(f"-- {line}\n")

    def _write(self, text: str) -> None:
        self._stage.out.write(text)
        self._stage.out.flush()


def _is_met(standing: Standing | None) -> bool:
    return standing is not None and standing.opens_s > 0
