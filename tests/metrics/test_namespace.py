"""Does a survey tell the truth about the namespace, at a cost that does not grow with it?"""

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
from service.metrics.namespace import NamespaceReader, NamespaceStats
from service.publish.entry import Entry
from service.publish.stream import OutputStream, RetentionConfig
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.metrics.prometheus_text import scrape
from tests.test_worker import make_event

LONG_MS = 60_000


@pytest.fixture
def namespace_reader(group_commit: GroupCommit, keys: Keys) -> NamespaceReader:
    """Give a surveyor of which half of each limit is ours."""
    return NamespaceReader(group_commit, keys=keys, share=0.5)


@pytest.fixture
def output_stream(group_commit: GroupCommit, keys: Keys) -> OutputStream:
    """Give the output, of which everything is kept for a minute."""
    return OutputStream(group_commit, keys=keys, retention=RetentionConfig(LONG_MS, LONG_MS))


async def read_namespace_stats(surveyor: NamespaceReader) -> NamespaceStats:
    """Survey a Redis that is there."""
    survey = await surveyor.read_stats()
    assert survey is not None
    return survey


async def redis_now_ms(redis: Redis) -> int:
    """Give the server's clock, the only one that counts."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def publish_records(backlog: Backlog, output: OutputStream, count: int) -> None:
    """Append so many records, as workers do."""
    for number in range(count):
        await backlog.add(make_event(number))
    for _ in range(count):
        (lease,) = (await backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        entry = Entry(lease.job, "digest", (), b"}", complete=True)
        assert (await output.append_and_settle(entry, lease)).status == "published"


async def test_tickets_are_due_or_leased_or_wait(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Each of three is counted where it is; the ages are those of Redis's clock."""
    for number in range(3):
        await backlog.add(make_event(number))
    told = await read_namespace_stats(namespace_reader)
    assert (told.backlog, told.due, told.leased) == (3, 3, 0)
    first, _ = (await backlog.claim(2, followers=0)).leases
    assert isinstance(first, Lease)
    told = await read_namespace_stats(namespace_reader)
    assert (told.backlog, told.due, told.leased) == (3, 1, 2)
    await backlog.postpone(first, first.ticket, delay_s=60.0)
    told = await read_namespace_stats(namespace_reader)
    assert (told.backlog, told.due, told.leased) == (3, 1, 1)
    assert told.oldest_age_s < 50

    await redis.zadd(keys.backlog, {"id:deployment-2": await redis_now_ms(redis) - 50_000})
    told = await read_namespace_stats(namespace_reader)
    assert 50 <= told.overdue_s < 60
    await redis.delete(keys.backlog, keys.tickets)


