"""Who posts the webhooks? CD systems that repeat each one until it is taken."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Protocol

import aiohttp
import msgspec
from msgspec.structs import replace

from service.accept.signature import sign_standard_webhook
from service.simulate.world import NewDeployment
from tests.faults.oracle import Delivery
from tests.faults.traffic import Webhook

_PATIENCE = aiohttp.ClientTimeout(total=8.0)
_ACCEPTED = {HTTPStatus.OK, HTTPStatus.ACCEPTED}


class World(Protocol):
    """What the upstream tells: which state of things, and what is to be found in it."""

    @property
    def epoch(self) -> int:
        """Number what is told now."""

    def add_deployment(self, new: NewDeployment, /) -> object:
        """Have one more to be found."""


class Senders:
    """So many lanes, together at ``per_s`` webhooks a second; every copy goes to any door.

    ``deliveries`` is the log of how each was answered, ``answers`` counts statuses, 0 for none.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        doors: Sequence[str],
        *,
        secret: str,
        upstream: World,
        seed: int,
    ) -> None:
        self.deliveries: list[Delivery] = []
        self.answers: dict[int, int] = {}
        self.accepted = 0
        self._session = session
        self._doors = doors
        self._secret = secret
        self._upstream = upstream
        self._dice = random.Random(f"senders {seed}")
        self._stop = asyncio.Event()

    async def send_all(self, webhooks: Iterator[Webhook], *, per_s: float, lanes: int) -> None:
        """Send one webhook after the other, until stopped; what was begun is ended."""
        begun = time.monotonic()
        turns = enumerate(webhooks)

        async def go_on() -> None:
            while not self._stop.is_set():
                number, webhook = next(turns)
                early_s = begun + number / per_s - time.monotonic()
                if early_s > 0:
                    await asyncio.sleep(early_s)
                await self.send(webhook)

        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(go_on())

    def stop(self) -> None:
        """Begin no more."""
        self._stop.set()

    async def send(self, webhook: Webhook) -> None:
        """Send every copy at once, each until it is taken, and keep how it was answered."""
        event: dict[str, object] = dict(webhook.event)
        if webhook.deployment is not None:
            now = int(time.time() * 1000)
            self._upstream.add_deployment(replace(webhook.deployment, started_at=now))
            event["eventTime"] = now
        delivery = Delivery(name=webhook.delivery, job=webhook.job, epoch=self._upstream.epoch)
        body = msgspec.json.encode(event)
        answers = await asyncio.gather(
            *(self._repeat(webhook.delivery, body) for _ in range(webhook.copies))
        )
        self.accepted += 1
        self.deliveries.append(
            replace(
                delivery,
                queued=answers.count(HTTPStatus.ACCEPTED),
                duplicates=answers.count(HTTPStatus.OK),
            )
        )

    async def _repeat(self, delivery: str, body: bytes) -> int:
        """Post until taken; gives the status."""
        wait_s = 0.05
        while True:
            status = await self._post(delivery, body)
            self.answers[status] = self.answers.get(status, 0) + 1
            if status in _ACCEPTED:
                return status
            await asyncio.sleep(wait_s * self._dice.uniform(0.5, 1.0))
            wait_s = min(wait_s * 2, 0.8)

    async def _post(self, delivery: str, body: bytes) -> int:
        door = self._dice.choice(self._doors)
        headers = sign_standard_webhook(
            self._secret, delivery=delivery, timestamp_s=int(time.time()), body=body
        )
        try:
            async with self._session.post(
                f"{door}/webhooks/native", data=body, headers=headers, timeout=_PATIENCE
            ) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0
