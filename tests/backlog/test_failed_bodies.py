"""Tests of the bodies of parked events: kept whole, apart from what a list reads."""

import itertools
import json
import math
from typing import Any

import pytest
from redis.asyncio import Redis

from service.accept.mapping import Unmappable
from service.accept.source_files import read_presets
from service.accept.sources import Source, native_source
from service.backlog.backlog import Backlog
from service.backlog.failed_tickets import FailedTickets
from service.backlog.failures import FailureRecord
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.backlog.claims import claim_lease, fail_remaining
from tests.factories import make_event

FINISHED = {
    "projectKey": "default",
    "environmentKey": "production",
    "applicationKey": "shop",
    "eventType": "finished",
}
LOG = "".join(f"line {number}\n" for number in range(200_000))
LARGE_BODY = json.dumps(FINISHED | {"log": LOG, "version": "7fd1a60"}).encode()
JOB = "unmappable:native/d1"


@pytest.fixture
def failed_tickets(redis: Redis, group_commit: GroupCommit, keys: Keys) -> FailedTickets:
    """Return the failed tickets of the namespace."""
    tokens = itertools.count()
    return FailedTickets(redis, group_commit, keys=keys, new_token=lambda: f"f{next(tokens):015d}")


@pytest.fixture
def sources() -> dict[str, Source]:
    """Return a source that maps the body."""
    return {"native": native_source(["secret"], presets=read_presets())}


async def park_large(backlog: Backlog) -> None:
    """Park an event with a body of more than two megabytes."""
    assert await backlog.park("native", Unmappable("missing: x", ("x",), "d1", LARGE_BODY))


async def test_body_of_a_parked_event_is_kept_whole_and_compressed(
    backlog: Backlog, failed_tickets: FailedTickets, redis: Redis, keys: Keys
) -> None:
    """A person sees all of it; Redis keeps a fraction of its size."""
    await park_large(backlog)
    failed = await failed_tickets.read_whole(JOB)
    assert failed is not None
    assert failed.failure is not None
    assert failed.failure.raw == LARGE_BODY
    assert not failed.failure.raw_cut
    assert await redis.hstrlen(keys.failed_raw, JOB) < len(LARGE_BODY) / 3


async def test_list_reads_no_body(
    backlog: Backlog, failed_tickets: FailedTickets, redis: Redis, keys: Keys
) -> None:
    """It says how large each one is; the record that it reads is small."""
    await park_large(backlog)
    page, _ = await failed_tickets.read_page(0, 10)
    listed = [failed async for failed in failed_tickets.list_newest((-math.inf, math.inf))]
    for (failed,) in (page, listed, await failed_tickets.read([JOB])):
        assert failed.failure is not None
        assert (failed.failure.raw, failed.failure.raw_size) == (b"", len(LARGE_BODY))
    assert await redis.hstrlen(keys.failed_data, JOB) < 1000


async def test_retry_queues_each_failed_event_of_a_leased_ticket_once(
    backlog: Backlog, failed_tickets: FailedTickets, redis: Redis, keys: Keys
) -> None:
    """An event that arrives again during a lease would have its ticket tried once more."""
    run: dict[str, Any] = {"deployment_id": None, "event_time": 1_795_428_000_000}
    await backlog.add(make_event(delivery="failed", outcome="failed", **run))
    lease = await claim_lease(backlog)
    await backlog.fail(lease, FailureRecord(reason="x", ticket=lease.ticket, fence=lease.fence))
    await backlog.add(make_event(delivery="repaired", **run))
    lease = await claim_lease(backlog)
    (result,) = await failed_tickets.retry(await failed_tickets.read([lease.job]), {})
    assert result.status == "queued"
    assert await redis.zcard(keys.failed) == 0
    await backlog.fail(lease, FailureRecord(reason="x", ticket=lease.ticket, fence=lease.fence))
    left = await claim_lease(backlog)
    assert (left.ticket.delivery, left.generation) == ("failed", lease.generation + 1)
    await fail_remaining(backlog)


async def test_retry_maps_the_whole_body_and_deletes_it(
    backlog: Backlog,
    failed_tickets: FailedTickets,
    redis: Redis,
    keys: Keys,
    sources: dict[str, Source],
) -> None:
    """Once its source maps it, a large event is a ticket like any other."""
    await park_large(backlog)
    (result,) = await failed_tickets.retry(await failed_tickets.read([JOB]), sources)
    assert (result.status, result.detail) == ("queued", "find:default/production/shop/7fd1a60")
    assert not await redis.exists(keys.failed_raw, keys.failed_data)
    await fail_remaining(backlog)


async def test_second_retry_of_a_parked_event_finds_it_gone(
    backlog: Backlog, failed_tickets: FailedTickets, sources: dict[str, Source]
) -> None:
    """Two people retry it at the same time: the body is gone, and so is the event."""
    await park_large(backlog)
    batch = await failed_tickets.read([JOB])
    statuses = [(await failed_tickets.retry(batch, sources))[0].status for _ in range(2)]
    assert statuses == ["queued", "gone"]
    await fail_remaining(backlog)


async def test_skipped_retry_keeps_the_body(
    backlog: Backlog,
    failed_tickets: FailedTickets,
    redis: Redis,
    keys: Keys,
    sources: dict[str, Source],
) -> None:
    """Only the reason changes, and the next retry has what it needs."""
    body = json.dumps(FINISHED).encode()
    await backlog.park("native", Unmappable("missing: x", ("x",), "d1", body))
    (result,) = await failed_tickets.retry(await failed_tickets.read([JOB]), sources)
    assert (result.status, result.detail) == ("skipped", "missing: version")
    failed = await failed_tickets.read_whole(JOB)
    assert failed is not None
    assert failed.failure is not None
    assert (failed.failure.detail, failed.failure.raw) == ("missing: version", body)
    assert await redis.hgetall(keys.counts) == {b"failed:unmappable": b"1"}
    assert await redis.hgetall(keys.counts) == {b"failed:unmappable": b"1"}


async def test_drop_and_a_later_success_delete_what_was_kept(
    backlog: Backlog, failed_tickets: FailedTickets, redis: Redis, keys: Keys
) -> None:
    """Nothing is left of a dropped event, nor of the response of a ticket that is queued again."""
    await park_large(backlog)
    await failed_tickets.drop(await failed_tickets.read([JOB]))
    assert not await redis.exists(keys.failed_raw)
    await backlog.add(make_event())
    failure = FailureRecord(reason="not_found", raw=b"{}")
    await backlog.fail(await claim_lease(backlog), failure)
    assert await redis.hlen(keys.failed_raw) == 1
    await backlog.add(make_event())
    assert not await redis.exists(keys.failed_raw)
    await fail_remaining(backlog)


async def test_failed_ticket_names_every_event_that_failed(
    backlog: Backlog, failed_tickets: FailedTickets
) -> None:
    """Deployments of one version share a ticket: all their webhooks are read, the newest first."""
    for number in (1, 2):
        event = make_event(
            deployment_id=None, delivery=f"d{number}", event_time=number * 1_000_000_000_000
        )
        await backlog.add(event)
        lease = await claim_lease(backlog)
        await backlog.fail(lease, FailureRecord(reason="not_found", ticket=lease.ticket))
    (failed,) = (await failed_tickets.read_page(0, 10))[0]
    assert [event.ticket.delivery for event in failed.events] == ["d2", "d1"]
    assert [event.ticket.version for event in failed.events] == ["1.1", "1.1"]
