"""Tests of the hand-over: an idle system leases a new ticket to a waiting worker at once."""

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from service.backlog.backlog import Backlog
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease, decode_handed_over
from service.store.keys import Keys
from tests.backlog.claims import claim_lease
from tests.factories import make_event


async def take_element(redis: Redis, keys: Keys) -> bytes | None:
    """Take the element of the wakeup list, as a worker does that waits."""
    return cast("bytes | None", await redis.lpop(keys.wakeup))


async def take_lease(redis: Redis, keys: Keys) -> Lease | None:
    """Take the lease that was handed over, if there is one."""
    lease = decode_handed_over(await take_element(redis, keys) or b"")
    assert lease is None or isinstance(lease, Lease)
    return lease


@pytest.fixture(autouse=True)
async def _waiting_worker(backlog: Backlog, redis: Redis, keys: Keys) -> Any:
    """Let a worker wait; empty the backlog afterwards."""
    assert (await backlog.claim(4, followers=4, waits=True)).sleep_s is None
    yield
    await redis.delete(keys.backlog, keys.tickets)


@pytest.mark.parametrize("fields", [{}, {"deployment_id": None}])
async def test_add_on_an_idle_system_hands_the_ticket_to_the_waiting_worker(
    backlog: Backlog, redis: Redis, keys: Keys, fields: dict[str, Any]
) -> None:
    """The lease is like that of a claim: it has a call, a fence, and nobody else gets it."""
    await backlog.add(make_event(1, **fields))
    lease = await take_lease(redis, keys)
    assert lease is not None
    assert await redis.zscore(keys.backlog, lease.job) == lease.fence
    assert await redis.zrange(keys.budget_calls, 0, -1) == [lease.job.encode()]
    assert await redis.hget(keys.counts, "leased") == b"1"
    assert (lease.generation, lease.crashes, lease.leader) == (1, 0, None)
    assert lease.ticket.delivery == "delivery-1"
    assert not (await backlog.claim(4)).leases
    assert await backlog.fail(lease, FailureRecord(reason="test")) == "failed"
    assert await redis.zcard(keys.backlog) == await redis.zcard(keys.budget_calls) == 0


async def test_add_repeated_under_its_token_hands_over_once(
    backlog: Backlog, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a lost reply of the add, the worker keeps its lease."""
    monkeypatch.setattr(backlog, "_new_token", lambda: "same")
    await backlog.add(make_event(1))
    lease = await take_lease(redis, keys)
    await backlog.add(make_event(1))
    assert lease is not None
    assert await take_element(redis, keys) is None
    assert await redis.zscore(keys.backlog, lease.job) == lease.fence


async def test_tickets_that_arrive_together_share_calls(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Only the first one is handed over; one list call serves the others."""
    await asyncio.gather(
        *(backlog.add(make_event(number, deployment_id=None)) for number in range(20))
    )
    first = await take_lease(redis, keys)
    assert first is not None
    leases = (await backlog.claim(4, followers=30)).leases
    assert len(leases) == 19
    assert await redis.zcard(keys.budget_calls) == 2


async def test_ticket_that_no_worker_takes_is_claimed_as_if_it_was_not_handed_over(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """No crash is counted, and its call is not lost."""
    await backlog.add(make_event(1))
    lease = await claim_lease(backlog)
    assert lease.crashes == 0
    assert await redis.zcard(keys.budget_calls) == 1
    assert await redis.hget(keys.counts, "leased") == b"1"
    assert await take_element(redis, keys) is None


async def test_ticket_whose_worker_died_after_taking_it_is_claimed_when_its_lease_ends(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """As after a claim."""
    await backlog.add(make_event(1))
    taken = await take_lease(redis, keys)
    lease = await claim_lease(backlog)
    assert taken is not None
    assert (lease.job, lease.crashes) == (taken.job, 1)
    assert await backlog.fail(taken, FailureRecord(reason="test")) == "lease_lost"


async def call_for_another(backlog: Backlog, redis: Redis, keys: Keys) -> None:
    """Let a worker make a call for another ticket."""
    await backlog.add(make_event(2))
    assert await take_lease(redis, keys)


async def let_another_wait(backlog: Backlog, redis: Redis, keys: Keys) -> None:
    """Let another ticket be due."""
    await call_for_another(backlog, redis, keys)
    (job,) = cast("list[bytes]", await redis.zrange(keys.backlog, 0, -1))
    await redis.zadd(keys.backlog, {job: 1000})
    await redis.delete(keys.budget_calls)


async def end_the_wait(_: Backlog, redis: Redis, keys: Keys) -> None:
    """Let no worker wait."""
    await redis.delete(keys.waiting_worker)


async def close_the_budget(_: Backlog, redis: Redis, keys: Keys) -> None:
    """Let LaunchDarkly refuse calls for a while."""
    await redis.hset(keys.budget, "closed_until", "9000000000000")
    await redis.pexpire(keys.budget, 60_000)


async def queue_the_job_before(backlog: Backlog, redis: Redis, keys: Keys) -> None:
    """Let an earlier event of the deployment wait for its next attempt."""
    await backlog.add(make_event(1, delivery="earlier"))
    lease = await take_lease(redis, keys)
    assert lease is not None
    await backlog.postpone(lease, lease.ticket, delay_s=60)


@pytest.mark.parametrize(
    "prepare",
    [
        call_for_another,
        let_another_wait,
        end_the_wait,
        close_the_budget,
        queue_the_job_before,
    ],
)
async def test_add_on_a_system_that_is_not_idle_only_wakes_a_worker(
    backlog: Backlog, redis: Redis, keys: Keys, prepare: Any
) -> None:
    """Then the turn, and the call that several tickets may share, are up to the claim."""
    await prepare(backlog, redis, keys)
    await redis.delete(keys.wakeup)
    await backlog.add(make_event(1, outcome="failed"))
    assert await take_element(redis, keys) == b"1"


async def test_ticket_that_was_handed_over_had_the_turn_of_its_environment(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The next call goes to another environment."""
    await backlog.add(make_event(1, environment="busy"))
    assert await take_lease(redis, keys)
    await backlog.add(make_event(2, environment="busy"))
    await backlog.add(make_event(3, environment="quiet"))
    lease = await claim_lease(backlog)
    assert lease.ticket.environment == "quiet"
