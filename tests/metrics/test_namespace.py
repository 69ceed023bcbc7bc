"""Tests of the namespace's state: right numbers, at a cost that does not grow with the backlog."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from service.accept.mapping import Unmappable
from service.backlog.backlog import Backlog
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.metrics.counters import Metrics
from service.metrics.http import Exposition, serve_app
from service.metrics.namespace import NamespaceReader
from service.publish.entry import Entry
from service.publish.stream import OutputStream, RetentionConfig
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.factories import deployment_id, make_event
from tests.metrics.prometheus_text import scrape

MINUTE_MS = 60_000


@pytest.fixture
def namespace_reader(group_commit: GroupCommit, keys: Keys) -> NamespaceReader:
    """Return a reader for a service that may use half of each limit."""
    return NamespaceReader(group_commit, keys=keys, share=0.5)


@pytest.fixture
def output_stream(group_commit: GroupCommit, keys: Keys) -> OutputStream:
    """Return an output stream that keeps everything for a minute."""
    return OutputStream(group_commit, keys=keys, retention=RetentionConfig(MINUTE_MS, MINUTE_MS))


async def redis_now_ms(redis: Redis) -> int:
    """Return Redis's time in ms."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    """Return the counts that are not 0."""
    return {name: count for name, count in counts.items() if count}


