"""Is a ticket kept, handed out once, and ended once?"""

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

from service.accept.mapping import BacklogFull, DeploymentCompleted, Duplicate, Queued, Unmappable
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failures import FailureRecord, decode_failure
from service.backlog.ticket import CorruptTicket, Lease
from service.enrich.budget import load_budget_prelude
from service.store.group_commit import GroupCommit
from service.store.keys import Keys


def make_event(
    number: int = 1, *, delivery: str | None = None, metadata: bytes = b"{}"
) -> DeploymentCompleted:
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
        event_time=1_795_428_000_000,
        metadata=msgspec.Raw(metadata),
        metadata_dropped=False,
        traceparent=None,
    )


async def claim_lease(backlog: Backlog) -> Lease:
    """Claim until there is a lease."""
    async with asyncio.timeout(5):
        while True:
            claimed = await backlog.claim(1)
            for lease in claimed.leases:
                assert isinstance(lease, Lease)
                return lease
            await asyncio.sleep(0.01)


async def read_failure_record(redis: Redis, keys: Keys, job: str) -> FailureRecord:
    """Read what is kept of a failed job."""
    stored = await redis.hget(keys.failed_data, job)
    assert isinstance(stored, bytes)
    return decode_failure(stored)


async def fail_remaining(backlog: Backlog) -> None:
    """Give up whatever is left."""
    async with asyncio.timeout(5):
        while (claimed := await backlog.claim(10)).leases or claimed.sleep_s is not None:
            for lease in claimed.leases:
                await backlog.fail(lease, FailureRecord(reason="test"))
            await asyncio.sleep(0.01)


async def test_a_ticket_comes_back_as_it_went_in(backlog: Backlog) -> None:
    """Everything that the event said is in the ticket that is claimed."""
    told = make_event(metadata=b'{"build":7}')
    assert await backlog.add(told) == Queued(job=f"id:{told.deployment_id}")
    lease = await claim_lease(backlog)
    ticket = lease.ticket
    assert (ticket.source, ticket.delivery, ticket.outcome) == ("native", "delivery-1", "succeeded")
    assert (ticket.project, ticket.environment) == ("default", "production")
    assert (ticket.application, ticket.version) == ("shop", "1.0")
    assert (ticket.event_time, ticket.metadata) == (told.event_time, b'{"build":7}')
    assert (lease.generation, lease.crashes) == (1, 0)
    assert abs(lease.now - lease.queued_at) < 5000
    await backlog.fail(lease, FailureRecord(reason="test"))


async def test_the_same_delivery_is_known_again(backlog: Backlog) -> None:
    """A delivery sent twice is queued once."""
    await backlog.add(make_event())
    assert isinstance(await backlog.add(make_event()), Duplicate)
    await fail_remaining(backlog)


