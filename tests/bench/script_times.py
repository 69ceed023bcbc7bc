"""The server time of each script in a namespace that holds a great deal.

Redis executes one script at a time, so the longest one is how long all others wait. The server
measures each call itself (SLOWLOG).
"""

import asyncio
import itertools
import math
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.mapping import Unmappable
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failed_tickets import MAX_BATCH, FailedTickets
from service.backlog.failures import FailureRecord, encode_failure
from service.backlog.refreshes import RefreshConfig, Refreshes
from service.backlog.ticket import (
    Lease,
    RefreshState,
    encode_attempted,
    new_ticket_bytes,
    ticket_from_event,
)
from service.console.live import OverviewReader
from service.console.search import Searcher
from service.enrich.budget import Budget, load_budget_prelude
from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from service.log import build_log
from service.metrics.namespace import NamespaceReader
from service.publish.entry import Entry
from service.publish.stream import OutputStream, RetentionConfig
from service.reconcile.checkpoint import Run, Runs
from service.reconcile.missed import MissedDeployment
from service.store.group_commit import GroupCommit, ScriptArgument, ScriptReply
from service.store.keys import Keys
from service.store.script import Script
from tests.bench.bench_env import BenchEnvironment
from tests.bench.response_bodies import deployment_id_for
from tests.bench.spread import Spread, measure_spread
from tests.factories import make_event

_DAY_MS = 86_400_000
_UNLIMITED = 100_000_000
_ENVIRONMENTS = 200
_CHUNK = 2000
_RECORD_BYTES = 400
_FAILED_RAW_BYTES = 400

_FILL_TICKETS = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local job = string.format('id:%012d', number)
  redis.call('HSET', KEYS[2], job, ARGV[4])
  redis.call('ZADD', KEYS[1], tonumber(ARGV[3]), job)
end
"""
_FILL_STREAM = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local id = redis.call('XADD', KEYS[1], '*', 'id', number .. ':1', 'data', ARGV[3])
  if number % 64 == 0 then
    redis.call('ZADD', KEYS[2], number, id)
  end
end
redis.call('HSET', KEYS[3], 'appended', ARGV[2])
"""
_FILL_FAILED = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local job = string.format('id:failed-%012d', number)
  redis.call('HSET', KEYS[2], job, ARGV[3])
  redis.call('ZADD', KEYS[1], tonumber(ARGV[4]) + 1000 * number, job)
