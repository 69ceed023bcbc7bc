"""The cost of a deep backlog: of one claim and settlement, and of one waiting ticket."""

import asyncio
import time
from collections.abc import Iterable

from msgspec import Struct

from service.app import Runtime, open_runtime
from service.backlog.ticket import Lease
from service.enrich.budget import Budget
from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from service.log import build_log
from service.publish.entry import Entry
from service.publish.stream import OutputStream, RetentionConfig
from service.settings import Secret, Settings
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import bench_event, enqueue_event

BATCH = 32
BATCHES = 20
_CHUNK = 512
_UNLIMITED = 10_000_000
_DAY_MS = 86_400_000


class TicketCost(Struct, frozen=True):
    """The cost of one ticket in microseconds: of server time, and of elapsed time."""

    server_us: float
    wall_us: float


class TicketMemory(Struct, frozen=True):
    """The Redis memory of one ticket in bytes: alone, and with its delivery mark."""

    ticket_bytes: float
    total_bytes: float


class BacklogBench:
    """A backlog in one namespace, with methods to fill and to measure it."""

    def __init__(self, env: BenchEnvironment, runtime: Runtime) -> None:
        self._env = env
        self._runtime = runtime
        self._output = OutputStream(
            runtime.group_commit,
            keys=runtime.keys,
            retention=RetentionConfig(dedup_ttl_ms=_DAY_MS, max_age_ms=_DAY_MS),
        )
        self._budget = Budget(runtime.group_commit, keys=runtime.keys, share=1.0, rng=lambda: 0.5)
        self._next = 0
        self._initial_bytes = 0

    async def record_initial_memory(self) -> None:
        """Record the memory of the server before any ticket is added."""
        self._initial_bytes = await self._read_used_memory()

    async def fill(self, count: int) -> None:
        """Add this many tickets, as the receiver does."""
        for start in range(self._next, self._next + count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, self._next + count))
            events = [bench_event(number, "default", with_id=True) for number in chunk]
            await asyncio.gather(*(enqueue_event(self._runtime, event) for event in events))
        self._next += count

    async def measure_batches(self) -> TicketCost:
        """Measure the claim and settlement of some batches, then add as many tickets again."""
        await self._open_rate_limit_window()
        server_us_before, started_s = await self._read_server_us(), time.perf_counter()
        for _ in range(BATCHES):
            claimed = await self._runtime.backlog.claim(BATCH)
            leases = [lease for lease in claimed.leases if isinstance(lease, Lease)]
            if len(leases) != BATCH:
                raise RuntimeError(f"claimed {len(leases)} of {BATCH}")
            settlements = [
                self._output.append_and_settle(_build_entry(lease), lease) for lease in leases
            ]
            if {result.status for result in await asyncio.gather(*settlements)} != {"published"}:
                raise RuntimeError("a ticket was not settled")
        wall_s = time.perf_counter() - started_s
        server_us = await self._read_server_us() - server_us_before
        count = BATCH * BATCHES
        await self.fill(count)
        return TicketCost(server_us / count, wall_s * 1e6 / count)

    async def measure_memory(self) -> TicketMemory:
        """Return the bytes of one waiting ticket."""
        redis, keys = self._env.redis, self._runtime.keys
        count = await redis.zcard(keys.backlog)
        sizes = [await redis.memory_usage(key, samples=0) for key in (keys.backlog, keys.tickets)]
        used_bytes = await self._read_used_memory() - self._initial_bytes
        return TicketMemory(sum(size or 0 for size in sizes) / count, used_bytes / count)

    async def _read_used_memory(self) -> int:
        return int((await self._env.redis.info("memory"))["used_memory"])

    async def _open_rate_limit_window(self) -> None:
        """Open a window with plenty of calls: this benchmark does not measure calls."""
        reset_ms = int(time.time() * 1000) + 60_000
        window = RateLimitWindow(
            family="global", limit=_UNLIMITED, remaining=_UNLIMITED, reset_ms=reset_ms
        )
        await self._budget.record("none", "ok", RateLimitHeaders(windows=(window,)))

    async def _read_server_us(self) -> int:
        stats = await self._env.redis.info("commandstats")
        return int(stats["cmdstat_evalsha"]["usec"])


def _build_entry(lease: Lease) -> Entry:
    """Return a small entry: the size of a record does not depend on the depth."""
    deployment_id = lease.ticket.deployment_id or ""
    data = b'"deployment":{}}'
    return Entry(
        deployment_id, "digest", ("type", "deployment.enriched.v1"), (data,), complete=True
    )


async def measure_depths(
    env: BenchEnvironment, depths: tuple[int, int], rounds: Iterable[int]
) -> tuple[list[list[TicketCost]], list[TicketMemory]]:
    """Fill two namespaces on one server and measure them alternately."""
    await env.clear()
    samples: list[list[TicketCost]] = [[], []]
    memories: list[TicketMemory] = []
    settings = [
        Settings(
            redis_url=Secret(env.redis_url), namespace=f"deep{depth}", backlog_limit=_UNLIMITED
        )
        for depth in depths
    ]
    log = build_log(level="error")
    async with (
        open_runtime(settings[0], log) as first_runtime,
        open_runtime(settings[1], log) as second_runtime,
    ):
        backlogs = [BacklogBench(env, first_runtime), BacklogBench(env, second_runtime)]
        for backlog, depth in zip(backlogs, depths, strict=True):
            await backlog.record_initial_memory()
            await backlog.fill(depth)
            memories.append(await backlog.measure_memory())
        for _ in rounds:
            for backlog, costs in zip(backlogs, samples, strict=True):
                costs.append(await backlog.measure_batches())
    await env.clear()
    return samples, memories
