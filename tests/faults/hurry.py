"""How does a test not wait for a backoff? It makes due at once what waits until later."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis

from service.store.keys import Keys

# One act: between a look and a change a worker could lease the ticket, and would lose it again.
_MAKE_DUE = """
local clock, count = redis.call('TIME'), 0
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES')
for i = 1, #later, 2 do
  if tonumber(later[i + 1]) % 1 == 0 then
    redis.call('ZADD', KEYS[1], now, later[i])
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
    """Make due whatever waits, and wake a worker; gives how many waited. Leases stay."""
    made: Any = await redis.eval(_MAKE_DUE, 2, keys.backlog, keys.bell)
    return int(made)


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