end
"""


class Depths(Struct, frozen=True):
    """What the namespace holds."""

    tickets: int = 1_000_000
    entries: int = 1_000_000
    groups: int = 100
    failed: int = 100_000
    refreshes: int = 100_000

    def describe(self) -> str:
        """Return the depths as text."""
        return (
            f"{self.tickets:,} waiting, {self.entries:,} entries, {self.groups} reader groups, "
            f"{self.failed:,} failed"
        )


class ScriptTime(Struct, frozen=True):
    """The server time of one script, and how often it was called.

    A maximum is not the work of the script alone: the machine may give its CPU to others meanwhile.
    """

    name: str
    calls: int
    ms: Spread
    max_ms: float


class NamedScripts(GroupCommit):
    """A GroupCommit that remembers the names of the scripts it sent."""

    names: Mapping[str, str] = {}

    def submit(
        self,
        script: Script,
        *,
        keys: Sequence[str],
        args: Sequence[ScriptArgument],
        durable: bool = False,
        patient: bool = True,
        timeout_s: float = math.inf,  # noqa: ARG002 - nothing times out here
    ) -> asyncio.Future[ScriptReply]:
        """Send a call and remember the name of its script."""
        self.names = {**self.names, script.sha.decode(): script.name}
        return super().submit(
            script, keys=keys, args=args, durable=durable, patient=patient, timeout_s=math.inf
        )


class DeepNamespace:
    """A namespace filled to some depths, and every script call that the service makes."""

    def __init__(self, redis: Redis, group: NamedScripts, keys: Keys) -> None:
        self._redis: Any = redis
        self._group = group
        self._keys = keys
        self._numbers = itertools.count(10_000_000)
        config = BacklogConfig(
            lease_ms=_DAY_MS,
            delivery_ttl_ms=_DAY_MS,
            failed_ttl_ms=_DAY_MS,
            call_ttl_ms=_DAY_MS,
            max_tickets=_UNLIMITED,
            rate_limit_share=1.0,
        )
        budget_lua = load_budget_prelude()
        self._backlog = Backlog(
            group, keys=keys, config=config, budget_lua=budget_lua, new_token=self._new_token
        )
        self._failed = FailedTickets(redis, group, keys=keys, new_token=self._new_token)
        refresh_config = RefreshConfig(
            schedule=(_DAY_MS,), dedup_ttl_ms=_DAY_MS, rate_limit_share=1.0
        )
        self._refreshes = Refreshes(group, keys=keys, config=refresh_config, budget_lua=budget_lua)
        retention = RetentionConfig(
            dedup_ttl_ms=_DAY_MS, max_age_ms=_DAY_MS, idle_group_ms=_DAY_MS, max_records=0
        )
        self._output = OutputStream(group, keys=keys, retention=retention)
        self._budget = Budget(group, keys=keys, share=1.0, rng=random.Random(1).random)
        self._runs = Runs(group, keys=keys, new_token=self._new_token, ttl_ms=_DAY_MS)
        self._reader = NamespaceReader(group, keys=keys, share=1.0)
        self._searcher = Searcher(redis, group, keys=keys, clock=time.monotonic)
        self._overview = OverviewReader(
            group,
            keys=keys,
            read_stats=self._reader.read_stats,
            read_failed=self._failed.read,
            count_received=lambda: 0,
        )

    def _new_token(self) -> str:
        return f"{next(self._numbers):016d}"

    async def fill(self, depths: Depths) -> None:
        """Put tickets, records, groups, failed tickets and refreshes into the namespace."""
        await self._fill_tickets(depths.tickets)
        await self._fill_stream(depths.entries, depths.groups)
        await self._fill_failed(depths.failed)
        await self._fill_refreshes(depths.refreshes)

    async def _fill_tickets(self, count: int) -> None:
        """Add half of them in one environment, the others in many; a tenth are retries."""
        keys, size = self._keys, max(1, count // (2 * _ENVIRONMENTS))
        for nth, first in enumerate(range(0, count, size)):
            environment = "production" if nth % 2 else f"environment-{nth // 2}"
            event = make_event(nth, environment=environment)
            ticket = replace(ticket_from_event(event), attempts=int(nth % 10 == 9))
            job = f"id:{event.deployment_id}"
            stored = new_ticket_bytes(ticket, job=job, queued_at=int(time.time() * 1000))
            place = await self._read_place(event, is_retry=ticket.attempts > 0)
            last = min(first + size, count) - 1
            for start in range(first, last + 1, _CHUNK):
                end = min(start + _CHUNK - 1, last)
                await self._redis.eval(
                    _FILL_TICKETS, 2, keys.backlog, keys.tickets, start, end, place, stored
                )

    async def _read_place(self, event: Any, *, is_retry: bool) -> str:
        """Return the score that the service gives a ticket like this one."""
        await self._backlog.add(event)
        job = f"id:{event.deployment_id}"
        place = cast("float", await self._redis.zscore(self._keys.backlog, job))
        await self._redis.zrem(self._keys.backlog, job)
        await self._redis.hdel(self._keys.tickets, job)
        return f"{place + (2**51 if is_retry else 0):.0f}"

    async def _fill_stream(self, count: int, groups: int) -> None:
        keys, data = self._keys, "x" * _RECORD_BYTES
        for first in range(1, count + 1, _CHUNK):
            last = min(first + _CHUNK - 1, count)
            arguments = (keys.enriched, keys.milestones, keys.counts, first, last, data)
            await self._redis.eval(_FILL_STREAM, 3, *arguments)
        for number in range(groups):
            name = f"group-{number}"
            await self._redis.xgroup_create(keys.enriched, name, id="0")
            await self._redis.xreadgroup(name, "consumer", {keys.enriched: ">"}, count=number + 1)

    async def _fill_failed(self, count: int) -> None:
        """Add failed tickets, a tenth of them older than the retention."""
        keys = self._keys
        since = int(time.time() * 1000) - _DAY_MS - count // 10 * 1000
        event = make_event(1)
        failure = FailureRecord(
            reason="not_found", raw=b"x" * _FAILED_RAW_BYTES, ticket=ticket_from_event(event)
        )
        for first in range(0, count, _CHUNK):
            last = min(first + _CHUNK, count) - 1
            arguments = (keys.failed, keys.failed_data, first, last, encode_failure(failure), since)
            await self._redis.eval(_FILL_FAILED, 2, *arguments)
        await self._redis.hset(keys.counts, "failed:not_found", count)

    async def _fill_refreshes(self, count: int) -> None:
        ticket = replace(ticket_from_event(make_event(1)), refresh=RefreshState(0, 1))
        stored = new_ticket_bytes(ticket, job="id:x", queued_at=1)
        for first in range(0, count, _CHUNK):
            ids = [f"refresh-{number}" for number in range(first, min(first + _CHUNK, count))]
            await self._redis.zadd(self._keys.refreshes, dict.fromkeys(ids, 1))
            await self._redis.hset(self._keys.refresh_tickets, mapping=dict.fromkeys(ids, stored))

    async def open_window(self) -> None:
        """Open a rate-limit window with plenty of calls."""
        window = RateLimitWindow(
            family="global",
            limit=_UNLIMITED,
            remaining=_UNLIMITED,
            reset_ms=int(time.time() * 1000) + 100_000,
        )
        await self._budget.record("none", "ok", RateLimitHeaders(windows=(window,)))

    async def call_every_script(self) -> None:
        """Call every script once or more often, as the service does."""
        await self.open_window()
        acts: Sequence[Callable[[], Awaitable[object]]] = (
            self._add_and_park,
            self._work,
            self._settle_failures,
            self._reconcile,
            self._observe,
            self._output.trim,
        )
        for act in acts:
            await act()

    async def _add_and_park(self) -> None:
        for number in (next(self._numbers) for _ in range(3)):
            await self._backlog.add(make_event(number))
            await self._backlog.add(make_event(number, deployment_id=None))
            await self._backlog.add(make_event(number))
            event = Unmappable("no version", (), f"parked-{number}", b"{}")
            await self._backlog.park("github", event)

    async def _claim(self, limit: int, followers: int = 0) -> list[Lease]:
        claimed = await self._backlog.claim(limit, followers=followers)
        return [lease for lease in claimed.leases if isinstance(lease, Lease)]

    async def _work(self) -> None:
        leases = await self._claim(64, followers=1000)
        await self._backlog.renew([(lease.job, lease.fence) for lease in leases[:100]], 1)
        leases = [replace(lease, fence=lease.fence + 1) for lease in leases[:64]]
        await self._budget.acquire(leases[0].job, "get")
        await self._budget.record(leases[0].job, "ok", RateLimitHeaders())
        for lease in leases[:8]:
            ticket = replace(lease.ticket, attempts=1)
            encode_attempted(lease, ticket)
            await self._backlog.postpone(lease, ticket, delay_s=60)
        for lease in leases[8:16]:
            await self._backlog.fail(lease, FailureRecord(reason="not_found", ticket=lease.ticket))
        for lease in leases[16:]:
            entry = Entry(
                deployment_id_for(next(self._numbers)), "digest", ("type", "x"), (b"{}}",)
            )
            await self._output.append_and_settle(entry, lease)
        await self._refreshes.enqueue_due()

    async def _settle_failures(self) -> None:
        newest, _ = await self._failed.read_page(0, 2 * MAX_BATCH)
        await self._failed.retry(newest[:MAX_BATCH], {})
        await self._failed.drop(newest[MAX_BATCH:])
        oldest = await self._redis.zrange(self._keys.failed, 0, 19)
        await self._redis.zadd(self._keys.failed, dict.fromkeys(oldest, 1))
        await self._backlog.expire_failed()

    async def _reconcile(self) -> None:
        async with self._runs.hold("scope", interval_ms=0) as run:
            if isinstance(run, Run):
                missed = [
                    MissedDeployment(deployment_id_for(next(self._numbers)), "find:x", b"ticket")
                    for _ in range(100)
                ]
                await self._runs.queue_missed(run, missed)
                await self._runs.end(run, 1)

    async def _observe(self) -> None:
        await self._overview.read()
        await self._searcher.search("nothing has this text")


async def measure_scripts(
    env: BenchEnvironment, depths: Depths, *, rounds: int
) -> list[ScriptTime]:
    """Fill a namespace, call every script, and return their times, the longest first."""
    await env.clear()
    redis: Any = env.redis
    group = NamedScripts(
        env.redis, durability="memory", clock=time.monotonic, log=build_log(level="error")
    )
    namespace = DeepNamespace(env.redis, group, Keys("deep"))
    try:
        await redis.config_set("appendfsync", "no")  # the time of the disk is not measured
        await namespace.fill(depths)
        await redis.config_set("slowlog-max-len", 1_000_000)
        await redis.config_set("slowlog-log-slower-than", 0)
        await namespace.call_every_script()
        await redis.slowlog_reset()
        for _ in range(rounds):
            await namespace.call_every_script()
        entries = await redis.slowlog_get(1_000_000)
    finally:
        await redis.config_set("slowlog-log-slower-than", -1)
        await redis.config_set("appendfsync", "always")
        await group.aclose()
        await env.clear()
    times: dict[str, list[float]] = defaultdict(list)
    for entry in entries:
        command, *arguments = entry["command"].split(b" ", 2)
        if command == b"EVALSHA":
            times[group.names[arguments[0].decode()]].append(entry["duration"] / 1000)
    measured = [
        ScriptTime(name, len(values), measure_spread(values), max(values))
        for name, values in times.items()
    ]
    return sorted(measured, key=lambda script: -script.ms.median)
