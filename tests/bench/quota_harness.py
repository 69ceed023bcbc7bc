"""The environment of the quota benchmark: a Redis, a simulator and worker processes."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec
import structlog

from service.backlog.backlog import Backlog, BacklogConfig
from service.enrich.budget import load_budget_prelude
from service.simulate.options import Options
from service.simulate.stats import SimulatorStats
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.bench.quota_recipe import OUTPUT, QUEUE, READY_EVENT
from tests.bench.quota_scenarios import Scenario
from tests.bench.quota_share import DrainResult, build_drain_result
from tests.factories import make_event

WorkerKind = Literal["service", "recipe"]

KEYS = Keys("deployments")
LATENCY_MS = (20, 60)
CONCURRENCY = 32
_HOUR_MS = 3_600_000
_POLL_INTERVAL_S = 0.05
_STOP_TIMEOUT_S = 40.0


class QuotaProcess:
    """One worker or simulator process. Its log is read all the time, so that it never blocks."""

    def __init__(self, child: asyncio.subprocess.Process, until: str) -> None:
        self.child = child
        self._started: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._log_task = asyncio.create_task(self._read_log(until))

    async def _read_log(self, started_text: str) -> None:
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            if not self._started.done() and started_text.encode() in line:
                self._started.set_result(json.loads(line))
            elif b'"level":"error"' in line or b"Traceback" in line:
                sys.stderr.write(f"{line.decode()[-400:]}")

    async def wait_until_started(self) -> dict[str, str]:
        """Wait for the start line and return its fields."""
        async with asyncio.timeout(120):
            return await self._started

    async def stop(self) -> None:
        """Terminate the process and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            self.child.terminate()
        try:
            await asyncio.wait_for(self.child.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            self.child.kill()
        await self._log_task


async def start_module(*arguments: str, started_text: str, **environ: str) -> QuotaProcess:
    """Start a Python module of this checkout."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        env={**os.environ, "ENRICHER_LOG_FORMAT": "json", **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    return QuotaProcess(child, started_text)


class QuotaHarness:
    """A Redis and a simulator for the whole benchmark, with methods to run and measure workers."""

    def __init__(self, redis_url: str, upstream: str, session: aiohttp.ClientSession) -> None:
        self._redis_url = redis_url
        self._upstream = upstream
        self._session = session
        self._client = open_client(redis_url)
        self._window_ms = 0

    @contextlib.asynccontextmanager
    async def run_workers(self, kind: WorkerKind, count: int) -> AsyncIterator[None]:
        """Start the worker processes, and stop them at the end."""
        start_worker = self._start_service if kind == "service" else self._start_recipe
        processes = [await start_worker() for _ in range(count)]
        try:
            await asyncio.gather(*(process.wait_until_started() for process in processes))
            yield
        finally:
            await asyncio.gather(*(process.stop() for process in processes))

    async def _start_service(self) -> QuotaProcess:
        return await start_module(
            *("service", "work"),
            started_text="worker_started",
            ENRICHER_REDIS_URL=self._redis_url,
            ENRICHER_NAMESPACE=KEYS.namespace,
            ENRICHER_LAUNCHDARKLY_URL=self._upstream,
            ENRICHER_RATE_LIMIT_SHARE="1.0",
            ENRICHER_CONCURRENCY=str(CONCURRENCY),
            LAUNCHDARKLY_ACCESS_TOKEN=Options().token,
        )

    async def _start_recipe(self) -> QuotaProcess:
        return await start_module(
            "tests.bench.quota_recipe",
            started_text=READY_EVENT,
            RECIPE_REDIS_URL=self._redis_url,
            RECIPE_URL=self._upstream,
            RECIPE_CONCURRENCY=str(CONCURRENCY),
            RECIPE_TOKEN=Options().token,
        )

    async def drain(self, kind: WorkerKind, scenario: Scenario, seed: int) -> DrainResult:
        """Fill the backlog of one scenario and wait until the workers have drained it."""
        await self._reset(scenario, seed)
        rng = random.Random(seed)
        deployment_ids = [
            str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(scenario.tickets)
        ]
        started_s = time.monotonic()
        if kind == "service":
            await self._enqueue(deployment_ids)
        else:
            await self._client.rpush(QUEUE, *deployment_ids)
        timeout_s = 20 + 3 * (scenario.windows + 1) * scenario.limits.window_ms / 1000
        stream = KEYS.enriched if kind == "service" else OUTPUT
        drained = await self._wait_for_records(stream, len(deployment_ids), timeout_s)
        took_s = time.monotonic() - started_s
        stats = await self._read_stats()
        return build_drain_result(stats, scenario.limits, drained=drained, took_s=took_s)

    async def _reset(self, scenario: Scenario, seed: int) -> None:
        """Empty Redis and wait for the end of the last window."""
        last_opened_at = max(
            (window.opened_at for window in (await self._read_stats()).windows), default=0
        )
        await self._client.flushall()
        options = {
            "quota": msgspec.to_builtins(scenario.limits),
            "latency_ms": LATENCY_MS,
            "seed": seed,
        }
        async with self._session.post("/simulator/options", json=options) as response:
            assert response.ok, await response.text()
        await asyncio.sleep(max(0.0, (last_opened_at + self._window_ms) / 1000 - time.time()))
        self._window_ms = scenario.limits.window_ms
        async with self._session.post("/simulator/reset") as response:
            assert response.ok

    async def _enqueue(self, deployment_ids: list[str]) -> None:
        """Add tickets, as the receiver does."""
        group = GroupCommit(
            self._client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        config = BacklogConfig(
            lease_ms=_HOUR_MS,
            delivery_ttl_ms=_HOUR_MS,
            failed_ttl_ms=_HOUR_MS,
            call_ttl_ms=_HOUR_MS,
            max_tickets=10**6,
            rate_limit_share=1.0,
        )
        numbers = itertools.count()
        backlog = Backlog(
            group,
            keys=KEYS,
            config=config,
            budget_lua=load_budget_prelude(),
            new_token=lambda: str(next(numbers)),
        )
        await asyncio.gather(
            *(
                backlog.add(make_event(delivery=name, deployment_id=name, version=name[:7]))
                for name in deployment_ids
            )
        )
        await group.aclose()

    async def _wait_for_records(self, stream: str, count: int, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while await self._client.xlen(stream) < count:
                    await asyncio.sleep(_POLL_INTERVAL_S)
                return True
        return False

    async def _read_stats(self) -> SimulatorStats:
        async with self._session.get("/simulator/stats") as response:
            return msgspec.json.decode(await response.read(), type=SimulatorStats)

    async def aclose(self) -> None:
        """Close the Redis client."""
        await self._client.aclose()


@contextlib.asynccontextmanager
async def open_harness() -> AsyncIterator[QuotaHarness]:
    """Start Redis and the simulator as processes of their own."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-quota-") as folder,
        EmbeddedServer(Path(folder)) as server,
    ):
        simulator = await start_module(
            "service", "simulate", "--port", "0", started_text="simulator_started"
        )
        try:
            upstream = (await simulator.wait_until_started())["url"]
            async with aiohttp.ClientSession(upstream) as session:
                system = QuotaHarness(server.url, upstream, session)
                yield system
                await system.aclose()
        finally:
            await simulator.stop()
