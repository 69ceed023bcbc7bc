"""The senders of a storm: CD systems that repeat each webhook until it is accepted."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Protocol

import aiohttp
import msgspec
from msgspec.structs import replace

from service.accept.signatures import sign_standard_webhook
from service.simulate.world import NewDeployment
from tests.faults.oracle import SentDelivery
from tests.faults.traffic import Webhook

_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=12.0)  # longer than the receiver waits for Redis
REPORTING_SOURCE = "reporting"
"""The name of the source with ``report = true``."""

_ACCEPTED_STATUSES = {HTTPStatus.OK, HTTPStatus.ACCEPTED}


class UpstreamState(Protocol):
    """The part of the upstream that the senders use."""

    @property
    def epoch(self) -> int:
        """The number of the current epoch."""

    def add_deployment(self, new: NewDeployment, /) -> object:
        """Add one deployment that workers have to find."""


class WebhookSenders:
    """Concurrent senders with a common rate of ``per_s`` webhooks a second.

    Every copy of a webhook goes to a random receiver. ``deliveries`` holds the responses to each
    delivery. ``statuses`` counts responses by status; 0 means no response. ``reported`` holds the
    type of the last event of each job whose deployment only the service reports.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        receiver_urls: Sequence[str],
        *,
        secret: str,
        upstream: UpstreamState,
        seed: int,
    ) -> None:
        self.deliveries: list[SentDelivery] = []
        self.statuses: dict[int, int] = {}
        self.reported: dict[str, str] = {}
        self.accepted = 0
        self._session = session
        self._receiver_urls = receiver_urls
        self._secret = secret
        self._upstream = upstream
        self._rng = random.Random(f"senders {seed}")
        self._stop = asyncio.Event()

    async def send_all(
        self, webhooks: Iterator[Webhook], *, per_s: float, concurrency: int
    ) -> None:
        """Send one webhook after the other until `stop`, and finish those in progress."""
        started_s = time.monotonic()
        numbered = enumerate(webhooks)

        async def send_until_stopped() -> None:
            while not self._stop.is_set():
                number, webhook = next(numbered)
                early_s = started_s + number / per_s - time.monotonic()
                if early_s > 0:
                    await asyncio.sleep(early_s)
                await self.send(webhook)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(send_until_stopped())

    def stop(self) -> None:
        """Start no more webhooks."""
        self._stop.set()

    async def send(self, webhook: Webhook) -> None:
        """Send all copies at once, each until it is accepted, and record the responses."""
        event: dict[str, object] = dict(webhook.event)
        now = int(time.time() * 1000)
        if webhook.deployment is not None:
            self._upstream.add_deployment(replace(webhook.deployment, started_at=now))
            event["eventTime"] = now
        source = "native"
        if webhook.is_reported:
            source, event["eventTime"] = REPORTING_SOURCE, now
            self.reported[webhook.job] = str(event["eventType"])
        if webhook.has_start:
            start = msgspec.json.encode(event | {"eventType": "started", "eventTime": now - 1000})
            await self._post_until_accepted(f"{webhook.delivery}-start", start, source)
        delivery = SentDelivery(name=webhook.delivery, job=webhook.job, epoch=self._upstream.epoch)
        body = msgspec.json.encode(event)
        statuses = await asyncio.gather(
            *(
                self._post_until_accepted(webhook.delivery, body, source)
                for _ in range(webhook.copies)
            )
        )
        self.accepted += 1
        self.deliveries.append(
            replace(
                delivery,
                queued=statuses.count(HTTPStatus.ACCEPTED),
                duplicates=statuses.count(HTTPStatus.OK),
            )
        )

    async def _post_until_accepted(self, delivery: str, body: bytes, source: str) -> int:
        """Post until the webhook is accepted; return the status."""
        wait_s = 0.05
        while True:
            status = await self._post(delivery, body, source)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status in _ACCEPTED_STATUSES:
                return status
            await asyncio.sleep(wait_s * self._rng.uniform(0.5, 1.0))
            wait_s = min(wait_s * 2, 0.8)

    async def _post(self, delivery: str, body: bytes, source: str) -> int:
        receiver_url = self._rng.choice(self._receiver_urls)
        headers = sign_standard_webhook(
            self._secret, delivery=delivery, timestamp_s=int(time.time()), body=body
        )
        try:
            async with self._session.post(
                f"{receiver_url}/webhooks/{source}",
                data=body,
                headers=headers,
                timeout=_REQUEST_TIMEOUT,
            ) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0