async def test_the_same_act_sent_twice_is_queued_and_not_a_duplicate(
    group_commit: GroupCommit, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """After a lost reply we repeat the act under its token, and hear what we would have heard."""
    backlog = Backlog(
        group_commit,
        keys=keys,
        config=backlog_config,
        budget_lua=load_budget_prelude(),
        new_token=lambda: "same",
    )
    assert isinstance(await backlog.add(make_event()), Queued)
    assert isinstance(await backlog.add(make_event()), Queued)
    assert (await claim_lease(backlog)).generation == 1
    await fail_remaining(backlog)


async def test_equal_jobs_coalesce(backlog: Backlog, redis: Redis, keys: Keys) -> None:
    """Two deliveries for one deployment make one ticket; the newer event is kept."""
    await backlog.add(make_event(delivery="first"))
    await backlog.add(make_event(delivery="second"))
    assert await redis.zcard(keys.backlog) == 1
    lease = await claim_lease(backlog)
    assert (lease.ticket.delivery, lease.generation) == ("second", 2)
    await backlog.fail(lease, FailureRecord(reason="test"))


async def test_a_ticket_is_leased_to_one_worker_only(backlog: Backlog) -> None:
    """While a lease stands, nobody else gets the ticket."""
    await backlog.add(make_event())
    claims = await asyncio.gather(*(backlog.claim(5) for _ in range(8)))
    assert sum(len(claimed.leases) for claimed in claims) == 1
    await fail_remaining(backlog)


async def test_a_dead_workers_ticket_is_handed_out_again(backlog: Backlog) -> None:
    """A lease that ran out goes to the next worker, who learns of the crash."""
    await backlog.add(make_event())
    first = await claim_lease(backlog)
    second = await claim_lease(backlog)
    assert (second.crashes, second.fence > first.fence) == (1, True)
    assert await backlog.fail(first, FailureRecord(reason="late")) == "lease_lost"
    assert await backlog.postpone(first, first.ticket, delay_s=0) == "lease_lost"
    assert await backlog.fail(second, FailureRecord(reason="test")) == "failed"


async def test_a_renewed_lease_outlives_its_first_end(
    backlog: Backlog, backlog_config: BacklogConfig
) -> None:
    """Renewing moves the end; the same renewal sent twice gives the same fence."""
    await backlog.add(make_event())
    lease = await claim_lease(backlog)
    held = [(lease.job, lease.fence)]
    renewed = await backlog.renew(held, backlog_config.lease_ms)
    assert renewed == [lease.fence + backlog_config.lease_ms]
    assert await backlog.renew(held, backlog_config.lease_ms) == renewed
    assert await backlog.renew([("nobody's", 1.5)], 1) == [None]
    assert await backlog.fail(lease, FailureRecord(reason="old fence")) == "lease_lost"
    await fail_remaining(backlog)


async def test_waiting_keeps_what_was_learnt(backlog: Backlog) -> None:
    """A ticket put back comes again later, with its attempts and without a crash."""
    await backlog.add(make_event())
    lease = await claim_lease(backlog)
    tried = msgspec.structs.replace(lease.ticket, attempts=3, reason="HTTP 502")
    assert await backlog.postpone(lease, tried, delay_s=0.05) == "postponed"
    claimed = await backlog.claim(1)
    assert claimed.leases == []
    assert claimed.sleep_s is not None
    assert 0 < claimed.sleep_s <= 0.05
    again = await claim_lease(backlog)
    assert (again.ticket.attempts, again.ticket.reason, again.crashes) == (3, "HTTP 502", 0)
    assert again.queued_at == lease.queued_at
    await backlog.fail(again, FailureRecord(reason="test"))


async def test_an_event_that_comes_while_its_ticket_is_out_is_not_forgotten(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Ending an older generation makes the newer one due at once."""
    for act in ("wait", "give up"):
        await backlog.add(make_event(delivery=f"{act}-old"))
        lease = await claim_lease(backlog)
        await backlog.add(make_event(delivery=f"{act}-new"))
        assert await redis.zscore(keys.backlog, lease.job) == lease.fence
        if act == "wait":
            assert await backlog.postpone(lease, lease.ticket, delay_s=60) == "superseded"
        else:
            assert await backlog.fail(lease, FailureRecord(reason="test")) == "superseded"
        newer = await claim_lease(backlog)
        assert (newer.ticket.delivery, newer.ticket.attempts) == (f"{act}-new", 0)
        assert await backlog.fail(newer, FailureRecord(reason="test")) == "failed"
    assert await redis.zcard(keys.failed) == 1


async def test_what_is_given_up_is_kept_with_its_reason(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The failed ticket holds reason, raw answer and ticket; the same act twice is one."""
    await backlog.add(make_event())
    lease = await claim_lease(backlog)
    failure = FailureRecord(
        reason="not_found", raw=b"x" * 70_000, ticket=lease.ticket, fence=lease.fence
    )
    assert await backlog.fail(lease, failure) == "failed"
    assert await backlog.fail(lease, failure) == "failed"
    kept = await read_failure_record(redis, keys, lease.job)
    assert (kept.reason, len(kept.raw), kept.raw_cut) == ("not_found", 65_536, True)
    assert kept.ticket == lease.ticket
    assert await redis.zcard(keys.backlog) == 0


async def test_a_redelivery_of_what_failed_is_taken_up_again(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A human's redeliver works: the ticket waits again and is no longer among the failed."""
    for _ in range(2):
        assert isinstance(await backlog.add(make_event()), Queued)
        lease = await claim_lease(backlog)
        await backlog.fail(lease, FailureRecord(reason="not_found"))
    assert await redis.zcard(keys.failed) == 1
    assert isinstance(await backlog.add(make_event()), Queued)
    assert await redis.zcard(keys.failed) == 0
    assert await redis.hlen(keys.failed_data) == 0
    await fail_remaining(backlog)


async def test_a_full_backlog_says_when_to_come_back(
    group_commit: GroupCommit, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """Over the limit nothing is marked, so that the retry is not taken for a duplicate."""
    small = msgspec.structs.replace(backlog_config, max_tickets=2)
    backlog = Backlog(
        group_commit,
        keys=keys,
        config=small,
        budget_lua=load_budget_prelude(),
        new_token=lambda: "t",
    )
    await backlog.add(make_event(1))
    await backlog.add(make_event(2))
    full = await backlog.add(make_event(3))
    assert isinstance(full, BacklogFull)
    assert full.retry_after_s == 20  # two tickets at the slowest pace that is assumed, 0.1/s
    assert isinstance(await backlog.add(make_event(2, delivery="other")), Queued)
    await fail_remaining(backlog)
    assert isinstance(await backlog.add(make_event(3)), Queued)
    await fail_remaining(backlog)


async def test_an_unmappable_event_is_set_aside_once(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """It is kept with its body for a person."""
    event = Unmappable("version is missing", ("version",), "d1", b'{"a":1}')
    assert await backlog.park("github", event)
    assert not await backlog.park("github", event)
    kept = await read_failure_record(redis, keys, "unmappable:github/d1")
    assert (kept.reason, kept.raw) == ("unmappable", b'{"a":1}')


async def test_a_stored_thing_that_is_no_ticket_is_handed_out_as_such(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Garbage in the hash stops nobody: it is claimed as unreadable and can be given up."""
    for job, stored in (("a", b""), ("b", b"xyz"), ("c", b"\x00" * 14 + b"\xc1"), ("d", b"z" * 40)):
        await redis.hset(keys.tickets, job, stored)
        await redis.zadd(keys.backlog, {job: 1})
    claimed = await backlog.claim(4)
    assert len(claimed.leases) == 4
    for lease in claimed.leases:
        assert isinstance(lease, CorruptTicket)
        assert await backlog.fail(lease, FailureRecord(reason="corrupt_ticket")) == "failed"


async def test_a_job_without_a_ticket_heals(backlog: Backlog, redis: Redis, keys: Keys) -> None:
    """A score that points nowhere is dropped instead of being claimed for ever."""
    await redis.zadd(keys.backlog, {"id:ghost": 1})
    assert (await backlog.claim(1)).leases == []
    assert await redis.zcard(keys.backlog) == 0


async def test_an_emptied_server_with_lost_scripts_is_served_on(
    backlog: Backlog, redis: Redis
) -> None:
    """After SCRIPT FLUSH the acts load themselves again."""
    await backlog.add(make_event(1))
    await redis.script_flush()
    assert isinstance(await backlog.add(make_event(2)), Queued)
    await redis.script_flush()
    assert len((await backlog.claim(2)).leases) == 2
    await fail_remaining(backlog)


@pytest.mark.parametrize("count", [300])
async def test_many_adds_share_round_trips(
    backlog: Backlog, redis: Redis, keys: Keys, count: int
) -> None:
    """Concurrent acts go out as groups: far fewer reads of the socket than acts."""
    before = (await redis.info("stats"))["total_reads_processed"]
    await asyncio.gather(*(backlog.add(make_event(number)) for number in range(count)))
    after = (await redis.info("stats"))["total_reads_processed"]
    assert await redis.zcard(keys.backlog) == count
    assert after - before < count / 5
    await redis.delete(keys.backlog, keys.tickets)
