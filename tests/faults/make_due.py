"""A helper that makes waiting tickets due at once, so that tests do not wait for a backoff."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis

from service.store.keys import Keys

# Atomic: between a read and a write a worker could lease the ticket, and would lose its lease.
_MAKE_DUE_SCRIPT = """
local clock, count = redis.call('TIME'), 0
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local waiting = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES')
for i = 1, #waiting, 2 do
  if tonumber(waiting[i + 1]) % 1 == 0 then
    redis.call('ZADD', KEYS[1], now, waiting[i])
    count = count + 1
  end
end
if count > 0 then
  redis.call('LPUSH', KEYS[2], '1')
  redis.call('PEXPIRE', KEYS[2], 60000)
end
return count
"""


async def make_due(redis: Redis, keys: Keys) -> int:
    """Make all waiting tickets due and wake a worker; return how many waited. Leases stay."""
    count: Any = await redis.eval(_MAKE_DUE_SCRIPT, 2, keys.backlog, keys.wakeup)
    return int(count)


@contextlib.asynccontextmanager
async def making_due(redis: Redis, keys: Keys) -> AsyncIterator[None]:
    """Make waiting tickets due again and again while the context is open."""

    async def make_due_repeatedly() -> None:
        while not stopped.is_set():
            await make_due(redis, keys)
            await asyncio.sleep(0.05)

    stopped = asyncio.Event()
    task = asyncio.create_task(make_due_repeatedly())
    try:
        yield
    finally:
        stopped.set()
        await task
