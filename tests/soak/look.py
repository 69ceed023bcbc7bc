"""What does it take at this moment? Memory and files of each process, keys and bytes of Redis."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.store.connect import AWAY
from service.store.keys import Keys
from tests.deploy.composition import Composition, EngineError
from tests.soak.composition import list_processes
from tests.soak.samples import Sample

_MB = 1e6


class Onlooker:
    """Looks now and then; ``clock`` gives monotonic seconds."""

    def __init__(
        self, composition: Composition, redis: Redis, keys: Keys, *, clock: Callable[[], float]
    ) -> None:
        self.samples: list[Sample] = []
        self._composition = composition
        self._redis = redis
        self._keys = keys
        self._clock = clock
        self._begun = clock()

    async def look_on(self, *, every_s: float) -> None:
        """Look for ever."""
        while True:
            values: dict[str, float] = {}
            for service in ("door", "worker", "redis"):
                with suppress(EngineError):
                    for name, pids in await list_processes(self._composition, service):
                        values |= measure_processes(name, pids)
            with suppress(*AWAY, RedisError):
                values |= await self._measure_redis()
            self.samples.append(Sample(at_s=self._clock() - self._begun, values=values))
            await asyncio.sleep(every_s)

    async def _measure_redis(self) -> dict[str, float]:
        redis: Any = self._redis
        memory = await redis.info("memory")
        ending = lasting = 0
        names = [name async for name in redis.scan_iter(count=1000)]
        async with redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.pttl(name)
            for left_ms in await pipe.execute():
                ending += left_ms >= 0
                lasting += left_ms == -1
        return {
            "redis used": memory["used_memory"] / _MB,
            "keys lasting": lasting,
            "keys ending": ending,
            "backlog": await redis.zcard(self._keys.backlog),
        }


def measure_processes(name: str, pids: list[int]) -> dict[str, float]:
    """Sum what the processes of one container take; nothing where one has just ended."""
    try:
        pages = sum(_read_rss_kb(pid) for pid in pids)
        files = sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in pids)
    except OSError:
        return {}
    return {f"RSS {name}": pages * 1024 / _MB, f"files {name}": files} if pids else {}


def _read_rss_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in status if line.startswith("VmRSS:")), 0)