async def test_a_lease_without_a_ticket_is_forgotten(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The dead's lease is counted until it is taken over, or its job proves to be nothing."""
    for number in range(2):
        await backlog.add(make_event(number))
    await backlog.claim(2)
    await redis.hdel(keys.tickets, "id:deployment-0")
    for number in range(2):
        await redis.zincrby(keys.backlog, -LONG_MS, f"id:deployment-{number}")
    assert (await read_namespace_stats(namespace_reader)).leased == 2
    assert len((await backlog.claim(2)).leases) == 1
    told = await read_namespace_stats(namespace_reader)
    assert (told.backlog, told.leased) == (1, 1)
    await redis.delete(keys.backlog, keys.tickets)


async def test_the_oldest_is_told_by_when_its_webhook_came(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A ticket put back again and again is as old as its webhook; what cannot be read is not."""
    await backlog.add(make_event(1))
    stored: Any = await redis.hget(keys.tickets, "id:deployment-1")
    old = struct.pack(">IHd", 1, 0, await redis_now_ms(redis) - 120_000) + stored[14:]
    await redis.hset(keys.tickets, mapping={"id:deployment-1": old, "broken": b"x"})
    await redis.zadd(keys.backlog, {"broken": 1})
    assert 120 <= (await read_namespace_stats(namespace_reader)).oldest_age_s < 130
    await redis.delete(keys.backlog, keys.tickets)


async def test_failures_are_counted_by_reason(
    namespace_reader: NamespaceReader, backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A reason that is none of ours is `other`; one taken up again counts no more."""
    for number, reason in enumerate(["not_found", "not_found", "a reason of yours"]):
        await backlog.add(make_event(number))
        (lease,) = (await backlog.claim(1, followers=0)).leases
        failure = FailureRecord(reason=reason, raw=b"\xc1\x00", fence=lease.fence)
        assert await backlog.fail(lease, failure) == "failed"
    for _ in range(2):  # its mark is gone by the second time, and it is one failure still
        await backlog.park("native", Unmappable("no version", (), "delivery-9", b"{}"))
        await redis.delete(keys.delivery("native", "delivery-9"))
    told = {
        reason: n
        for reason, n in (await read_namespace_stats(namespace_reader)).failed.items()
        if n
    }
    assert told == {"not_found": 2, "unmappable": 1, "other": 1}

    await backlog.add(make_event(0))
    told = {
        reason: n
        for reason, n in (await read_namespace_stats(namespace_reader)).failed.items()
        if n
    }
    assert told == {"not_found": 1, "unmappable": 1, "other": 1}
    await redis.delete(keys.backlog, keys.tickets)


@pytest.mark.parametrize("behind", [0, 1, 63, 64, 65, 150])
async def test_what_a_group_has_not_been_given_is_counted_exactly(
    namespace_reader: NamespaceReader,
    backlog: Backlog,
    output_stream: OutputStream,
    redis: Redis,
    keys: Keys,
    behind: int,
) -> None:
    """However far behind the slowest is, also when records before it are gone."""
    await publish_records(backlog, output_stream, 150)
    await redis.xgroup_create(keys.enriched, "slow", "0")
    await redis.xgroup_create(keys.enriched, "fast", "$")
    told = await read_namespace_stats(namespace_reader)
    assert (told.records, told.reader_groups, told.lag_records) == (150, 2, 150)
    if behind < 150:
        await redis.xreadgroup("slow", "me", {keys.enriched: ">"}, 150 - behind, noack=True)
    assert (await read_namespace_stats(namespace_reader)).lag_records == behind
    await redis.xtrim(keys.enriched, maxlen=max(behind, 1), approximate=False)
    await output_stream.trim()
    assert (await read_namespace_stats(namespace_reader)).lag_records == behind


async def test_a_record_that_redis_forgot_to_count_is_counted(
    namespace_reader: NamespaceReader,
    backlog: Backlog,
    output_stream: OutputStream,
    redis: Redis,
    keys: Keys,
) -> None:
    """XINFO has no lag once an unread record was deleted; we have."""
    await publish_records(backlog, output_stream, 5)
    await redis.xgroup_create(keys.enriched, "slow", "0")
    entries: Any = await redis.xrange(keys.enriched)
    await redis.xdel(keys.enriched, entries[2][0])
    (group,) = await redis.xinfo_groups(keys.enriched)
    assert group["lag"] is None
    assert (await read_namespace_stats(namespace_reader)).lag_records == 4


async def test_the_lag_in_time_is_that_of_what_is_not_acknowledged(
    namespace_reader: NamespaceReader, redis: Redis, keys: Keys
) -> None:
    """What was delivered and not acknowledged is as unread as what was never delivered."""
    now = await redis_now_ms(redis)
    for age in (90_000, 30_000):
        await redis.xadd(keys.enriched, {"id": "x"}, id=f"{now - age}-0")
    assert (await read_namespace_stats(namespace_reader)).lag_s == 0
    await redis.xgroup_create(keys.enriched, "group", "0")
    assert 90 <= (await read_namespace_stats(namespace_reader)).lag_s < 100
    entries: Any = await redis.xrange(keys.enriched)
    (first, _), (second, _) = entries
    await redis.xreadgroup("group", "me", {keys.enriched: ">"})
    assert 90 <= (await read_namespace_stats(namespace_reader)).lag_s < 100
    await redis.xack(keys.enriched, "group", first)
    assert 30 <= (await read_namespace_stats(namespace_reader)).lag_s < 40
    await redis.xack(keys.enriched, "group", second)
    assert (await read_namespace_stats(namespace_reader)).lag_s == 0


async def test_the_budget_is_told_with_why_it_is_closed(
    namespace_reader: NamespaceReader, redis: Redis, keys: Keys
) -> None:
    """What is left of our share, for each route; closed until when, and what for."""
    soon = await redis_now_ms(redis) + 5000
    await redis.hset(keys.budget, mapping={"global": f"20 14 {soon} reported"})
    await redis.zadd(keys.budget_calls, {"flying": soon})
    told = await read_namespace_stats(namespace_reader)
    assert (told.calls_left, told.in_flight) == ({"get": 3, "list": 3}, 1)
    await redis.hset(keys.budget, mapping={"closed_until": soon, "closed_reason": "token refused"})
    told = await read_namespace_stats(namespace_reader)
    assert 0 < told.closed_s <= 5
    assert (told.closed_reason, told.calls_left) == ("token refused", {"get": 0, "list": 0})
    await redis.delete(keys.budget, keys.budget_calls)


async def count_commands(redis: Redis, surveyor: NamespaceReader) -> dict[str, int]:
    """Give how often each command was called for one survey."""
    await redis.config_resetstat()
    await read_namespace_stats(surveyor)
    stats: Any = await redis.info("commandstats")
    ignored = {
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


async def test_a_survey_costs_the_same_however_much_waits(
    namespace_reader: NamespaceReader, redis: Redis, keys: Keys
) -> None:
    """At 30,000 tickets, failures and records as many commands as at 100, none of which walks."""
    await read_namespace_stats(namespace_reader)

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
    assert (await read_namespace_stats(namespace_reader)).backlog == 30_000
    assert many == few
    assert few.keys().isdisjoint({"zrangebyscore", "hvals", "hkeys", "hscan", "zscan", "scan"})
    await redis.delete(keys.backlog, keys.tickets)


@pytest.fixture
async def unreachable_group_commit() -> AsyncIterator[GroupCommit]:
    """Give the connection to a Redis that is nowhere."""
    client = open_client("unix:///nowhere/redis.sock")
    clock = asyncio.get_running_loop().time
    group = GroupCommit(client, durability="fsync", clock=clock, log=structlog.get_logger())
    yield group
    await group.aclose()
    await client.aclose()


async def test_without_redis_nothing_is_made_up(
    unreachable_group_commit: GroupCommit, keys: Keys
) -> None:
    """The process tells what it did; of the namespace only that Redis is away."""
    metrics = Metrics(CollectorRegistry())
    metrics.published.inc()
    app = web.Application()
    Exposition(
        metrics.registry, NamespaceReader(unreachable_group_commit, keys=keys, share=1.0).read_stats
    ).add_metrics_route(app)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        told = await scrape(url)
    assert (told.value("redis_up"), told.value("records_published_total")) == (0, 1)
    assert not [name for name in told.samples if "backlog" in name or "budget" in name]
