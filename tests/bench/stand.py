"""What does every measurement stand on? One real server that syncs each write, one upstream."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from tests.bench.job import GOT
from tests.bench.places import ROOT
from tests.bench.processes import Process

_LOOK_S = 0.01
_LONGEST_S = 120.0


class Stand:
    """The server, the upstream, a client to look with, and a folder for what is written."""

    def __init__(self, folder: Path, redis_url: str, redis: Redis) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.redis = redis
        self.upstream_url = ""
        self.concurrency = 32
        self._started: list[Process] = []

    def start(
        self, python: Path, words: Sequence[str], *, name: str, environ: Mapping[str, str] = {}
    ) -> Process:
        """Start a Python program that finds server and upstream in its environment."""
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("ENRICHER_", "LAUNCHDARKLY_", "PYTHON"))
        }
        told = {
            "BENCH_REDIS": self.redis_url,
            "BENCH_UPSTREAM": self.upstream_url,
            "BENCH_CONCURRENCY": str(self.concurrency),
            "PYTHONPATH": str(ROOT),
        }
        process = Process(
            [python, *words],
            environ={**inherited, **told, **environ},
            log=self.folder / f"{name}.log",
        )
        self._started.append(process)
        return process

    def end(self, process: Process) -> None:
        """End one program."""
        process.end()
        self._started.remove(process)

    def end_others(self) -> None:
        """End every program but the upstream, which was the first."""
        for process in self._started[1:]:
            self.end(process)

    def end_all(self) -> None:
        """End every program that still runs."""
        for process in [*self._started]:
            self.end(process)

    async def clear(self) -> None:
        """Empty the server, and let its log start small again."""
        await self.redis.flushall()

    async def wait_until(self, key: str, count: int, *, watch: Process) -> None:
        """Wait until a stream has so many entries, or a number is so high."""
        async with asyncio.timeout(_LONGEST_S):
            while await self.count(key) < count:
                watch.check()
                await asyncio.sleep(_LOOK_S)

    async def count(self, key: str) -> int:
        """Count a stream's entries, or read a number."""
        if key == GOT:
            return int(await self.redis.get(key) or 0)
        return int(await self.redis.xlen(key))


@asynccontextmanager
async def open_stand(folder: Path) -> AsyncIterator[Stand]:
    """Start server and upstream; on leaving, end whatever runs."""
    async with EmbeddedServer(folder / "redis") as server:
        redis = open_client(server.url, reply_timeout_s=60)
        stand = Stand(folder, server.url, redis)
        try:
            words = ("-m", "tests.bench.upstream")
            upstream = stand.start(Path(sys.executable), words, name="upstream")
            # When the log is rewritten is up to chance, and costs whoever is measured just then.
            await redis.config_set("auto-aof-rewrite-percentage", 0)
            stand.upstream_url = await upstream.wait_for("http://")
            yield stand
        finally:
            stand.end_all()
            await redis.aclose()
