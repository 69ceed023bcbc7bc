"""Tests of claim.lua: which tickets share the list call of another."""

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.backlog import Backlog
from service.backlog.ticket import Lease
from service.store.keys import Keys
from tests.factories import make_event


async def add_ticket(backlog: Backlog, number: int, *, known: bool = False, **fields: Any) -> None:
    """Queue one ticket, to be found by its version unless its deployment id is known."""
    event = make_event(number, **fields)
    await backlog.add(event if known else replace(event, deployment_id=None))


async def allow_calls(redis: Redis, keys: Keys, calls: int) -> None:
    """Let the budget allow this many calls."""
    await redis.hset(keys.budget, "probe", str(calls))
    await redis.pexpire(keys.budget, 60_000)


async def claim_leases(backlog: Backlog, limit: int = 100, *, followers: int = 1000) -> list[Lease]:
    """Claim; every lease must hold a readable ticket."""
    leases = (await backlog.claim(limit, followers=followers)).leases
    assert all(isinstance(lease, Lease) for lease in leases)
    return [lease for lease in leases if isinstance(lease, Lease)]


@pytest.fixture(autouse=True)
async def _empty_backlog(redis: Redis, keys: Keys) -> Any:
    yield
    await redis.delete(keys.backlog, keys.tickets)


def count_batches(leases: list[Lease]) -> Counter[str]:
    """Count the leases per list call."""
    return Counter(lease.leader or lease.job for lease in leases)


async def test_claim_of_one_environment_shares_one_call(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Each available call starts one environment; no ticket is missed or leased twice."""
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


async def test_claim_of_similar_names_keeps_environments_apart(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The parts of a job are percent-encoded, so a slash in a name separates nothing."""
    await allow_calls(redis, keys, 100)
    await add_ticket(backlog, 1, project="a/b", environment="c")
    await add_ticket(backlog, 2, project="a", environment="b/c")
    await add_ticket(backlog, 3, project="a", environment="b", application="c")
    await add_ticket(backlog, 4, project="a%2Fb", environment="c")
    assert sorted(count_batches(await claim_leases(backlog)).values()) == [1, 1, 1, 1]


@pytest.mark.parametrize(("limit", "followers", "expected"), [(1, 5, 6), (3, 0, 3), (1, 500, 301)])
async def test_claim_limits_the_number_of_followers(
    backlog: Backlog, redis: Redis, keys: Keys, limit: int, followers: int, expected: int
) -> None:
    """The limit of the worker holds, also beyond the jobs that the first scan reads."""
    await allow_calls(redis, keys, 100)
    for number in range(301):
        await add_ticket(backlog, number)
    leases = await claim_leases(backlog, limit, followers=followers)
    assert len(leases) == expected
    assert sum(lease.leader is None for lease in leases) == (limit if not followers else 1)
    more = await claim_leases(backlog, 1)
    assert len(more) == 301 - expected


async def test_claim_of_many_batches_takes_as_many_followers_as_the_worker_has_room_for(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """The tickets with calls of their own, which come first, do not count as followers."""
    await allow_calls(redis, keys, 1000)
    for number in range(30):
        await add_ticket(backlog, number, environment=f"e{number}")
    for number in range(30, 330):
        await add_ticket(backlog, number, environment="zz-large")
    leases = await claim_leases(backlog, 64, followers=160)
    assert sum(lease.leader is not None for lease in leases) == 160


async def test_claim_of_tickets_with_an_id_shares_a_list_only_while_calls_are_scarce(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A list may hold much that nobody needs; with enough calls each ticket gets its own."""
    for number in range(20):
        await add_ticket(backlog, number, known=True)
    await allow_calls(redis, keys, 50)
    separate = await claim_leases(backlog, 4)
    assert len(count_batches(separate)) == 4
    await redis.delete(keys.budget_calls)
    await allow_calls(redis, keys, 2)
    shared = await claim_leases(backlog, 4)
    assert list(count_batches(shared).values()) == [16]


async def test_claim_of_few_tickets_with_an_id_uses_a_call_each(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Tickets without an application do not count, because their sender named no scope."""
    for number in range(4):
        await add_ticket(backlog, number, known=True, environment=f"environment-{number // 2}")
    for number in range(4, 9):
        await add_ticket(backlog, number, known=True, application=None)
    await allow_calls(redis, keys, 6)
    assert list(count_batches(await claim_leases(backlog)).values()) == [1] * 6


async def test_claim_without_list_calls_gets_tickets_by_id(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Each route has its own limit: a used-up route does not block the other."""
    for number in range(6):
        await add_ticket(backlog, number, known=True)
    await allow_calls(redis, keys, 3)
    now = int((await redis.time())[0]) * 1000
    await redis.hset(keys.budget, "route:list", f"10 0 {now + 60_000} reported")
    await redis.hset(keys.budget, "route:get", f"10 3 {now + 60_000} reported")
    await redis.hset(keys.budget, "other_clients_per_s", "0")
    assert list(count_batches(await claim_leases(backlog)).values()) == [1] * 3


@pytest.mark.parametrize("known", [False, True])
async def test_claim_after_crashes_leases_smaller_batches_and_at_last_each_alone(
    backlog: Backlog, redis: Redis, keys: Keys, known: bool
) -> None:
    """A ticket that kills its workers is found and harms few; the others still share calls."""
    for number in range(68):
        await add_ticket(backlog, number, known=known)
    sizes = []
    for crashes in range(5):
        await allow_calls(redis, keys, 60)
        leases = await claim_leases(backlog)
        assert {lease.crashes for lease in leases} == {crashes}
        sizes.append(sorted(count_batches(leases).values(), reverse=True))
        for lease in leases:  # the lease runs out, as if its worker had died
            await redis.zadd(keys.backlog, {lease.job: 1.5})
    assert sizes == [[68], [64, 4], [16, 16, 16, 16, 4], [4] * 17, [1] * 60]


async def test_claim_of_a_ticket_without_crashes_leaves_crashed_ones_to_others(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A new ticket is not risked with tickets that may have killed a worker."""
    await allow_calls(redis, keys, 100)
    await add_ticket(backlog, 1)
    for lease in await claim_leases(backlog):
        await redis.zadd(keys.backlog, {lease.job: 1.5})
    for number in (2, 3):
        await add_ticket(backlog, number)
    batches = count_batches(leases := await claim_leases(backlog))
    assert sorted(batches.values()) == [1, 2]
    assert {lease.crashes for lease in leases if batches[lease.leader or lease.job] == 1} == {1}


async def test_claim_repeated_after_a_lost_reply_returns_the_same_leaders(
    backlog: Backlog, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that was lost meanwhile is not in the repeated reply."""
    await allow_calls(redis, keys, 100)
    for number in range(4):
        await add_ticket(backlog, number)
    monkeypatch.setattr(backlog, "_new_token", lambda: "the same")
    first = await claim_leases(backlog)
    repeated = await claim_leases(backlog)
    assert [(lease.job, lease.fence, lease.leader) for lease in repeated] == [
        (lease.job, lease.fence, lease.leader) for lease in first
    ]
    await redis.zadd(keys.backlog, {first[0].job: 1})
    remaining = await claim_leases(backlog)
    assert [lease.job for lease in remaining] == [lease.job for lease in first[1:]]
