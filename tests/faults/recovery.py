"""How soon does work go on after a kill, when all else is idle? Measured, never asserted."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from msgspec import Struct
from redis.exceptions import RedisError

from service.store.connect import AWAY
from tests.faults.plant import KEYS, Plant
from tests.faults.schedule import Stroke
from tests.faults.traffic import Habits, Webhook, draw_webhooks

_HELD = 3  # tickets in hand: fewer than the calls that a fresh budget allows
_KILL = Stroke(after_s=0, role="redis", blow="kill", chance=0, lasts_s=0.5)


class Recovery(Struct, frozen=True, kw_only=True):
    """How long it took, in seconds.

    ``worker_s``: from a worker's kill until all that it held was published; ``redis_s``: from
    Redis being back until the first record.
    """

    worker_s: list[float]
    redis_s: list[float]


async def measure_recovery(plant: Plant, *, rounds: int, seed: int) -> Recovery:
    """Kill a worker, then Redis, so many times each, with tickets in hand and nothing else to do.

    Leaves the plant with two workers.
    """
    webhooks = draw_webhooks(seed, Habits(to_find=0.0, again=0.0, copies=(1, 1)))
    for worker in plant.workers[1:]:
        await worker.end(signal.SIGTERM)
    worker_s = [await _kill_worker(plant, webhooks, number % 2) for number in range(rounds)]
    await plant.workers[(rounds + 1) % 2].start()
    await plant.workers[(rounds + 1) % 2].wait_for_start()
    redis_s = [await _kill_redis(plant, webhooks) for _ in range(rounds)]
    return Recovery(worker_s=worker_s, redis_s=redis_s)


async def _kill_worker(plant: Plant, webhooks: Iterator[Webhook], place: int) -> float:
    """Have one worker hold tickets, kill it while the other looks on; gives the seconds."""
    doomed, heir = plant.workers[place], plant.workers[1 - place]
    await _have_held(plant, webhooks)
    await heir.start()
    await heir.wait_for_start()
    before = await _count_records(plant)
    at = time.monotonic()
    await doomed.end(signal.SIGKILL)
    plant.upstream.resume()
    await _until(lambda: _has_more(plant, before + _HELD))
    return time.monotonic() - at


async def _kill_redis(plant: Plant, webhooks: Iterator[Webhook]) -> float:
    """Kill Redis while workers hold tickets; gives the seconds from its return to a record."""
    await _have_held(plant, webhooks)
    before = await _count_records(plant)
    striking = asyncio.create_task(plant.store.strike(_KILL))
    await asyncio.sleep(0)
    plant.upstream.resume()
    await striking
    await _until(lambda: _has_more(plant, before + 1))
    took = time.monotonic() - plant.store.backs[-1]
    await _until(lambda: _has_more(plant, before + _HELD))
    return took


async def _have_held(plant: Plant, webhooks: Iterator[Webhook]) -> None:
    """Send some webhooks while the upstream says nothing, until their tickets are in hand."""
    plant.upstream.stall()
    await asyncio.gather(*(plant.senders.send(next(webhooks)) for _ in range(_HELD)))

    async def are_held() -> bool:
        held: Any = await plant.redis.zrange(KEYS.backlog, 0, -1, withscores=True)
        scores: list[float] = [score for _, score in held]
        return sum(score % 1 != 0 for score in scores) == _HELD

    await _until(are_held)


async def _count_records(plant: Plant) -> int:
    """Count every record that was ever appended."""
    return int((await plant.redis.xinfo_stream(KEYS.enriched))["entries-added"])


async def _has_more(plant: Plant, count: int) -> bool:
    return await _count_records(plant) >= count


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                if await condition():
                    return
            except (*AWAY, RedisError):
                pass
            await asyncio.sleep(0.005)