async def publish_records(backlog: Backlog, output: OutputStream, count: int) -> None:
    """Publish a number of records, as workers do."""
    for number in range(count):
        await backlog.add(make_event(number))
    for _ in range(count):
        (lease,) = (await backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        entry = Entry(lease.job, "digest", (), (b"}",), complete=True)
        assert (await output.append_and_settle(entry, lease)).status == "published"


async def test_empty_namespace_has_no_work_and_calls_left(
    namespace_reader: NamespaceReader, redis: Redis, keys: Keys
) -> None:
    """The read writes a probe that expires by itself."""
    stats = await namespace_reader.read_stats()
    assert (stats.backlog, stats.failed_total, stats.records) == (0, 0, 0)
    assert (stats.closed_s, stats.next_call_in_s, stats.closed_reason) == (0, 0, "")
    assert stats.calls_left["list"] > 0
    assert 0 < await redis.pttl(keys.write_probe) <= 1000


async def test_each_claim_says_that_a_worker_lives(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Also one that finds nothing, at most once per second, in a key that expires by itself."""
    assert (await namespace_reader.read_stats()).claimed_s is None
    await backlog.claim(1)
    claimed_s = (await namespace_reader.read_stats()).claimed_s
    assert claimed_s is not None
    assert 0 <= claimed_s < 30
    assert await redis.pttl(keys.turns) > 0
    await redis.hset(keys.turns, "claimed_at", str(await redis_now_ms(redis) - 60_000))
    claimed_s = (await namespace_reader.read_stats()).claimed_s
    assert claimed_s is not None
    assert claimed_s >= 60
    await backlog.claim(1)
    stats = await namespace_reader.read_stats()
    assert stats.claimed_s is not None
    assert stats.claimed_s < 60


async def test_tickets_are_counted_as_due_leased_or_waiting(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Each of three tickets is counted in its state; ages are measured by Redis's clock."""
    for number in range(3):
        await backlog.add(make_event(number))
    stats = await namespace_reader.read_stats()
    assert (stats.backlog, stats.due, stats.leased) == (3, 3, 0)
    first, _ = (await backlog.claim(2, followers=0)).leases
    assert isinstance(first, Lease)
    stats = await namespace_reader.read_stats()
    assert (stats.backlog, stats.due, stats.leased) == (3, 1, 2)
    await backlog.postpone(first, first.ticket, delay_s=60.0)
    stats = await namespace_reader.read_stats()
    assert (stats.backlog, stats.due, stats.leased) == (3, 1, 1)
    assert stats.oldest_age_s < 50

    await redis.zadd(keys.backlog, {f"id:{deployment_id(2)}": await redis_now_ms(redis) - 50_000})
    stats = await namespace_reader.read_stats()
    assert 50 <= stats.overdue_s < 60
    await redis.delete(keys.backlog, keys.tickets)


async def test_lease_without_a_ticket_is_not_counted_after_the_next_claim(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A dead worker's lease is counted until a claim takes it over or finds no ticket."""
    for number in range(2):
        await backlog.add(make_event(number))
    await backlog.claim(2)
    await redis.hdel(keys.tickets, f"id:{deployment_id(0)}")
    for number in range(2):
        await redis.zincrby(keys.backlog, -MINUTE_MS, f"id:{deployment_id(number)}")
    assert (await namespace_reader.read_stats()).leased == 2
    assert len((await backlog.claim(2)).leases) == 1
    stats = await namespace_reader.read_stats()
    assert (stats.backlog, stats.leased) == (1, 1)
    await redis.delete(keys.backlog, keys.tickets)


async def test_oldest_age_is_that_of_the_webhook(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A postponed ticket is as old as its webhook; an unreadable ticket is skipped."""
    await backlog.add(make_event(1))
    stored: Any = await redis.hget(keys.tickets, f"id:{deployment_id(1)}")
    old = struct.pack(">IHd", 1, 0, await redis_now_ms(redis) - 120_000) + stored[14:]
    await redis.hset(keys.tickets, mapping={f"id:{deployment_id(1)}": old, "broken": b"x"})
    await redis.zadd(keys.backlog, {"broken": 1})
    assert 120 <= (await namespace_reader.read_stats()).oldest_age_s < 130
    await redis.delete(keys.backlog, keys.tickets)


async def test_failed_tickets_are_counted_by_reason(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """An unknown reason counts as ``other``; a ticket that is retried is no longer counted."""
    for number, reason in enumerate(["not_found", "not_found", "a reason of yours"]):
        await backlog.add(make_event(number))
        (lease,) = (await backlog.claim(1, followers=0)).leases
        failure = FailureRecord(reason=reason, raw=b"\xc1\x00", fence=lease.fence)
        assert await backlog.fail(lease, failure) == "failed"
    for _ in range(2):  # the second time without its mark: still one failed ticket
        await backlog.park("native", Unmappable("no version", (), "delivery-9", b"{}"))
        await redis.delete(keys.delivery("native", "delivery-9"))
    stats = await namespace_reader.read_stats()
    assert nonzero(stats.failed) == {"not_found": 2, "unmappable": 1, "other": 1}
    assert stats.failed_total == 4

    await backlog.add(make_event(0))
    stats = await namespace_reader.read_stats()
    assert nonzero(stats.failed) == {"not_found": 1, "unmappable": 1, "other": 1}
    await redis.delete(keys.backlog, keys.tickets)


@pytest.mark.parametrize("behind", [0, 1, 63, 64, 65, 150])
async def test_lag_of_the_slowest_group_is_exact(
    namespace_reader: NamespaceReader,
    backlog: Backlog,
    output_stream: OutputStream,
    redis: Redis,
    keys: Keys,
    behind: int,
) -> None:
    """The lag is exact at any distance, also when earlier records are trimmed."""
    await publish_records(backlog, output_stream, 150)
    await redis.xgroup_create(keys.enriched, "slow", "0")
    await redis.xgroup_create(keys.enriched, "fast", "$")
    stats = await namespace_reader.read_stats()
    assert (stats.records, stats.reader_groups, stats.lag_records) == (150, 2, 150)
    if behind < 150:
        await redis.xreadgroup("slow", "me", {keys.enriched: ">"}, 150 - behind, noack=True)
    assert (await namespace_reader.read_stats()).lag_records == behind
    await redis.xtrim(keys.enriched, maxlen=max(behind, 1), approximate=False)
    await output_stream.trim()
    assert (await namespace_reader.read_stats()).lag_records == behind


async def test_many_groups_cost_no_more_reads_of_records_than_one(
    namespace_reader: NamespaceReader,
    backlog: Backlog,
    output_stream: OutputStream,
    redis: Redis,
    keys: Keys,
) -> None:
    """The lag is that of the slowest group, wherever the others are."""

    async def count_reads() -> int:
        stats = await redis.info("commandstats")
        return int(stats.get("cmdstat_xrange", {"calls": 0})["calls"])

    await publish_records(backlog, output_stream, 80)
    for number in range(50):
        await redis.xgroup_create(keys.enriched, f"group-{number}", "0")
        if number != 30:
            await redis.xreadgroup(f"group-{number}", "me", {keys.enriched: ">"}, 20 + number)
    before = await count_reads()
    assert (await namespace_reader.read_stats()).lag_records == 80
    assert await count_reads() - before < 12


async def test_lag_in_large_records_is_known_without_reading_all_of_them(
    namespace_reader: NamespaceReader, redis: Redis, keys: Keys
) -> None:
    """After some data the estimate of Redis is taken."""
    for _ in range(40):
        await redis.xadd(keys.enriched, {"data": b"x" * 100_000})
    await redis.hset(keys.counts, "appended", 40)
    await redis.xgroup_create(keys.enriched, "slow", "0")
    await redis.xreadgroup("slow", "me", {keys.enriched: ">"}, 5, noack=True)
    assert (await namespace_reader.read_stats()).lag_records == 35


async def test_lag_after_a_deleted_record_is_known(
    namespace_reader: NamespaceReader,
    backlog: Backlog,
    output_stream: OutputStream,
    redis: Redis,
    keys: Keys,
) -> None:
    """XINFO reports no lag once an unread record was deleted."""
    await publish_records(backlog, output_stream, 5)
    await redis.xgroup_create(keys.enriched, "slow", "0")
    entries: Any = await redis.xrange(keys.enriched)
    await redis.xdel(keys.enriched, entries[2][0])
    (group,) = await redis.xinfo_groups(keys.enriched)
    assert group["lag"] is None
    assert (await namespace_reader.read_stats()).lag_records == 4


async def test_lag_seconds_is_the_age_of_the_oldest_unacknowledged_record(
    namespace_reader: NamespaceReader, redis: Redis, keys: Keys
) -> None:
    """A record that was delivered and not acknowledged counts as unread."""
    now = await redis_now_ms(redis)
    for age in (90_000, 30_000):
        await redis.xadd(keys.enriched, {"id": "x"}, id=f"{now - age}-0")
    assert (await namespace_reader.read_stats()).lag_s == 0
    await redis.xgroup_create(keys.enriched, "group", "0")
    assert 90 <= (await namespace_reader.read_stats()).lag_s < 100
    entries: Any = await redis.xrange(keys.enriched)
    (first, _), (second, _) = entries
    await redis.xreadgroup("group", "me", {keys.enriched: ">"})
    assert 90 <= (await namespace_reader.read_stats()).lag_s < 100
    await redis.xack(keys.enriched, "group", first)
    assert 30 <= (await namespace_reader.read_stats()).lag_s < 40
    await redis.xack(keys.enriched, "group", second)
    assert (await namespace_reader.read_stats()).lag_s == 0


async def test_budget_has_calls_left_by_route_and_why_it_is_closed(
    namespace_reader: NamespaceReader, redis: Redis, keys: Keys
) -> None:
    """The limit less the share of others, less the calls in flight; then the closed budget."""
    soon = await redis_now_ms(redis) + 5000
    await redis.hset(keys.budget, mapping={"global": f"20 14 {soon} reported"})
    await redis.zadd(keys.budget_calls, {"in flight": soon})
    stats = await namespace_reader.read_stats()
    assert (stats.calls_left, stats.in_flight) == ({"get": 3, "list": 3}, 1)
    await redis.hset(keys.budget, "global", f"20 10 {soon} reported")
    stats = await namespace_reader.read_stats()
    assert stats.calls_left["list"] == 0
    assert 0 < stats.next_call_in_s <= 5.1
    assert stats.closed_s == 0
    await redis.hset(keys.budget, mapping={"closed_until": soon, "closed_reason": "token refused"})
    stats = await namespace_reader.read_stats()
    assert 0 < stats.closed_s <= 5
    assert (stats.closed_reason, stats.calls_left) == ("token refused", {"get": 0, "list": 0})
    await redis.delete(keys.budget, keys.budget_calls)


async def test_running_leases_exclude_those_that_ended(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """``leased`` still counts the leases of a dead worker; ``running_leases`` does not."""
    for number in range(3):
        await backlog.add(make_event(number))
    await backlog.claim(2, followers=0)
    stats = await namespace_reader.read_stats()
    assert (stats.leased, stats.running_leases) == (2, 2)
    for number in range(3):
        await redis.zincrby(keys.backlog, -MINUTE_MS, f"id:{deployment_id(number)}")
    stats = await namespace_reader.read_stats()
    assert (stats.leased, stats.running_leases) == (2, 0)
    await redis.delete(keys.backlog, keys.tickets)


async def count_commands(redis: Redis, namespace_reader: NamespaceReader) -> dict[str, int]:
    """Return how often one read calls each command."""
    await redis.config_resetstat()
    await namespace_reader.read_stats()
    stats: Any = await redis.info("commandstats")
    ignored = {
        "set",  # the clock, once per second
        "ping",
        "info",
        "config|resetstat",
        "hello",
        "client|setinfo",
        "script|load",
        "evalsha",
    }
    return {
        name.removeprefix("cmdstat_"): command_stats["calls"]
        for name, command_stats in stats.items()
        if name.removeprefix("cmdstat_") not in ignored
    }


async def test_read_stats_costs_the_same_for_any_backlog(
    namespace_reader: NamespaceReader, redis: Redis, keys: Keys
) -> None:
    """A read runs as many commands at 30,000 tickets as at 100, and none that scans."""
    await namespace_reader.read_stats()

    async def fill(count: int) -> None:
        for first in range(0, count, 1000):
            numbers = range(first, first + min(count, 1000))
            pipe = redis.pipeline(transaction=False)
            pipe.zadd(keys.backlog, {str(number): number for number in numbers})
            pipe.hset(keys.tickets, mapping={str(number): b"x" * 60 for number in numbers})
            pipe.zadd(keys.failed, {str(number): number for number in numbers})
            for number in numbers:
                pipe.xadd(keys.enriched, {"id": "x"}, id=f"{number + 1}-1")
            await pipe.execute()

    await fill(100)
    await redis.xgroup_create(keys.enriched, "slow", "0")
    few = await count_commands(redis, namespace_reader)
    await redis.delete(keys.enriched)
    await fill(30_000)
    await redis.xgroup_create(keys.enriched, "slow", "0")
    many = await count_commands(redis, namespace_reader)
    assert (await namespace_reader.read_stats()).backlog == 30_000
    assert many == few
    assert few.keys().isdisjoint({"zrangebyscore", "hvals", "hkeys", "hscan", "zscan", "scan"})
    await redis.delete(keys.backlog, keys.tickets)


@pytest.fixture
async def unreachable_group_commit() -> AsyncIterator[GroupCommit]:
    """Return a connection to a Redis that does not exist."""
    client = open_client("unix:///nowhere/redis.sock")
    clock = asyncio.get_running_loop().time
    group_commit = GroupCommit(client, durability="fsync", clock=clock, log=structlog.get_logger())
    yield group_commit
    await group_commit.aclose()
    await client.aclose()


async def test_metrics_without_redis_have_counters_and_no_gauges(
    unreachable_group_commit: GroupCommit, keys: Keys
) -> None:
    """The counters of the process stay; of the namespace only ``redis_up 0`` is exposed."""
    metrics = Metrics(CollectorRegistry())
    metrics.published.inc()
    app = web.Application()
    Exposition(
        metrics.registry, NamespaceReader(unreachable_group_commit, keys=keys, share=1.0).read_stats
    ).add_metrics_route(app)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        page = await scrape(url)
    assert (page.value("redis_up"), page.value("records_published_total")) == (0, 1)
    assert not [name for name in page.samples if "backlog" in name or "budget" in name]
