"""Tests of Redis without memory for longer than a lease: nothing is lost, nothing is repeated."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from service.settings import Secret
from service.simulate.options import Options
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from tests.end_to_end.harness import ServiceHarness, open_harness, remaining_tasks
from tests.factories import deployment_id

DEPLOYMENTS = 24
LEASE_S = 1.0


@pytest.fixture
async def service(server: EmbeddedServer) -> AsyncIterator[ServiceHarness]:
    """Build the service with short leases on a Redis of its own."""
    async with (
        open_client(server.url) as redis,
        open_harness(
            redis, "full", redis_url=Secret(server.url), lease=LEASE_S, enqueue_timeout=0.5
        ) as harness,
    ):
        yield harness
    assert not await remaining_tasks()


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_memory_full_for_longer_than_a_lease_loses_and_repeats_nothing(
    service: ServiceHarness,
) -> None:
    """Workers keep their leases and their results; LaunchDarkly is called once per deployment."""
    redis: Any = service.redis
    await service.open(workers=2, concurrency=8)
    service.simulator.options = Options(latency_ms=(100, 200))
    for number in range(DEPLOYMENTS):
        event = {"deploymentId": deployment_id(number), "eventType": "finished"}
        assert (await service.post(event))[0] == 202

    async def is_half_done() -> bool:
        return int(await redis.xlen(service.keys.enriched)) >= DEPLOYMENTS // 4

    await wait_until(is_half_done)
    await redis.config_set("maxmemory", 1)
    published = int(await redis.xlen(service.keys.enriched))
    leased = await list_leases(service)
    assert leased

    async def is_longer_than_two_leases() -> bool:
        now_s, _ = await redis.time()
        return bool(now_s * 1000 > max(leased.values()) + 2000 * LEASE_S)

    status, body = await service.post({"deploymentId": deployment_id(99), "eventType": "finished"})
    assert (status, "maxmemory" in str(body)) == (503, False)
    await wait_until(is_longer_than_two_leases)
    assert int(await redis.xlen(service.keys.enriched)) == published
    assert (await list_leases(service)).keys() == leased.keys()
    assert await count_crashes(service) == 0
    refused = [line for line in service.log_events() if line["level"] != "info"]
    await redis.config_set("maxmemory", 0)
    await wait_until(service.is_done)

    records = await service.records()
    assert Counter(record["id"] for record in records) == Counter(
        f"{deployment_id(number)}:1" for number in range(DEPLOYMENTS)
    )
    assert await service.failed_jobs() == []
    assert sum(service.simulator.stats.calls.values()) <= DEPLOYMENTS + 2
    assert Counter(line["event"] for line in refused) == {"redis_writes_refused": 1}
    assert not service.log_events("redis_disconnected")


async def list_leases(service: ServiceHarness) -> dict[bytes, float]:
    """Return the jobs that are leased, and when their leases end (ms)."""
    redis: Any = service.redis
    pairs = await redis.zrange(service.keys.backlog, 0, -1, withscores=True)
    return {job: score for job, score in pairs if score % 1}


async def count_crashes(service: ServiceHarness) -> int:
    """Return how many leases of the stored tickets ran out."""
    redis: Any = service.redis
    tickets = await redis.hvals(service.keys.tickets)
    return sum(int.from_bytes(ticket[4:6], "big") for ticket in tickets)
