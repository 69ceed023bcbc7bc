"""How does a test not wait for a backoff? It makes due at once what waits until later."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis

from service.store.keys import Keys


async def make_due(redis: Redis, keys: Keys) -> int:
    """Make due whatever waits, and wake a worker; gives how many waited. Leases stay."""
    backlog: Any = await redis.zrange(keys.backlog, 0, -1, withscores=True)
    now = int(time.time() * 1000)
    waiting = {job: score for job, score in backlog if score % 1 == 0 and score > now}
    if waiting:
        await redis.zadd(keys.backlog, dict.fromkeys(waiting, now), xx=True, lt=True)
        await redis.lpush(keys.bell, "1")
        await redis.expire(keys.bell, 60)
    return len(waiting)


@contextlib.asynccontextmanager
async def hurrying(redis: Redis, keys: Keys) -> AsyncIterator[None]:
    """Let nothing wait for long meanwhile."""

    async def hurry() -> None:
        while not ended.is_set():
            await make_due(redis, keys)
            await asyncio.sleep(0.05)

    ended = asyncio.Event()
    task = asyncio.create_task(hurry())
    try:
        yield
    finally:
        ended.set()
        await task
