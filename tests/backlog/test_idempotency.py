"""Tests of repeated script calls: each is one act and leaves the data of others alone."""

import asyncio
import io
import itertools
from typing import cast

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.accept.mapping import BacklogFull, Duplicate, Queued, Unmappable
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.log import build_log
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.backlog.claims import build_backlog, claim_lease
from tests.conftest import Eventually
from tests.factories import make_event


async def read_replication_offset(redis: Redis) -> int:
    """Return how many bytes the server has written for replication."""
    return int((await redis.info("replication"))["master_repl_offset"])


async def test_add_of_a_failed_delivery_to_a_full_backlog_keeps_the_failure(
    group_commit: GroupCommit, redis: Redis, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """A redelivery that is refused because the backlog is full is queued when it is sent again."""
    tokens = itertools.count()
    backlog = build_backlog(
        group_commit,
        keys=keys,
        config=msgspec.structs.replace(backlog_config, max_tickets=1),
        new_token=lambda: f"{next(tokens):016d}",
    )
    await backlog.add(make_event(1))
    await backlog.fail(await claim_lease(backlog), FailureRecord(reason="not_found"))
    await backlog.add(make_event(2))
    assert isinstance(await backlog.add(make_event(1)), BacklogFull)
    assert await redis.zcard(keys.failed) == 1
    await backlog.fail(await claim_lease(backlog), FailureRecord(reason="not_found"))
    assert isinstance(await backlog.add(make_event(1)), Queued)
    assert await redis.zcard(keys.failed) == 1
    await backlog.fail(await claim_lease(backlog), FailureRecord(reason="test"))


async def test_repeated_calls_write_so_that_the_barrier_covers_the_first(
    group_commit: GroupCommit, redis: Redis, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """WAITAOF and WAIT cover the writes of their own connection, so each repeat writes again."""
    backlog = build_backlog(
        group_commit, keys=keys, config=backlog_config, new_token=lambda: "same"
    )
    await backlog.add(make_event(1))
    offset = await read_replication_offset(redis)
    assert isinstance(await backlog.add(make_event(1)), Queued)
    assert await read_replication_offset(redis) > offset
    other = build_backlog(group_commit, keys=keys, config=backlog_config, new_token=lambda: "other")
    offset = await read_replication_offset(redis)
    assert isinstance(await other.add(make_event(1)), Duplicate)
    assert await read_replication_offset(redis) > offset
    lease = await claim_lease(backlog)
    failure = FailureRecord(reason="test", fence=lease.fence)
    await backlog.fail(lease, failure)
    offset = await read_replication_offset(redis)
    assert await backlog.fail(lease, failure) == "failed"
    assert await read_replication_offset(redis) > offset


async def test_postpone_repeated_after_a_lost_reply_returns_postponed(backlog: Backlog) -> None:
    """The second call returns what the first one returned."""
    await backlog.add(make_event(1))
    lease = await claim_lease(backlog)
    attempted = msgspec.structs.replace(lease.ticket, attempts=1)
    assert await backlog.postpone(lease, attempted, delay_s=60) == "postponed"
    assert await backlog.postpone(lease, attempted, delay_s=60) == "postponed"
    await backlog.add(make_event(1, delivery="newer", outcome="failed"))
    await backlog.fail(await claim_lease(backlog), FailureRecord(reason="test"))


async def test_fences_of_claims_in_one_millisecond_differ(backlog: Backlog) -> None:
    """A ticket that is released and claimed at once no longer belongs to its former holder."""
    await backlog.add(make_event(1))
    former: list[Lease] = []
    for _ in range(20):
        lease = await claim_lease(backlog)
        assert all(lease.fence != old.fence for old in former)
        assert lease.fence % 1 > 0
        former.append(lease)
        assert await backlog.postpone(lease, lease.ticket, delay_s=0) == "postponed"
    last = await claim_lease(backlog)
    failure = FailureRecord(reason="former")
    assert [await backlog.fail(old, failure) for old in former] == ["lease_lost"] * len(former)
    await backlog.fail(last, FailureRecord(reason="test"))


async def test_postpone_to_the_first_place_wakes_a_worker(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A ticket that is now the first to be due wakes a worker; a later one does not."""
    for number in (1, 2):
        await backlog.add(make_event(number))
    first, second = await claim_lease(backlog), await claim_lease(backlog)
    await redis.delete(keys.wakeup)
    assert await backlog.postpone(first, first.ticket, delay_s=0.1) == "postponed"
    assert await redis.llen(keys.wakeup) == 1
    await redis.delete(keys.wakeup)
    assert await backlog.postpone(second, second.ticket, delay_s=60) == "postponed"
    assert await redis.llen(keys.wakeup) == 0
    for number in (1, 2):
        await backlog.add(make_event(number, delivery=f"again-{number}", outcome="failed"))
        await backlog.fail(await claim_lease(backlog), FailureRecord(reason="test"))


async def test_error_of_redis_while_failed_tickets_expire_is_logged(
    backlog: Backlog, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """The next minute tries again."""
    output = io.StringIO()

    async def refuse() -> int:
        raise ResponseError("NOPERM")

    async def is_logged() -> bool:
        return "expiry_failed" in output.getvalue()

    monkeypatch.setattr(backlog, "expire_failed", refuse)
    log = build_log(stream=output, pretty=False)
    task = asyncio.create_task(backlog.expire_failed_periodically(log))
    await eventually(is_logged)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_expire_failed_deletes_what_is_no_longer_kept_in_slices(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Its bodies too: nothing has to fail or to be parked for that."""
    for number in range(250):
        await backlog.park("github", Unmappable("version is missing", (), f"{number}", b"{}"))
    jobs = cast("list[bytes]", await redis.zrange(keys.failed, 0, 239))
    await redis.zadd(keys.failed, dict.fromkeys(jobs, 1))
    assert await backlog.expire_failed() == 240
    assert await redis.zcard(keys.failed) == 10
    assert await redis.hlen(keys.failed_data) == await redis.hlen(keys.failed_raw) == 10
    assert await redis.hget(keys.counts, "failed:unmappable") == b"10"
    assert await backlog.expire_failed() == 0
