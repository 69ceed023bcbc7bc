"""What does the demo show? A pipeline that deploys, records as they come, and a running count."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from random import Random
from typing import TextIO

from msgspec import Struct

from service.operate.health import Standing
from service.operate.send import Sent
from service.operate.tail import Appended, describe_record

Event = dict[str, object]

_APPLICATIONS = ("billing-service", "checkout", "search", "web-frontend", "mobile-api")
_ENVIRONMENTS = ("production", "staging")
_STATUS_EVERY_S = 1.0
_TWICE = 0.15  # share of webhooks that their sender repeats, as real ones do


class Pace(Struct, frozen=True):
    """How many deployments a second, and after how many published records to end (0: never)."""

    per_second: float
    events: int = 0


class Stage(Struct, frozen=True, kw_only=True):
    """What the demo plays on: verbs that are handed in, and where it writes."""

    report: Callable[[Event], Awaitable[None]]
    post: Callable[[Event, str], Awaitable[Sent]]
    look: Callable[[], Awaitable[Standing]]
    records: AsyncIterator[Appended]
    out: TextIO


class Demo:
    """Sends deployments as a pipeline would and shows what becomes of them."""

    def __init__(self, stage: Stage, *, pace: Pace, chance: Random) -> None:
        self._stage = stage
        self._pace = pace
        self._chance = chance
        self._received = 0
        self._queued = 0
        self._published = 0
        self._status = ""
        self._live = stage.out.isatty()

    async def play(self) -> None:
        """Play until cancelled, or until as many records as were asked for were published."""
        sending = asyncio.create_task(self._send(), name="demo-send")
        counting = asyncio.create_task(self._count(), name="demo-count")
        try:
            async for appended in self._stage.records:
                self._published += 1
                self._say(f"  {appended.fields['id'][:8]}  {describe_record(appended)}")
                if self._pace.events and self._published >= self._pace.events:
                    return
        finally:
            for task in (sending, counting):
                task.cancel()
            await asyncio.gather(sending, counting, return_exceptions=True)
            self._say(self._write_counts(None))

    async def _send(self) -> None:
        sent = 0
        while not self._pace.events or sent < self._pace.events:
            event = self._invent_event()
            await self._stage.report(event)
            delivery = f"demo-{self._chance.getrandbits(64):016x}"
            times = 2 if self._chance.random() < _TWICE else 1
            answers = await asyncio.gather(
                *(self._stage.post(event, delivery) for _ in range(times))
            )
            self._received += len(answers)
            self._queued += sum(answer.status == HTTPStatus.ACCEPTED for answer in answers)
            sent += 1
            await asyncio.sleep(self._chance.expovariate(self._pace.per_second))

    def _invent_event(self) -> Event:
        return {
            "projectKey": "default",
            "environmentKey": self._chance.choice(_ENVIRONMENTS),
            "applicationKey": self._chance.choice(_APPLICATIONS),
            "version": f"{self._chance.getrandbits(160):040x}",
            "eventType": "finished",
            "eventMetadata": {"pipeline": "demo", "run": self._chance.randrange(1000, 9999)},
        }

    async def _count(self) -> None:
        while True:
            self._show_status(self._write_counts(await self._stage.look()))
            await asyncio.sleep(_STATUS_EVERY_S)

    def _write_counts(self, standing: Standing | None) -> str:
        counts: Mapping[str, object] = {
            "received": self._received,
            "queued": self._queued,
            "published": self._published,
            "waiting": "-" if standing is None else standing.waiting,
            "failed": "-" if standing is None else standing.failed,
        }
        line = "   ".join(f"{name} {count}" for name, count in counts.items())
        if standing is not None and standing.closed_s > 0:
            line += f"   quota met: no call for {standing.closed_s:.1f} s ({standing.why})"
        elif standing is not None and standing.waiting and not standing.in_flight:
            line += "   quota met: waiting for the next window"
        return f"-- {line}"

    def _say(self, line: str) -> None:
        """Write a line that stays; on a terminal the count stays below it."""
        self._stage.out.write(f"\r\x1b[K{line}\n{self._status}" if self._live else f"{line}\n")
        self._stage.out.flush()

    def _show_status(self, line: str) -> None:
        if self._live:
            self._status = line
            self._stage.out.write(f"\r\x1b[K{line}")
            self._stage.out.flush()
        elif line != self._status:
            self._status = line
            self._stage.out.write(f"{line}\n")
            self._stage.out.flush()
