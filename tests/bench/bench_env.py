"""The environment of every measurement: a Redis that syncs each write, and an upstream."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from tests.bench.paths import ROOT
from tests.bench.peer_task import GET_COUNT_KEY
from tests.bench.processes import MeasuredProcess
from tests.bench.server_cost import ServerCosts

_POLL_INTERVAL_S = 0.01
_TIMEOUT_S = 120.0


class BenchEnvironment:
    """The server, the upstream, an observing client, and a folder for logs."""

    def __init__(self, folder: Path, redis_url: str, redis: Redis) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.redis = redis
        self.upstream_url = ""
        self.concurrency = 32
        self.server_costs = ServerCosts(redis)
        self._processes: list[MeasuredProcess] = []

    def start(
        self, python: Path, arguments: Sequence[str], *, name: str, environ: Mapping[str, str] = {}
    ) -> MeasuredProcess:
        """Start a Python program with the addresses of server and upstream in its environment."""
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("ENRICHER_", "LAUNCHDARKLY_", "PYTHON"))
        }
        bench_variables = {
            "BENCH_REDIS": self.redis_url,
            "BENCH_UPSTREAM": self.upstream_url,
            "BENCH_CONCURRENCY": str(self.concurrency),
            "PYTHONPATH": str(ROOT),
        }
        process = MeasuredProcess(
            [python, *arguments],
            environ={**inherited, **bench_variables, **environ},
            log=self.folder / f"{name}.log",
        )
        self._processes.append(process)
        return process

    def stop(self, process: MeasuredProcess) -> None:
        """Stop one program."""
        process.kill()
        self._processes.remove(process)

    def stop_all_but_upstream(self) -> None:
        """Stop every program except the upstream, which was started first."""
        for process in self._processes[1:]:
            self.stop(process)

    def stop_all(self) -> None:
        """Stop every running program."""
        for process in [*self._processes]:
            self.stop(process)

    async def clear(self) -> None:
        """Delete all keys and truncate the append-only file."""
        await self.redis.flushall()

    async def wait_for_count(self, key: str, count: int, *, watch: MeasuredProcess) -> None:
        """Wait until a stream has this many entries, or a counter this value."""
        async with asyncio.timeout(_TIMEOUT_S):
            while await self.count(key) < count:
                watch.raise_if_ended()
                await asyncio.sleep(_POLL_INTERVAL_S)

    async def count(self, key: str) -> int:
        """Return the length of a stream, or the value of the counter."""
        if key == GET_COUNT_KEY:
            return int(await self.redis.get(key) or 0)
        return int(await self.redis.xlen(key))


@asynccontextmanager
async def open_bench_environment(folder: Path) -> AsyncIterator[BenchEnvironment]:
    """Start server and upstream, and stop all programs at the end."""
    async with EmbeddedServer(folder / "redis") as server:
        redis = open_client(server.url, reply_timeout_s=60)
        env = BenchEnvironment(folder, server.url, redis)
        try:
            arguments = ("-m", "tests.bench.upstream")
            upstream = env.start(Path(sys.executable), arguments, name="upstream")
            # A rewrite of the log starts at a random time and would distort a measurement.
            await redis.config_set("auto-aof-rewrite-percentage", 0)
            env.upstream_url = await upstream.wait_for_log("http://")
            yield env
        finally:
            env.stop_all()
            await redis.aclose()
