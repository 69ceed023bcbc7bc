"""The clock of a namespace, which its scripts keep in Redis: see ``lua/lib_time.lua``."""

import asyncio
from typing import cast

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.log import EventLogger
from service.store.connect import UNAVAILABLE_ERRORS

MIN_REPORTED_S = 1.0
"""A clock that was set back by less is not reported: clocks are corrected by so much."""

_WATCH_INTERVAL_S = 15.0


class ClockReading(Struct, frozen=True):
    """The time of the scripts, and by how much Redis's own clock is behind it (ms)."""

    now_ms: int
    behind_ms: int


async def read_clock(client: Redis, key: str) -> ClockReading:
    """Return the time of the scripts as they compute it. Raises the errors of redis-py."""
    seconds, microseconds = await client.time()
    stored = cast("bytes | None", await client.get(key))
    server_ms = int(seconds) * 1000 + int(microseconds) // 1000
    latest_ms, offset_ms = map(int, (stored or b"0 0").split())
    behind_ms = max(offset_ms, latest_ms - server_ms) if server_ms < latest_ms else 0
    return ClockReading(server_ms + behind_ms, behind_ms)


async def watch_clock(client: Redis, key: str, log: EventLogger) -> None:
    """Log when Redis's clock was set back, and when it agrees again, until cancelled."""
    watch = ClockWatch(log)
    while True:
        try:
            watch.report((await read_clock(client, key)).behind_ms / 1000)
        except (*UNAVAILABLE_ERRORS, RedisError, ValueError):
            pass  # the group commit reports a Redis that is away
        await asyncio.sleep(_WATCH_INTERVAL_S)


class ClockWatch:
    """Logs each step back of Redis's clock once, and its end once."""

    def __init__(self, log: EventLogger) -> None:
        self._log = log
        self._reported_s = 0.0

    def report(self, behind_s: float) -> None:
        """Log a step back, or its end, if it is new."""
        if behind_s >= self._reported_s + MIN_REPORTED_S:
            self._log.warning("redis_clock_set_back", behind_s=round(behind_s, 3))
            self._reported_s = behind_s
        elif behind_s < MIN_REPORTED_S <= self._reported_s:
            self._log.info("redis_clock_corrected")
            self._reported_s = 0.0
        else:
            self._reported_s = min(self._reported_s, behind_s)
