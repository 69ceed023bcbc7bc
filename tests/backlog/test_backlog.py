"""Tests of the backlog: a ticket is stored, leased to one worker, and ended once."""

import asyncio
import time
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.mapping import BacklogFull, DeploymentEvent, Duplicate, Queued, Unmappable
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failures import (
    FailedTicket,
    FailureRecord,
    Requeue,
    decode_failed_ticket,
    plan_retry,
    with_raw,
)
from service.backlog.ticket import (
    MAX_EVENTS,
    CorruptTicket,
    job_key,
    list_events,
    select_event,
)
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.backlog.claims import build_backlog, claim_lease, fail_remaining
from tests.factories import deployment_id, make_event


async def read_failed(redis: Redis, keys: Keys, job: str) -> FailedTicket:
    """Return the failed ticket of a job, with the raw response or body."""
    stored, raw = await redis.hget(keys.failed_data, job), await redis.hget(keys.failed_raw, job)
    assert isinstance(stored, bytes)
    return with_raw(decode_failed_ticket(job, 0, stored), cast("bytes | None", raw))


async def read_failure_record(redis: Redis, keys: Keys, job: str) -> FailureRecord:
    """Return the failure record of a job, with the raw response or body."""
    failed = await read_failed(redis, keys, job)
    assert failed.failure is not None
    return failed.failure


async def test_add_then_claim_returns_the_ticket_of_the_event(backlog: Backlog) -> None:
    """The claimed ticket holds every field of the event."""
    event = make_event(event_time=1_795_428_000_000, metadata=msgspec.Raw(b'{"build":7}'))
    assert await backlog.add(event) == Queued(job=f"id:{event.deployment_id}")
    lease = await claim_lease(backlog)
    ticket = lease.ticket
    assert (ticket.source, ticket.delivery, ticket.outcome) == ("native", "delivery-1", "succeeded")
    assert (ticket.project, ticket.environment) == ("default", "production")
    assert (ticket.application, ticket.version) == ("shop", "1.1")
    assert (ticket.event_time, ticket.metadata) == (event.event_time, b'{"build":7}')
    assert (lease.generation, lease.crashes) == (1, 0)
    assert abs(lease.now - lease.queued_at) < 5000
    await backlog.fail(lease, FailureRecord(reason="test"))


async def test_add_of_the_same_delivery_returns_duplicate(backlog: Backlog) -> None:
    """A delivery that is sent twice is queued once."""
    await backlog.add(make_event())
    assert isinstance(await backlog.add(make_event()), Duplicate)
    await fail_remaining(backlog)


