"""How does an idle worker wake at once? It blocks on a list, on a connection of its own."""

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.store.connect import UNAVAILABLE_ERRORS, drop_idle_connections

MAX_BLOCK_S = 4.0
"""Must stay well under the client's reply timeout, which would cut the blocking call."""

_MIN_BLOCK_S = 0.005
_REPLY_MARGIN_S = 0.5
_SERVER_TICK_S = 0.1
"""How much later than asked an idle server ends a block: it looks ten times a second (`hz`)."""


class Wakeup:
    """Rings when a ticket became due. Missed rings cost nothing: every sleep has an end."""

    def __init__(self, client: Redis, key: str) -> None:
        self._client = client
        self._key = key

    async def wait(self, timeout_s: float) -> None:
        """Sleep until it rings, at most so long; without Redis it is a plain short sleep.

        A sleep that is to end at a moment ends deaf but on time: the server would wake us a tick
        too late. Nobody oversleeps for a server that hangs, nor stays with one that is the master
        no more.
        """
        block_s = min(max(timeout_s, _MIN_BLOCK_S), MAX_BLOCK_S)
        final_sleep_s = _SERVER_TICK_S if 2 * _SERVER_TICK_S < timeout_s <= MAX_BLOCK_S else 0.0
        clock = asyncio.get_running_loop().time
        ends_at = clock() + block_s
        try:
            async with asyncio.timeout(block_s + _REPLY_MARGIN_S):
                woken = await self._client.blpop([self._key], timeout=block_s - final_sleep_s)
            if woken is None and final_sleep_s:
                await asyncio.sleep(ends_at - clock())
        except (*UNAVAILABLE_ERRORS, RedisError):
            await drop_idle_connections(self._client)
            await asyncio.sleep(min(block_s, 0.5))
