"""Where is the quota measured? One Redis, one simulated LaunchDarkly, and worker processes."""

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

from service.accept.events import DeploymentCompleted
from service.backlog.backlog import Backlog, Terms
from service.enrich.budget import load_room
from service.simulate.options import Options
from service.simulate.tally import Stats
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group import GroupCommit
from service.store.keys import Keys
from tests.bench.quota_recipe import OUTPUT, QUEUE, READY
from tests.bench.quota_scenarios import Scenario
from tests.bench.quota_share import Run, sum_up

Kind = Literal["ours", "recipe"]

KEYS = Keys("deployments")
LATENCY_MS = (20, 60)
CONCURRENCY = 32
_HOUR_MS = 3_600_000
_LOOK_S = 0.05
_GOODBYE_S = 40.0


class Process:
    """One program of ours; what it writes is read, so that it never waits for a reader."""

    def __init__(self, child: asyncio.subprocess.Process, until: str) -> None:
        self.child = child
        self._started: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(until))

    async def _read(self, until: str) -> None:
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            if not self._started.done() and until.encode() in line:
                self._started.set_result(json.loads(line))
            elif b'"level":"error"' in line or b"Traceback" in line:
                sys.stderr.write(f"{line.decode()[-400:]}")

    async def wait_until_started(self) -> dict[str, str]:
        """Wait for the line that says so, and give its facts."""
        async with asyncio.timeout(120):
            return await self._started

    async def end(self) -> None:
        """Ask it to end, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            self.child.terminate()
        try:
            await asyncio.wait_for(self.child.wait(), _GOODBYE_S)
        except TimeoutError:
            self.child.kill()
        await self._reading


async def start(*words: str, until: str, **environ: str) -> Process:
    """Start a Python module of this checkout."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words),
        env={**os.environ, "ENRICHER_LOG_FORMAT": "json", **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    return Process(child, until)


class Plant:
    """What stays up for the whole benchmark: Redis, the upstream, and hands for both."""

    def __init__(self, redis_url: str, upstream: str, session: aiohttp.ClientSession) -> None:
        self._redis_url = redis_url
        self._upstream = upstream
        self._session = session
        self._client = open_client(redis_url)
        self._window_ms = 0

    @contextlib.asynccontextmanager
    async def workers(self, kind: Kind, count: int) -> AsyncIterator[None]:
        """Start so many worker processes, and end them."""
        starting = self._start_ours if kind == "ours" else self._start_recipe
        processes = [await starting() for _ in range(count)]
        try:
            await asyncio.gather(*(each.wait_until_started() for each in processes))
            yield
        finally:
            await asyncio.gather(*(each.end() for each in processes))

    async def _start_ours(self) -> Process:
        return await start(
            *("service", "work"),
            until="worker_started",
            ENRICHER_REDIS_URL=self._redis_url,
            ENRICHER_NAMESPACE=KEYS.namespace,
            ENRICHER_LAUNCHDARKLY_URL=self._upstream,
            ENRICHER_RATE_SHARE="1.0",
            ENRICHER_CONCURRENCY=str(CONCURRENCY),
            LAUNCHDARKLY_ACCESS_TOKEN=Options().token,
        )

    async def _start_recipe(self) -> Process:
        return await start(
            "tests.bench.quota_recipe",
            until=READY,
            RECIPE_REDIS_URL=self._redis_url,
            RECIPE_URL=self._upstream,
            RECIPE_CONCURRENCY=str(CONCURRENCY),
            RECIPE_TOKEN=Options().token,
        )

    async def drain(self, kind: Kind, scenario: Scenario, seed: int) -> Run:
        """Give the workers one scenario's backlog, and wait until it is empty."""
        await self._set_up(scenario, seed)
        chance = random.Random(seed)
        names = [
            str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(scenario.tickets)
        ]
        since = time.monotonic()
        if kind == "ours":
            await self._add(names)
        else:
            await self._client.rpush(QUEUE, *names)
        longest_s = 20 + 3 * (scenario.windows + 1) * scenario.limits.window_ms / 1000
        stream = KEYS.enriched if kind == "ours" else OUTPUT
        drained = await self._wait_for(stream, len(names), longest_s)
        took_s = time.monotonic() - since
        stats = await self._read_stats()
        return sum_up(stats, scenario.limits, drained=drained, took_s=took_s)

    async def _set_up(self, scenario: Scenario, seed: int) -> None:
        """Forget the run before: Redis is emptied, and the last window passes."""
        before = max((each.opened_at for each in (await self._read_stats()).windows), default=0)
        await self._client.flushall()
        changes = {
            "quota": msgspec.to_builtins(scenario.limits),
            "latency_ms": LATENCY_MS,
            "seed": seed,
        }
        async with self._session.post("/simulator/options", json=changes) as response:
            assert response.ok, await response.text()
        await asyncio.sleep(max(0.0, (before + self._window_ms) / 1000 - time.time()))
        self._window_ms = scenario.limits.window_ms
        async with self._session.post("/simulator/reset") as response:
            assert response.ok

    async def _add(self, names: list[str]) -> None:
        """Let deployments wait, as the door does."""
        group = GroupCommit(
            self._client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        terms = Terms(
            lease_ms=_HOUR_MS,
            mark_ms=_HOUR_MS,
            failed_ms=_HOUR_MS,
            call_ms=_HOUR_MS,
            limit=10**6,
            share=1.0,
        )
        numbers = itertools.count()
        backlog = Backlog(
            group, keys=KEYS, terms=terms, room=load_room(), new_token=lambda: str(next(numbers))
        )
        await asyncio.gather(*(backlog.add(write_event(name)) for name in names))
        await group.aclose()

    async def _wait_for(self, stream: str, count: int, longest_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                while await self._client.xlen(stream) < count:
                    await asyncio.sleep(_LOOK_S)
                return True
        return False

    async def _read_stats(self) -> Stats:
        async with self._session.get("/simulator/stats") as response:
            return msgspec.json.decode(await response.read(), type=Stats)

    async def aclose(self) -> None:
        """Let go of Redis."""
        await self._client.aclose()


@contextlib.asynccontextmanager
async def open_plant() -> AsyncIterator[Plant]:
    """Start Redis and the upstream, each a process of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-quota-") as home,
        EmbeddedServer(Path(home)) as server,
    ):
        simulator = await start("service", "simulate", "--port", "0", until="simulator_opened")
        try:
            upstream = (await simulator.wait_until_started())["url"]
            async with aiohttp.ClientSession(upstream) as session:
                plant = Plant(server.url, upstream, session)
                yield plant
                await plant.aclose()
        finally:
            await simulator.end()


def write_event(name: str) -> DeploymentCompleted:
    """Write the event of one deployment whose id is known: it costs one call."""
    return DeploymentCompleted(
        source="native",
        delivery=name,
        project="default",
        environment="production",
        application="shop",
        version=name[:7],
        deployment_id=name,
        outcome="succeeded",
        event_time=None,
        metadata=msgspec.Raw(b"{}"),
        metadata_dropped=False,
        traceparent=None,
    )
