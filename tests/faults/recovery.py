"""The time to recover from a kill on an idle system: measured, never asserted."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from msgspec import Struct
from redis.exceptions import RedisError

from service.store.connect import UNAVAILABLE_ERRORS
from tests.faults.strike_schedule import Strike
from tests.faults.system import KEYS, SystemUnderTest
from tests.faults.traffic import TrafficConfig, Webhook, draw_webhooks

_LEASED_TICKETS = 3  # fewer than the calls that a new budget allows
_KILL_REDIS = Strike(delay_s=0, role="redis", action="kill", target_fraction=0, duration_s=0.5)


class Recovery(Struct, frozen=True, kw_only=True):
    """Times to recover, in seconds.

    ``worker_s``: from the kill of a worker until all its leased tickets are published. ``redis_s``:
    from the restart of Redis until the first record.
    """

    worker_s: list[float]
    redis_s: list[float]


async def measure_recovery(system: SystemUnderTest, *, rounds: int, seed: int) -> Recovery:
    """Kill a worker and then Redis, each `rounds` times, while tickets are leased.

    Nothing else happens meanwhile. Two workers run afterwards.
    """
    webhooks = draw_webhooks(
        seed, TrafficConfig(without_id_share=0.0, repeated_share=0.0, copies=(1, 1))
    )
    for worker in system.workers[1:]:
        await worker.stop(signal.SIGTERM)
    worker_s = [
        await _measure_worker_kill(system, webhooks, number % 2) for number in range(rounds)
    ]
    await system.workers[(rounds + 1) % 2].start()
    await system.workers[(rounds + 1) % 2].wait_for_start()
    redis_s = [await _measure_redis_kill(system, webhooks) for _ in range(rounds)]
    return Recovery(worker_s=worker_s, redis_s=redis_s)


async def _measure_worker_kill(
    system: SystemUnderTest, webhooks: Iterator[Webhook], index: int
) -> float:
    """Kill a worker with leased tickets; return the seconds until the other published them."""
    killed, survivor = system.workers[index], system.workers[1 - index]
    await _lease_tickets(system, webhooks)
    await survivor.start()
    await survivor.wait_for_start()
    records_before = await _count_records(system)
    killed_at = time.monotonic()
    await killed.stop(signal.SIGKILL)
    system.upstream.resume()
    await _wait_until(lambda: _has_records(system, records_before + _LEASED_TICKETS))
    return time.monotonic() - killed_at


async def _measure_redis_kill(system: SystemUnderTest, webhooks: Iterator[Webhook]) -> float:
    """Kill Redis while tickets are leased, and return the seconds from its restart to a record."""
    await _lease_tickets(system, webhooks)
    records_before = await _count_records(system)
    strike_task = asyncio.create_task(system.redis_process.strike(_KILL_REDIS))
    await asyncio.sleep(0)
    system.upstream.resume()
    await strike_task
    await _wait_until(lambda: _has_records(system, records_before + 1))
    took_s = time.monotonic() - system.redis_process.started_at[-1]
    await _wait_until(lambda: _has_records(system, records_before + _LEASED_TICKETS))
    return took_s


async def _lease_tickets(system: SystemUnderTest, webhooks: Iterator[Webhook]) -> None:
    """Send webhooks to a stalled upstream and wait until workers have leased their tickets."""
    system.upstream.stall()
    await asyncio.gather(*(system.senders.send(next(webhooks)) for _ in range(_LEASED_TICKETS)))

    async def are_leased() -> bool:
        backlog: Any = await system.redis.zrange(KEYS.backlog, 0, -1, withscores=True)
        scores: list[float] = [score for _, score in backlog]
        return sum(score % 1 != 0 for score in scores) == _LEASED_TICKETS

    await _wait_until(are_leased)


async def _count_records(system: SystemUnderTest) -> int:
    """Return how many records were ever appended."""
    return int((await system.redis.xinfo_stream(KEYS.enriched))["entries-added"])


async def _has_records(system: SystemUnderTest, count: int) -> bool:
    return await _count_records(system) >= count


async def _wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                if await condition():
                    return
            except (*UNAVAILABLE_ERRORS, RedisError):
                pass
            await asyncio.sleep(0.005)
