"""The wakeup: an idle worker waits until a ticket is due, or until one is handed to it."""

import asyncio
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.backlog.ticket import CorruptTicket, Lease, decode_handed_over
from service.store.connect import UNAVAILABLE_ERRORS, drop_idle_connections
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

MAX_BLOCK_S = 4.0
"""The longest BLPOP. It must stay well below the client's reply timeout, which would cut it."""

_MIN_BLOCK_S = 0.005
_REPLY_MARGIN_S = 0.5
_SERVER_TICK_S = 0.1
"""How late an idle server may end a BLPOP: it checks for timeouts ten times a second (`hz`)."""


class Wakeup:
    """Wakes one idle worker when a ticket becomes due. A missed wakeup is safe: every sleep ends.

    ``token`` tells this worker from all others.
    """

    def __init__(self, client: Redis, group_commit: GroupCommit, *, keys: Keys, token: str) -> None:
        self._client = client
        self._group_commit = group_commit
        self._shared_key = keys.wakeup
        self._own_key = keys.worker_wakeup(token)
        self._end_wait: Script = load_script(__package__, "end_wait")

    async def wait(self, timeout_s: float) -> Lease | CorruptTicket | None:
        """Sleep until a wakeup, at most ``timeout_s``; without Redis it is a short plain sleep.

        Return the lease that an add handed over. Do not cancel a wait, or such a lease may be lost
        and has to run out: :meth:`end` ends it.

        The end of a sleep is a plain sleep too, because BLPOP may end one server tick late. A
        timeout limits the wait for a server that hangs. After an error the connections are dropped,
        because the server may no longer be the master.
        """
        block_s = min(max(timeout_s, _MIN_BLOCK_S), MAX_BLOCK_S)
        final_sleep_s = _SERVER_TICK_S if 2 * _SERVER_TICK_S < timeout_s <= MAX_BLOCK_S else 0.0
        clock = asyncio.get_running_loop().time
        ends_at = clock() + block_s
        try:
            async with asyncio.timeout(block_s + _REPLY_MARGIN_S):
                woken = await self._client.blpop(
                    [self._own_key, self._shared_key], timeout=block_s - final_sleep_s
                )
            if woken is not None:
                return decode_handed_over(cast("bytes", woken[1]))
            if final_sleep_s:
                await asyncio.sleep(ends_at - clock())
        except (*UNAVAILABLE_ERRORS, RedisError):
            await drop_idle_connections(self._client)
            await asyncio.sleep(min(block_s, 0.5))
        return None

    async def end(self) -> None:
        """End the wait of this worker, because it stops."""
        await self._group_commit.submit(self._end_wait, keys=(self._own_key,), args=())
