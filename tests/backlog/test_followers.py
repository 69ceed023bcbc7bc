"""Which tickets come along on another's call? Those that one list can serve, within bounds."""

from collections import Counter
from typing import Any, cast

import msgspec
import pytest
from redis.asyncio import Redis

from service.accept.mapping import DeploymentCompleted
from service.backlog.backlog import Backlog
from service.backlog.ticket import Lease
from service.store.keys import Keys


async def add_ticket(backlog: Backlog, number: int, *, known: bool = False, **changes: Any) -> None:
    """Let one ticket wait."""
    defaults: dict[str, Any] = {
        "project": "default",
        "environment": "production",
        "application": "shop",
        "version": str(number),
        "deployment_id": f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}" if known else None,
    }
    event = DeploymentCompleted(
        source="native",
        delivery=f"delivery-{number}",
        outcome="succeeded",
        event_time=None,
        metadata=msgspec.Raw(b"{}"),
        metadata_dropped=False,
        traceparent=None,
        **{**defaults, **changes},
    )
    await backlog.add(event)


async def allow_calls(redis: Redis, keys: Keys, calls: int) -> None:
    """Let so many calls be made."""
    await redis.hset(keys.budget, "probe", str(calls))
    await redis.pexpire(keys.budget, 60_000)


async def claim_leases(backlog: Backlog, limit: int = 100, *, followers: int = 1000) -> list[Lease]:
    """Claim; all of it must be readable."""
    leases = (await backlog.claim(limit, followers=followers)).leases
    assert all(isinstance(lease, Lease) for lease in leases)
    return [lease for lease in leases if isinstance(lease, Lease)]


@pytest.fixture(autouse=True)
async def _empty_backlog(redis: Redis, keys: Keys) -> Any:
    yield
    await redis.delete(keys.backlog, keys.tickets)


def count_batches(leases: list[Lease]) -> Counter[str]:
    """Count who shares whose call."""
    return Counter(lease.leader or lease.job for lease in leases)


async def test_those_of_one_environment_share_one_call(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """And as many environments are begun as calls may be made; nothing is left out or doubled."""
    await allow_calls(redis, keys, 2)
    for number in range(60):
        await add_ticket(backlog, number, environment=f"environment-{number % 3}")
    leases = await claim_leases(backlog)
    assert sorted(count_batches(leases).values()) == [20, 20]
    assert len({lease.job for lease in leases}) == 40
    assert len({lease.ticket.environment for lease in leases}) == 2
    assert await redis.zcard(keys.budget_calls) == 2
    assert await claim_leases(backlog) == []
    fences = {await redis.zscore(keys.backlog, lease.job) for lease in leases}
    assert fences == {lease.fence for lease in leases}


async def test_names_that_look_alike_are_not_one_environment(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Parts of a job's name are percent-encoded: a slash in one is none between two."""
    await allow_calls(redis, keys, 100)
    await add_ticket(backlog, 1, project="a/b", environment="c")
    await add_ticket(backlog, 2, project="a", environment="b/c")
    await add_ticket(backlog, 3, project="a", environment="b", application="c")
    await add_ticket(backlog, 4, project="a%2Fb", environment="c")
    assert sorted(count_batches(await claim_leases(backlog)).values()) == [1, 1, 1, 1]


@pytest.mark.parametrize(("limit", "company", "expected"), [(1, 5, 6), (3, 0, 3), (1, 500, 301)])
async def test_company_is_bounded(
    backlog: Backlog, redis: Redis, keys: Keys, limit: int, company: int, expected: int
) -> None:
    """By what a worker has room for; also where the first look at the backlog does not reach."""
    await allow_calls(redis, keys, 100)
    for number in range(301):
        await add_ticket(backlog, number)
    leases = await claim_leases(backlog, limit, followers=company)
    assert len(leases) == expected
    assert sum(lease.leader is None for lease in leases) == (limit if not company else 1)
    more = await claim_leases(backlog, 1)
    assert len(more) == 301 - expected


async def test_few_who_know_an_id_come_along_only_while_calls_are_scarce(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A list may hold much that nobody wants: with calls to spare each asks for its own."""
    for number in range(20):
        await add_ticket(backlog, number, known=True)
    await allow_calls(redis, keys, 50)
    apart = await claim_leases(backlog, 4)
    assert len(count_batches(apart)) == 4
    await redis.delete(keys.budget_calls)
    await allow_calls(redis, keys, 2)
    job = "id:a0eebc99-9c0b-4ef8-bb6d-000000000019"
    stored = cast("bytes", await redis.hget(keys.tickets, job))
    grown = (
        stored[:14] + bytes((0xDC, 0, stored[14] & 15)) + stored[15:]
    )  # as if it had more fields than today
    await redis.hset(keys.tickets, job, grown)
    together = await claim_leases(backlog, 4)
    assert list(count_batches(together).values()) == [16]


async def test_few_with_an_id_are_not_worth_a_list(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Nor are those whose sender did not say where they were deployed."""
    for number in range(4):
        await add_ticket(backlog, number, known=True, environment=f"environment-{number // 2}")
    for number in range(4, 9):
        await add_ticket(backlog, number, known=True, application=None)
    await allow_calls(redis, keys, 6)
    assert list(count_batches(await claim_leases(backlog)).values()) == [1] * 6


async def test_without_room_for_a_list_ids_are_asked_for(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Each route has its own limit: one used up does not hold up the other."""
    for number in range(6):
        await add_ticket(backlog, number, known=True)
    await allow_calls(redis, keys, 3)
    now = int((await redis.time())[0]) * 1000
    await redis.hset(keys.budget, "route:list", f"10 0 {now + 60_000} reported")
    await redis.hset(keys.budget, "route:get", f"10 3 {now + 60_000} reported")
    await redis.hset(keys.budget, "other_clients_per_s", "0")
    assert list(count_batches(await claim_leases(backlog)).values()) == [1] * 3


async def test_what_may_kill_its_worker_is_handed_out_alone(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """After three leases that ran out it takes no others with it."""
    await allow_calls(redis, keys, 100)
    for number in range(5):
        await add_ticket(backlog, number)
    for crashes in range(4):
        leases = await claim_leases(backlog)
        assert {lease.crashes for lease in leases} == {crashes}
        assert len(count_batches(leases)) == (1 if crashes < 3 else 5)
        for lease in leases:  # time passes, and whoever held them is dead
            await redis.zadd(keys.backlog, {lease.job: 1.5})


async def test_a_claim_repeated_after_a_lost_reply_names_the_same_company(
    backlog: Backlog, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose call it is is not forgotten; a lease lost meanwhile is not handed out again."""
    await allow_calls(redis, keys, 100)
    for number in range(4):
        await add_ticket(backlog, number)
    monkeypatch.setattr(backlog, "_new_token", lambda: "the same")
    first = await claim_leases(backlog)
    again = await claim_leases(backlog)
    assert [(lease.job, lease.fence, lease.leader) for lease in again] == [
        (lease.job, lease.fence, lease.leader) for lease in first
    ]
    await redis.zadd(keys.backlog, {first[0].job: 1})
    rest = await claim_leases(backlog)
    assert [lease.job for lease in rest] == [lease.job for lease in first[1:]]
