"""A simulated CD system: it reports each deployment to LaunchDarkly and to a receiver."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from random import Random

import aiohttp
from msgspec import Struct

from service.simulate.send import SendResult

EventBody = dict[str, object]

EVENTS_PATH = "/api/v2/engineering-insights/deployment-events"

_APPLICATIONS = ("billing-service", "checkout", "search", "web-frontend", "mobile-api")
_ENVIRONMENTS = ("production", "staging")
_REPEATED_SHARE = 0.15  # share of webhooks that are sent twice, as real senders do
_BATCH_EVERY, _BATCH_SIZE = 14, 10  # one merge often deploys many services
_RETRY_PAUSE_S = 0.5


class SendRate(Struct, frozen=True):
    """Deployments per second, and the number of deployments after which to stop (0: never)."""

    per_second: float
    max_events: int = 0


class Pipeline:
    """Deploys at a rate and counts the responses to its webhooks.

    ``report`` sends an event to LaunchDarkly. ``post`` sends it to a receiver with a delivery id.
    """

    def __init__(
        self,
        report: Callable[[EventBody], Awaitable[None]],
        post: Callable[[EventBody, str], Awaitable[SendResult]],
        *,
        rate: SendRate,
        rng: Random,
    ) -> None:
        self.received = 0
        self.queued = 0
        self.repeated = 0
        self._report = report
        self._post = post
        self._rate = rate
        self._rng = rng

    async def deploy(self) -> None:
        """Deploy one application at random intervals, and regularly many applications at once."""
        sent = 0
        async with asyncio.TaskGroup() as task_group:
            while not self._rate.max_events or sent < self._rate.max_events:
                batch_size = _BATCH_SIZE if sent % _BATCH_EVERY == _BATCH_EVERY // 2 else 1
                remaining = self._rate.max_events - sent if self._rate.max_events else batch_size
                for _ in range(min(batch_size, remaining)):
                    task_group.create_task(self._report_and_post(self._generate_event()))
                    sent += 1
                gap = batch_size if batch_size > 1 else self._rng.expovariate(1.0)
                await asyncio.sleep(gap / self._rate.per_second)

    async def _report_and_post(self, event: EventBody) -> None:
        """Report one deployment and post its webhook, sometimes twice."""
        delivery = f"demo-{self._rng.getrandbits(64):016x}"
        post_count = 2 if self._rng.random() < _REPEATED_SHARE else 1
        posts = (self._post_until_accepted(event, delivery) for _ in range(post_count))
        await asyncio.gather(self._report(event), *posts)

    async def _post_until_accepted(self, event: EventBody, delivery: str) -> None:
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
            await asyncio.sleep(_RETRY_PAUSE_S)

    def _generate_event(self) -> EventBody:
        return {
            "projectKey": "default",
            "environmentKey": self._rng.choice(_ENVIRONMENTS),
            "applicationKey": self._rng.choice(_APPLICATIONS),
            "version": f"{self._rng.getrandbits(160):040x}",
            "eventType": "finished",
            "eventMetadata": {"pipeline": "demo", "run": self._rng.randrange(1000, 9999)},
        }


async def report_event(
    session: aiohttp.ClientSession, upstream: str, event: EventBody, *, token: str
) -> None:
    """Report an event to LaunchDarkly, and repeat the call until LaunchDarkly accepts it.

    Rate limits and an unreachable LaunchDarkly delay the report; they never drop it.
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
        await asyncio.sleep(_RETRY_PAUSE_S)
