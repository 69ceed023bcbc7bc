"""Is an act sent twice one act, and does each one leave the others' things alone?"""

import itertools

import msgspec
from redis.asyncio import Redis

from service.accept.mapping import BacklogFull, DeploymentCompleted, Duplicate, Queued, Unmappable
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.enrich.budget import load_budget_prelude
from service.store.group_commit import GroupCommit
from service.store.keys import Keys


def make_event(number: int, *, delivery: str = "") -> DeploymentCompleted:
    """Make the event of one deployment."""
    return DeploymentCompleted(
        source="native",
        delivery=delivery or f"delivery-{number}",
        project="default",
        environment="production",
        application="shop",
        version="1.0",
        deployment_id=f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}",
        outcome="succeeded",
        event_time=None,
        metadata=msgspec.Raw(b"{}"),
        metadata_dropped=False,
        traceparent=None,
    )


async def claim_lease(backlog: Backlog) -> Lease:
    """Claim the one ticket that is due."""
    (lease,) = (await backlog.claim(1)).leases
    assert isinstance(lease, Lease)
    return lease


async def read_replication_offset(redis: Redis) -> int:
    """Read how much has been written in all."""
    return int((await redis.info("replication"))["master_repl_offset"])


async def test_a_full_backlog_does_not_forget_what_failed(
    group_commit: GroupCommit, redis: Redis, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """A redelivery that is refused for want of room is taken up when it comes once more."""
    tokens = itertools.count()
    backlog = Backlog(
        group_commit,
        keys=keys,
        config=msgspec.structs.replace(backlog_config, max_tickets=1),
        budget_lua=load_budget_prelude(),
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


async def test_a_repeated_act_writes_so_that_its_barrier_covers_the_first(
    group_commit: GroupCommit, redis: Redis, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """WAITAOF and WAIT cover a connection's own writes: what is answered again is written again."""
    backlog = Backlog(
        group_commit,
        keys=keys,
        config=backlog_config,
        budget_lua=load_budget_prelude(),
        new_token=lambda: "same",
    )
    await backlog.add(make_event(1))
    written = await read_replication_offset(redis)
    assert isinstance(await backlog.add(make_event(1)), Queued)
    assert await read_replication_offset(redis) > written
    other = Backlog(
        group_commit,
        keys=keys,
        config=backlog_config,
        budget_lua=load_budget_prelude(),
        new_token=lambda: "other",
    )
    written = await read_replication_offset(redis)
    assert isinstance(await other.add(make_event(1)), Duplicate)
    assert await read_replication_offset(redis) > written
    lease = await claim_lease(backlog)
    failure = FailureRecord(reason="test", fence=lease.fence)
    await backlog.fail(lease, failure)
    written = await read_replication_offset(redis)
    assert await backlog.fail(lease, failure) == "failed"
    assert await read_replication_offset(redis) > written


async def test_waiting_twice_is_waiting(backlog: Backlog) -> None:
    """After a lost reply the second says what the first would have said."""
    await backlog.add(make_event(1))
    lease = await claim_lease(backlog)
    tried = msgspec.structs.replace(lease.ticket, attempts=1)
    assert await backlog.postpone(lease, tried, delay_s=60) == "postponed"
    assert await backlog.postpone(lease, tried, delay_s=60) == "postponed"
    await backlog.add(make_event(1, delivery="newer"))
    await backlog.fail(await claim_lease(backlog), FailureRecord(reason="test"))


async def test_leases_of_one_moment_differ(backlog: Backlog) -> None:
    """Handed back and claimed at once, a ticket is not its former holder's any more."""
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


async def test_who_sleeps_hears_of_an_earlier_moment(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A ticket that is now the first to be due rings the bell, a later one does not."""
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
        await backlog.add(make_event(number, delivery=f"again-{number}"))
        await backlog.fail(await claim_lease(backlog), FailureRecord(reason="test"))


async def test_what_was_set_aside_does_not_stay_for_ever(
    group_commit: GroupCommit, redis: Redis, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """Each new one drops those whose time is over, even if no ticket is ever given up."""
    brief = msgspec.structs.replace(backlog_config, failed_ttl_ms=0)
    tokens = itertools.count()
    backlog = Backlog(
        group_commit,
        keys=keys,
        config=brief,
        budget_lua=load_budget_prelude(),
        new_token=lambda: f"{next(tokens):016d}",
    )
    await redis.zadd(keys.failed, {"unmappable:github/old": 1})
    await redis.hset(keys.failed_data, "unmappable:github/old", b"x")
    await backlog.park("github", Unmappable("version is missing", (), "new", b"{}"))
    assert await redis.zscore(keys.failed, "unmappable:github/old") is None
    assert await redis.hexists(keys.failed_data, "unmappable:github/old") is False
