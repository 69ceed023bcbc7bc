"""What does a CD system do? It deploys now and then, and tells LaunchDarkly and us: one body."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from random import Random

import aiohttp
from msgspec import Struct

from service.operate.send import Sent

Event = dict[str, object]

EVENTS_PATH = "/api/v2/engineering-insights/deployment-events"

_APPLICATIONS = ("billing-service", "checkout", "search", "web-frontend", "mobile-api")
_ENVIRONMENTS = ("production", "staging")
_TWICE = 0.15  # share of webhooks that their sender repeats, as real ones do
_TRAIN_EVERY, _TRAIN = 14, 10  # one merge often deploys many services at once
_PAUSE_S = 0.5


class Pace(Struct, frozen=True):
    """How many deployments a second, and after how many of them to end (0: never)."""

    per_second: float
    events: int = 0


class Pipeline:
    """Deploys at a pace, and counts how its webhooks were answered.

    ``report`` tells LaunchDarkly of an event, ``post`` tells a door of it as a named delivery.
    """

    def __init__(
        self,
        report: Callable[[Event], Awaitable[None]],
        post: Callable[[Event, str], Awaitable[Sent]],
        *,
        pace: Pace,
        chance: Random,
    ) -> None:
        self.received = 0
        self.queued = 0
        self.repeated = 0
        self._report = report
        self._post = post
        self._pace = pace
        self._chance = chance

    async def deploy(self) -> None:
        """Deploy now and then, and every so often many applications at once."""
        sent = 0
        async with asyncio.TaskGroup() as deployments:
            while not self._pace.events or sent < self._pace.events:
                train = _TRAIN if sent % _TRAIN_EVERY == _TRAIN_EVERY // 2 else 1
                left = self._pace.events - sent if self._pace.events else train
                for _ in range(min(train, left)):
                    deployments.create_task(self._tell(self._invent_event()))
                    sent += 1
                even = train if train > 1 else self._chance.expovariate(1.0)
                await asyncio.sleep(even / self._pace.per_second)

    async def _tell(self, event: Event) -> None:
        """Tell LaunchDarkly and us of one deployment; us twice, when the sender is nervous."""
        delivery = f"demo-{self._chance.getrandbits(64):016x}"
        times = 2 if self._chance.random() < _TWICE else 1
        posts = (self._post_until_taken(event, delivery) for _ in range(times))
        await asyncio.gather(self._report(event), *posts)

    async def _post_until_taken(self, event: Event, delivery: str) -> None:
        while True:
            try:
                status = (await self._post(event, delivery)).status
            except (aiohttp.ClientError, TimeoutError):
                status = 0
            self.received += status > 0
            self.queued += status == HTTPStatus.ACCEPTED
            self.repeated += status == HTTPStatus.OK
            if status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
                return
            await asyncio.sleep(_PAUSE_S)

    def _invent_event(self) -> Event:
        return {
            "projectKey": "default",
            "environmentKey": self._chance.choice(_ENVIRONMENTS),
            "applicationKey": self._chance.choice(_APPLICATIONS),
            "version": f"{self._chance.getrandbits(160):040x}",
            "eventType": "finished",
            "eventMetadata": {"pipeline": "demo", "run": self._chance.randrange(1000, 9999)},
        }


async def report_event(
    session: aiohttp.ClientSession, upstream: str, event: Event, *, token: str
) -> None:
    """Tell LaunchDarkly of an event, again and again until it has heard: its quota holds for all.

    One that is away is waited for.
    """
    while True:
        try:
            async with session.post(
                upstream + EVENTS_PATH, json=event, headers={"Authorization": token}
            ) as response:
                await response.read()
            if response.status == HTTPStatus.CREATED:
                return
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(_PAUSE_S)
