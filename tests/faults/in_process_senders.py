"""Senders in the test's own process, and a check of what became of their webhooks."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError

from service.settings import Secret
from service.store.connect import drop_idle_connections, open_client
from tests.end_to_end.harness import ServiceHarness, open_harness
from tests.factories import deployment_id

NAMESPACE = "faults"
_CONCURRENT_SENDERS = 6
_PAUSE_S = 0.02


class InProcessSenders:
    """CD systems that post one webhook after the other, and repeat each until it is accepted."""

    def __init__(self, service: ServiceHarness) -> None:
        self.accepted: list[str] = []
        self.refused: Counter[int] = Counter()
        self._service = service
        self._stop = False
        self._tasks = [
            asyncio.create_task(self._send(sender)) for sender in range(_CONCURRENT_SENDERS)
        ]

    async def _send(self, sender: int) -> None:
        for number in itertools.count(sender, _CONCURRENT_SENDERS):
            deployment = deployment_id(number)
            event = {"deploymentId": deployment, "eventType": "finished"}
            while (status := await self._post(event, f"delivery-{number}")) not in {200, 202}:
                self.refused[status] += 1
                await asyncio.sleep(_PAUSE_S)
            self.accepted.append(deployment)
            await asyncio.sleep(_PAUSE_S)
            if self._stop:
                return

    async def _post(self, event: dict[str, str], delivery: str) -> int:
        status, _ = await self._service.post(event, delivery=delivery)
        return status

    async def wait_until_accepted(self, more: int) -> float:
        """Wait until this many more webhooks are accepted; return the time it took in seconds."""
        started_s, target = time.monotonic(), len(self.accepted) + more
        async with asyncio.timeout(30):
            while len(self.accepted) < target:
                await asyncio.sleep(0.005)
        return time.monotonic() - started_s

    async def wait_until_published(self, more: int) -> None:
        """Wait until this many more records are published."""
        target = await self._count_records() + more
        async with asyncio.timeout(30):
            while await self._count_records() < target:
                await asyncio.sleep(0.005)

    async def _count_records(self) -> int:
        while True:
            with suppress(RedisError, OSError):
                return int(await self._service.redis.xlen(self._service.keys.enriched))
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Stop after the webhooks that are in progress."""
        self._stop = True
        async with asyncio.timeout(30):
            await asyncio.gather(*self._tasks)

    async def check(self) -> None:
        """Wait until the backlog is empty; assert one record for each accepted webhook."""
        async with asyncio.timeout(30):
            while not await self._is_drained():
                await asyncio.sleep(0.05)
        records = Counter(record["subject"] for record in await self._service.records())
        assert records == Counter(self.accepted)
        assert not await self._service.failed_jobs()
        assert set(self.refused) <= {503}

    async def _is_drained(self) -> bool:
        with suppress(RedisError, OSError):
            return await self._service.is_done()
        await drop_idle_connections(self._service.redis)
        return False


def print_duration(label: str, took_s: float) -> None:
    """Print a duration for readers of ``pytest -s``. No promise depends on it."""
    print(f"{label}: {took_s:.2f} s")  # noqa: T201 - for a person


@asynccontextmanager
async def open_service(redis_url: str, **changes: object) -> AsyncIterator[ServiceHarness]:
    """Open a receiver and two workers on any Redis, with an observing client."""
    async with (
        open_client(redis_url, namespace=NAMESPACE) as viewer,
        open_harness(viewer, NAMESPACE, redis_url=Secret(redis_url)) as service,
    ):
        yield await service.open(workers=2, **changes)
