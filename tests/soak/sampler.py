"""Samples of memory and files of each process, and of keys and bytes of Redis."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.store.connect import UNAVAILABLE_ERRORS
from service.store.keys import Keys
from tests.deploy.compose_stack import Composition, EngineError
from tests.soak.compose_stack import list_processes
from tests.soak.trends import ResourceSample

_MB = 1e6


class ResourceSampler:
    """Takes a sample at intervals; ``clock`` returns monotonic seconds."""

    def __init__(
        self, composition: Composition, redis: Redis, keys: Keys, *, clock: Callable[[], float]
    ) -> None:
        self.samples: list[ResourceSample] = []
        self._composition = composition
        self._redis = redis
        self._keys = keys
        self._clock = clock
        self._started_s = clock()

    async def run(self, *, interval_s: float) -> None:
        """Take samples until cancelled."""
        while True:
            values: dict[str, float] = {}
            for service in ("receiver", "worker", "redis"):
                with suppress(EngineError):
                    for name, pids in await list_processes(self._composition, service):
                        values |= measure_processes(name, pids)
            with suppress(*UNAVAILABLE_ERRORS, RedisError):
                values |= await self._measure_redis()
            self.samples.append(ResourceSample(at_s=self._clock() - self._started_s, values=values))
            await asyncio.sleep(interval_s)

    async def _measure_redis(self) -> dict[str, float]:
        redis: Any = self._redis
        memory = await redis.info("memory")
        with_ttl = without_ttl = 0
        names = [name async for name in redis.scan_iter(count=1000)]
        async with redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.pttl(name)
            for ttl_ms in await pipe.execute():
                with_ttl += ttl_ms >= 0
                without_ttl += ttl_ms == -1
        return {
            "redis used": memory["used_memory"] / _MB,
            "keys without TTL": without_ttl,
            "keys with TTL": with_ttl,
            "backlog": await redis.zcard(self._keys.backlog),
        }


def measure_processes(name: str, pids: list[int]) -> dict[str, float]:
    """Return memory and open files of one container; nothing when a process has just ended."""
    try:
        rss_kb = sum(_read_rss_kb(pid) for pid in pids)
        files = sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in pids)
    except OSError:
        return {}
    return {f"RSS {name}": rss_kb * 1024 / _MB, f"files {name}": files} if pids else {}


def _read_rss_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in status if line.startswith("VmRSS:")), 0)