async def test_add_repeated_under_its_token_returns_queued(
    group_commit: GroupCommit, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """After a lost reply the receiver repeats the call and gets the reply that was lost."""
    backlog = build_backlog(
        group_commit, keys=keys, config=backlog_config, new_token=lambda: "same"
    )
    assert isinstance(await backlog.add(make_event()), Queued)
    assert isinstance(await backlog.add(make_event()), Queued)
    assert (await claim_lease(backlog)).generation == 1
    await fail_remaining(backlog)


async def test_add_of_another_outcome_of_one_id_counts_from_then(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The ticket holds the newer event; its timeout still counts from the first one."""
    await backlog.add(make_event(delivery="first"))
    await backlog.add(make_event(delivery="second", outcome="failed"))
    assert await redis.zcard(keys.backlog) == 1
    lease = await claim_lease(backlog)
    assert (lease.ticket.delivery, lease.ticket.outcome) == ("second", "failed")
    assert (lease.generation, len(lease.events)) == (2, 2)
    assert lease.queued_at == lease.events[0].queued_at <= lease.received_at
    assert await backlog.fail(lease, FailureRecord(reason="test")) == "failed"
    assert await redis.zcard(keys.backlog) == 0


@pytest.mark.parametrize("deployment_id", [None, "a0eebc99"])
async def test_add_of_a_repeated_event_keeps_age_attempts_and_backoff(
    backlog: Backlog, redis: Redis, keys: Keys, deployment_id: str | None
) -> None:
    """A sender that repeats itself every minute cannot keep a ticket from its timeout."""
    await backlog.add(make_event(delivery="first", deployment_id=deployment_id))
    lease = await claim_lease(backlog)
    attempted = msgspec.structs.replace(lease.ticket, attempts=3, reason="not_found_yet")
    assert await backlog.postpone(lease, attempted, delay_s=60) == "postponed"
    due_at = await redis.zscore(keys.backlog, lease.job)
    for number in range(3):
        event = make_event(delivery=f"repeat-{number}", deployment_id=deployment_id)
        assert await backlog.add(event) == Queued(job=lease.job)
    assert await redis.zscore(keys.backlog, lease.job) == due_at
    await redis.zadd(keys.backlog, {lease.job: 1})
    again = await claim_lease(backlog)
    assert (again.ticket, again.queued_at, again.events) == (attempted, lease.queued_at, ())
    assert await backlog.fail(again, FailureRecord(reason="test")) == "failed"
    assert await redis.zcard(keys.backlog) == 0


async def test_repetition_during_a_lease_undoes_no_backoff(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The ticket is postponed as if nothing had arrived, and it can fail."""
    await backlog.add(make_event(delivery="first"))
    lease = await claim_lease(backlog)
    await backlog.add(make_event(delivery="repetition"))
    attempted = msgspec.structs.replace(lease.ticket, attempts=1)
    assert await backlog.postpone(lease, attempted, delay_s=60) == "postponed"
    await redis.zadd(keys.backlog, {lease.job: 1})
    lease = await claim_lease(backlog)
    assert lease.ticket == attempted
    await backlog.add(make_event(delivery="another repetition"))
    assert await backlog.fail(lease, FailureRecord(reason="test")) == "failed"
    assert await redis.zcard(keys.backlog) == 0


FOUND_BY_VERSION: dict[str, Any] = {"deployment_id": None, "event_time": 1_795_428_000_000}


async def test_add_of_another_run_of_a_version_makes_a_second_event(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Each event ends by itself, and each has a timeout of its own."""
    run = {**FOUND_BY_VERSION, "delivery": "run-1", "outcome": "failed"}
    rerun = {**FOUND_BY_VERSION, "delivery": "run-2", "event_time": 1_795_428_060_000}
    await backlog.add(make_event(**run))
    lease = await claim_lease(backlog)
    await backlog.postpone(lease, lease.ticket, delay_s=60)
    await backlog.add(make_event(**rerun))
    lease = await claim_lease(backlog)  # the new outcome made it due
    assert [event.ticket.delivery for event in lease.events] == ["run-1", "run-2"]
    assert await backlog.fail(lease, FailureRecord(reason="not_found")) == "failed"
    lease = await claim_lease(backlog)
    assert (lease.ticket.delivery, lease.events) == ("run-2", ())
    await backlog.fail(lease, FailureRecord(reason="not_found"))
    assert await redis.zcard(keys.failed) == 1
    assert isinstance(await backlog.add(make_event(**run)), Queued)  # redelivered
    lease = await claim_lease(backlog)
    assert {event.ticket.delivery for event in lease.events} == {"run-1", "run-2"}
    await backlog.postpone(lease, lease.ticket, delay_s=0)
    await fail_remaining(backlog)


@pytest.mark.parametrize(
    ("changes", "events"),
    [
        ({}, 1),
        ({"event_time": 1_795_428_000_500}, 1),  # the sender rounds differently
        ({"source": "argo", "event_time": 1_795_428_200_000}, 1),  # another sender, soon after
        ({"event_time": None}, 2),  # it arrived long after the other one
        ({"event_time": 1_795_428_060_000}, 2),
        ({"outcome": "failed"}, 2),
        ({"source": "argo", "event_time": 1_795_428_400_000}, 2),
    ],
)
async def test_add_joins_what_two_senders_say_of_one_deployment(
    backlog: Backlog, changes: dict[str, Any], events: int
) -> None:
    """An event is another deployment if the outcome differs, or its sender gives another time."""
    await backlog.add(make_event(**FOUND_BY_VERSION))
    await backlog.add(make_event(**{**FOUND_BY_VERSION, "delivery": "second", **changes}))
    assert len(list_events(await claim_lease(backlog))) == events
    await fail_remaining(backlog)


def make_run(number: int) -> DeploymentEvent:
    """Return the event of one of many deployments of a version, a minute after the one before."""
    time_ms = 1_795_428_000_000 + 60_000 * number
    return make_event(**{**FOUND_BY_VERSION, "delivery": f"run-{number}", "event_time": time_ms})


async def test_add_of_many_runs_refuses_those_that_the_ticket_cannot_hold(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Their sender retries, and none is accepted without being kept. A repetition is no new run."""
    for number in range(MAX_EVENTS):
        assert isinstance(await backlog.add(make_run(number)), Queued)
    refused = await backlog.add(make_run(MAX_EVENTS))
    assert isinstance(refused, BacklogFull)
    assert "of this version" in refused.reason
    repeated = replace(make_run(3), delivery="run-3 again")
    assert isinstance(await backlog.add(repeated), Queued)
    lease = await claim_lease(backlog)
    assert len(lease.events) == MAX_EVENTS
    await backlog.fail(select_event(lease, 0), FailureRecord(reason="not_found"))
    assert isinstance(await backlog.add(make_run(MAX_EVENTS)), Queued)
    await fail_remaining(backlog)
    assert await redis.zcard(keys.backlog) == 0


async def test_fail_of_many_runs_drops_the_oldest_and_says_so(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A failure record holds so many events of a version; the newest are kept."""
    statuses = []
    for number in range(MAX_EVENTS + 2):
        await backlog.add(make_run(number))
        lease = await claim_lease(backlog)
        statuses.append(await backlog.fail(lease, FailureRecord(reason="x", fence=lease.fence)))
    assert statuses == ["failed"] * MAX_EVENTS + ["oldest_dropped"] * 2
    failed = await read_failed(redis, keys, job_key(make_run(0)))
    deliveries = [event.ticket.delivery for event in failed.events]
    assert deliveries == [f"run-{number}" for number in range(MAX_EVENTS + 1, 1, -1)]


async def test_claim_by_many_workers_leases_a_ticket_once(backlog: Backlog) -> None:
    """While a lease stands, no other worker gets the ticket."""
    await backlog.add(make_event())
    claims = await asyncio.gather(*(backlog.claim(5) for _ in range(8)))
    assert sum(len(claimed.leases) for claimed in claims) == 1
    await fail_remaining(backlog)


async def test_claim_after_a_lease_ran_out_counts_a_crash(backlog: Backlog) -> None:
    """The next worker gets the ticket and its crash count; the first one can no longer settle."""
    await backlog.add(make_event())
    first = await claim_lease(backlog)
    second = await claim_lease(backlog)
    assert (second.crashes, second.fence > first.fence) == (1, True)
    assert await backlog.fail(first, FailureRecord(reason="late")) == "lease_lost"
    assert await backlog.postpone(first, first.ticket, delay_s=0) == "lease_lost"
    assert await backlog.fail(second, FailureRecord(reason="test")) == "failed"


async def test_renew_moves_the_end_of_the_lease(
    backlog: Backlog, backlog_config: BacklogConfig
) -> None:
    """The same renewal sent twice returns the same fence."""
    await backlog.add(make_event())
    lease = await claim_lease(backlog)
    job_fences = [(lease.job, lease.fence)]
    renewed = await backlog.renew(job_fences, backlog_config.lease_ms)
    assert renewed == [lease.fence + backlog_config.lease_ms]
    assert await backlog.renew(job_fences, backlog_config.lease_ms) == renewed
    assert await backlog.renew([("unknown", 1.5)], 1) == [None]
    assert await backlog.fail(lease, FailureRecord(reason="old fence")) == "lease_lost"
    await fail_remaining(backlog)


async def test_postpone_with_rounding_makes_tickets_due_together(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Tickets postponed at different times are due at one time, not earlier than they should be."""
    for number in range(2):
        await backlog.add(make_event(number))
    before_ms = time.time() * 1000
    for delay_s in (21.0, 29.0):
        lease = await claim_lease(backlog)
        await backlog.postpone(lease, lease.ticket, delay_s=delay_s, round_up_s=1000.0)
    for number in range(2):
        due_ms = await redis.zscore(keys.backlog, f"id:{deployment_id(number)}")
        assert due_ms is not None
        assert due_ms % 1_000_000 == 0
        assert before_ms + 20_000 <= due_ms <= before_ms + 1_060_000
    await redis.delete(keys.backlog, keys.tickets)


async def test_postpone_keeps_attempts_and_reason(backlog: Backlog) -> None:
    """A postponed ticket is due later, with its attempts and without a crash."""
    await backlog.add(make_event())
    lease = await claim_lease(backlog)
    attempted = msgspec.structs.replace(lease.ticket, attempts=3, reason="HTTP 502")
    assert await backlog.postpone(lease, attempted, delay_s=0.05) == "postponed"
    claimed = await backlog.claim(1)
    assert claimed.leases == []
    assert claimed.sleep_s is not None
    assert 0 < claimed.sleep_s <= 0.05
    second = await claim_lease(backlog)
    assert (second.ticket.attempts, second.ticket.reason, second.crashes) == (3, "HTTP 502", 0)
    assert second.queued_at == lease.queued_at
    await backlog.fail(second, FailureRecord(reason="test"))


async def test_settle_of_an_older_generation_makes_the_newer_event_due(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """An event that arrives while its ticket is leased is due as soon as the lease ends."""
    for action in ("postpone", "fail"):
        await backlog.add(make_event(delivery=f"{action}-old"))
        lease = await claim_lease(backlog)
        await backlog.add(make_event(delivery=f"{action}-new", outcome="failed"))
        assert await redis.zscore(keys.backlog, lease.job) == lease.fence
        if action == "postpone":
            assert await backlog.postpone(lease, lease.ticket, delay_s=60) == "superseded"
        else:
            assert await backlog.fail(lease, FailureRecord(reason="test")) == "superseded"
        newer = await claim_lease(backlog)
        assert (newer.ticket.delivery, newer.ticket.attempts) == (f"{action}-new", 0)
        assert await backlog.fail(newer, FailureRecord(reason="test")) == "failed"
    assert await redis.zcard(keys.failed) == 1


async def test_fail_stores_reason_raw_response_and_ticket(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The same call sent twice stores one failure record."""
    await backlog.add(make_event())
    lease = await claim_lease(backlog)
    failure = FailureRecord(
        reason="not_found", raw=b"x" * 70_000, ticket=lease.ticket, fence=lease.fence
    )
    assert await backlog.fail(lease, failure) == "failed"
    assert await backlog.fail(lease, failure) == "failed"
    record = await read_failure_record(redis, keys, lease.job)
    assert (record.reason, len(record.raw), record.raw_cut) == ("not_found", 65_536, True)
    assert record.ticket == lease.ticket
    assert await redis.zcard(keys.backlog) == 0


async def test_add_of_a_failed_delivery_queues_it_again(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A redelivery queues the ticket and removes it from the failed ones."""
    for _ in range(2):
        assert isinstance(await backlog.add(make_event()), Queued)
        lease = await claim_lease(backlog)
        await backlog.fail(lease, FailureRecord(reason="not_found"))
    assert await redis.zcard(keys.failed) == 1
    assert isinstance(await backlog.add(make_event()), Queued)
    assert await redis.zcard(keys.failed) == 0
    assert await redis.hlen(keys.failed_data) == 0
    await fail_remaining(backlog)


async def test_add_of_a_failed_delivery_under_another_job_leaves_the_other_failed_events(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The mapping of the source was corrected, and the sender repeats one delivery after another.

    Each leaves the failed events of its former job, so that the rest can still be repeated.
    """
    runs = [
        {
            **FOUND_BY_VERSION,
            "delivery": f"run-{n}",
            "event_time": 1_795_428_000_000 + n * 3_600_000,
        }
        for n in range(3)
    ]
    for run in runs:
        await backlog.add(make_event(**run))
        lease = await claim_lease(backlog)
        failure = FailureRecord(reason="not_found", ticket=lease.ticket, fence=lease.fence)
        await backlog.fail(lease, failure)
    for run, left in ((runs[2], ["run-1", "run-0"]), (runs[0], ["run-1"]), (runs[1], [])):
        assert isinstance(await backlog.add(make_event(environment="eu", **run)), Queued)
        assert await redis.zcard(keys.failed) == bool(left)
        if left:
            (job,) = cast("list[bytes]", await redis.zrange(keys.failed, 0, -1))
            failed = await read_failed(redis, keys, job.decode())
            assert [event.ticket.delivery for event in failed.events] == left
            retry = plan_retry(failed, {})
            assert isinstance(retry, Requeue)
            assert retry.ticket.delivery in left
            assert await redis.hget(keys.counts, "failed:not_found") == b"1"
    lease = await claim_lease(backlog)
    assert [event.ticket.delivery for event in lease.events] == ["run-2", "run-0", "run-1"]
    await fail_remaining(backlog)


async def test_add_of_an_id_under_another_job_keeps_the_failure_of_another_delivery(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Both reported one deployment, and the record is that of the second one."""
    for delivery, outcome in (("first", "succeeded"), ("second", "failed")):
        await backlog.add(make_event(1, delivery=delivery, outcome=outcome))
        lease = await claim_lease(backlog)
        failure = FailureRecord(reason="x", ticket=lease.ticket, fence=lease.fence)
        await backlog.fail(lease, failure)
    (job,) = cast("list[bytes]", await redis.zrange(keys.failed, 0, -1))
    moved = make_event(2, delivery="first", outcome="succeeded")
    assert isinstance(await backlog.add(moved), Queued)
    assert await redis.zrange(keys.failed, 0, -1) == [job]
    moved = make_event(2, delivery="second", outcome="failed")
    assert isinstance(await backlog.add(moved), Queued)
    assert await redis.zcard(keys.failed) == 0
    await fail_remaining(backlog)


async def corrupt_ticket(redis: Redis, keys: Keys, job: str) -> None:
    """Make the first byte of a stored ticket one that no ticket begins with."""
    stored = cast("bytes", await redis.hget(keys.tickets, job))
    await redis.hset(keys.tickets, job, stored[:14] + b"\xff" + stored[15:])


async def fail_corrupt(backlog: Backlog) -> str:
    """Claim a corrupt ticket and fail it as a worker does."""
    (corrupt,) = (await backlog.claim(1)).leases
    assert isinstance(corrupt, CorruptTicket)
    failure = FailureRecord(reason="corrupt_ticket", raw=corrupt.raw, fence=corrupt.fence)
    return await backlog.fail(corrupt, failure)


async def test_fail_of_a_corrupt_ticket_ends_however_many_events_it_holds(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Failed events that are queued again join those that wait."""
    job = job_key(make_run(0))
    for number in range(MAX_EVENTS):
        await backlog.add(make_run(number))
        await backlog.fail(await claim_lease(backlog), FailureRecord(reason="x"))
    for number in (*range(MAX_EVENTS, 2 * MAX_EVENTS - 1), 0):
        await backlog.add(make_run(number))
    await corrupt_ticket(redis, keys, job)
    assert await fail_corrupt(backlog) == "failed"
    assert await redis.zcard(keys.backlog) == 0
    assert (await read_failure_record(redis, keys, job)).reason == "corrupt_ticket"


async def test_fail_of_a_corrupt_ticket_keeps_the_failed_events_of_its_job(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """They can still be retried."""
    job = job_key(make_run(0))
    await backlog.add(make_run(0))
    await backlog.fail(await claim_lease(backlog), FailureRecord(reason="x"))
    await backlog.add(make_run(1))
    await corrupt_ticket(redis, keys, job)
    assert await fail_corrupt(backlog) == "failed"
    failed = await read_failed(redis, keys, job)
    assert [event.ticket.delivery for event in failed.events] == ["run-0"]


async def test_add_to_a_full_backlog_returns_a_retry_delay(
    group_commit: GroupCommit, keys: Keys, backlog_config: BacklogConfig
) -> None:
    """It stores no delivery mark, so the retry of the sender is not a duplicate."""
    small = msgspec.structs.replace(backlog_config, max_tickets=2)
    backlog = build_backlog(group_commit, keys=keys, config=small, new_token=lambda: "t")
    await backlog.add(make_event(1))
    await backlog.add(make_event(2))
    full = await backlog.add(make_event(3))
    assert isinstance(full, BacklogFull)
    assert full.retry_after_s == 20  # two tickets at the lowest rate that is assumed, 0.1/s
    assert isinstance(await backlog.add(make_event(2, delivery="other")), Queued)
    await fail_remaining(backlog)
    assert isinstance(await backlog.add(make_event(3)), Queued)
    await fail_remaining(backlog)


async def test_park_of_the_same_event_stores_it_once(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The event is stored with its body, for a person."""
    event = Unmappable("version is missing", ("version",), "d1", b'{"a":1}')
    assert await backlog.park("github", event)
    assert not await backlog.park("github", event)
    record = await read_failure_record(redis, keys, "unmappable:github/d1")
    assert (record.reason, record.raw) == ("unmappable", b'{"a":1}')


async def test_claim_of_bytes_that_are_no_ticket_returns_a_corrupt_ticket(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Corrupt bytes block no worker: they are leased and can be failed."""
    for job, stored in (("a", b""), ("b", b"xyz"), ("c", b"\x00" * 14 + b"\xc1"), ("d", b"z" * 40)):
        await redis.hset(keys.tickets, job, stored)
        await redis.zadd(keys.backlog, {job: 1})
    claimed = await backlog.claim(4)
    assert len(claimed.leases) == 4
    for lease in claimed.leases:
        assert isinstance(lease, CorruptTicket)
        assert await backlog.fail(lease, FailureRecord(reason="corrupt_ticket")) == "failed"


async def test_claim_of_a_job_without_a_ticket_removes_the_job(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Otherwise every claim would find it again."""
    await redis.zadd(keys.backlog, {"id:ghost": 1})
    assert (await backlog.claim(1)).leases == []
    assert await redis.zcard(keys.backlog) == 0


async def test_scripts_after_script_flush_are_loaded_again(backlog: Backlog, redis: Redis) -> None:
    """The group commit loads a script that the server no longer knows."""
    await backlog.add(make_event(1))
    await redis.script_flush()
    assert isinstance(await backlog.add(make_event(2)), Queued)
    await redis.script_flush()
    assert len((await backlog.claim(2)).leases) == 2
    await fail_remaining(backlog)


@pytest.mark.parametrize("count", [300])
async def test_many_concurrent_adds_share_round_trips(
    backlog: Backlog, redis: Redis, keys: Keys, count: int
) -> None:
    """The server reads its socket far less often than there are calls."""
    before = (await redis.info("stats"))["total_reads_processed"]
    await asyncio.gather(*(backlog.add(make_event(number)) for number in range(count)))
    after = (await redis.info("stats"))["total_reads_processed"]
    assert await redis.zcard(keys.backlog) == count
    assert after - before < count / 5
    await redis.delete(keys.backlog, keys.tickets)
