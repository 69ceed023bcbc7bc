"""Tests of claim.lua: whose turn it is, and how much one call of the script does."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.backlog import Backlog
from service.backlog.ticket import Lease
from service.store.keys import Keys
from tests.factories import make_event


@pytest.fixture(autouse=True)
async def _many_calls(redis: Redis, keys: Keys) -> Any:
    """Let the budget allow a thousand calls; empty the backlog afterwards."""
    await redis.hset(keys.budget, "probe", "1000")
    await redis.pexpire(keys.budget, 60_000)
    yield
    await redis.delete(keys.backlog, keys.tickets)


async def add_ticket(backlog: Backlog, number: int, environment: str, **fields: Any) -> None:
    """Queue a ticket that has to be found by its version."""
    fields = {"environment": environment, "deployment_id": None} | fields
    await backlog.add(make_event(number, **fields))


async def claim_leases(backlog: Backlog, limit: int, *, followers: int = 0) -> list[Lease]:
    """Claim; every lease must hold a readable ticket."""
    leases = (await backlog.claim(limit, followers=followers)).leases
    return [lease for lease in leases if isinstance(lease, Lease)]


async def postpone_all(backlog: Backlog, leases: Sequence[Lease], *, attempts: int = 1) -> None:
    """Put tickets back; they are due at once, after this many attempts."""
    for lease in leases:
        await backlog.postpone(lease, replace(lease.ticket, attempts=attempts), delay_s=0)


async def read_places(redis: Redis, keys: Keys) -> list[tuple[bytes, float]]:
    """Return each job with its score, the lowest first."""
    places = await redis.zrange(keys.backlog, 0, -1, withscores=True)
    return [(job, score) for job, score in cast("list[tuple[bytes, float]]", places)]


def environments(leases: Sequence[Lease]) -> list[str | None]:
    """Return the environments of the leases, in the order in which they got their calls."""
    return [lease.ticket.environment for lease in leases]


async def test_first_attempt_is_claimed_before_all_retries(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Many environments that LaunchDarkly does not know delay a new deployment by no call."""
    for number in range(200):
        await add_ticket(backlog, number, f"unknown-{number}")
    tried = await claim_leases(backlog, 64) + await claim_leases(backlog, 64)
    tried += await claim_leases(backlog, 64) + await claim_leases(backlog, 64)
    await postpone_all(backlog, tried)
    for lease in tried[:100]:  # half of them have waited for long, and did not get a place yet
        await redis.zadd(keys.backlog, {lease.job: 1000})
    await add_ticket(backlog, 200, "production")
    assert environments(await claim_leases(backlog, 1)) == ["production"]
    assert len(await claim_leases(backlog, 64)) == 64


async def test_environment_with_many_tickets_delays_another_by_one_call(backlog: Backlog) -> None:
    """Each call goes to the next environment, so a single ticket waits for one turn of each."""
    for number in range(300):
        await add_ticket(backlog, number, "busy")
    await claim_leases(backlog, 3)
    await add_ticket(backlog, 300, "quiet")
    assert "quiet" in environments(await claim_leases(backlog, 2))


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("attempts", [0, 1])
async def test_environments_get_equal_shares_of_the_calls(
    backlog: Backlog, known: bool, attempts: int
) -> None:
    """Among first attempts and among retries; the share does not depend on what waits."""
    for number in range(60):
        environment = f"environment-{min(number // 5, 4)}"  # the last has 40 tickets
        fields = {} if known else {"deployment_id": None}
        await backlog.add(make_event(number, environment=environment, **fields))
    if attempts:
        await postpone_all(backlog, await claim_leases(backlog, 60), attempts=attempts)
    claimed = [lease for _ in range(10) for lease in await claim_leases(backlog, 2)]
    assert set(Counter(environments(claimed)).values()) == {4}


async def test_retries_get_one_call_in_ten_while_first_attempts_are_due(backlog: Backlog) -> None:
    """They wait, and none waits forever."""
    for number in range(4):
        await add_ticket(backlog, number, "unknown")
    await postpone_all(backlog, await claim_leases(backlog, 4))
    for number in range(4, 100):
        await add_ticket(backlog, number, f"environment-{number % 7}")
    claimed = [lease for _ in range(10) for lease in await claim_leases(backlog, 4)]
    retries = [nth for nth, lease in enumerate(claimed) if lease.ticket.attempts]
    assert len(retries) == 4
    assert {after - before for before, after in itertools.pairwise(retries)} == {10}


async def test_ticket_of_a_dead_worker_is_claimed_like_a_first_attempt(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """Its lease ran out; nobody knows how far its worker came."""
    for number in range(50):
        await add_ticket(backlog, number, f"unknown-{number}")
    tried = await claim_leases(backlog, 50)
    await postpone_all(backlog, tried[1:])
    await redis.zadd(keys.backlog, {tried[0].job: 5000.5})
    (lease,) = await claim_leases(backlog, 1)
    assert (lease.job, lease.crashes) == (tried[0].job, 1)


async def test_attempt_that_did_not_count_is_no_retry(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A rate limit or a stop of the worker does not send a ticket behind the others."""
    for number in range(3):
        await add_ticket(backlog, number, f"environment-{number}")
    claimed = await claim_leases(backlog, 3)
    await postpone_all(backlog, claimed[:2])
    await backlog.postpone(claimed[2], claimed[2].ticket, delay_s=60)
    await redis.zadd(keys.backlog, {claimed[2].job: 1000})  # the wait is over
    (first,) = await claim_leases(backlog, 1)
    assert first.job == claimed[2].job


async def test_newer_event_of_a_waiting_ticket_does_not_lose_its_place(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """A sender that repeats its events often does not push its own ticket back."""
    await add_ticket(backlog, 1, "production", delivery="first")
    ((job, place),) = await read_places(redis, keys)
    await redis.zadd(keys.backlog, {job: place - 60})  # it has waited for a minute
    await add_ticket(backlog, 1, "production", delivery="second", outcome="failed")
    assert await read_places(redis, keys) == [(job, place - 60)]
    (lease,) = await claim_leases(backlog, 1)
    assert len(lease.events) == 2


async def test_claim_of_a_large_batch_is_cut_into_slices_with_one_leader(
    backlog: Backlog, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One script leases at most 150 followers, and all slices share one call."""
    sizes: list[int] = []
    claim_slice = backlog._claim_slice

    async def record_slice(*args: Any, **options: Any) -> Any:
        claimed, leader = await claim_slice(*args, **options)
        sizes.append(len(claimed.leases))
        return claimed, leader

    monkeypatch.setattr(backlog, "_claim_slice", record_slice)
    for number in range(700):
        await add_ticket(backlog, number, "production")
    await add_ticket(backlog, 700, "staging")
    leases = await claim_leases(backlog, 10, followers=1000)
    assert (len(leases), sum(lease.leader is None for lease in leases)) == (701, 2)
    assert await redis.zcard(keys.budget_calls) == 2
    assert max(sizes) <= 152
    assert {await redis.zscore(keys.backlog, lease.job) for lease in leases} == {
        lease.fence for lease in leases
    }


async def test_claim_of_many_tickets_gives_out_a_bounded_number_of_calls(backlog: Backlog) -> None:
    """A worker with more capacity claims again at once."""
    for number in range(200):
        await add_ticket(backlog, number, "production")
    claimed = await backlog.claim(150)
    assert (len(claimed.leases), claimed.sleep_s) == (64, 0)


async def count_commands(redis: Redis) -> Counter[str]:
    """Return how often the server has executed each command."""
    stats = cast("dict[str, dict[str, int]]", await redis.info("commandstats"))
    return Counter({name.removeprefix("cmdstat_"): used["calls"] for name, used in stats.items()})


async def test_claim_from_many_environments_reads_each_of_them_once(
    backlog: Backlog, redis: Redis
) -> None:
    """One range query finds the environment whose turn it is, and its first ticket."""
    for number in range(80):
        await backlog.add(make_event(number, environment=f"environment-{number}"))
    before = await count_commands(redis)
    assert len(await claim_leases(backlog, 64)) == 64
    spent = await count_commands(redis) - before
    assert spent["zrangebyscore"] < 64 + 10
    assert spent["pexpire"] < 10


async def test_tickets_that_became_due_enter_their_lines_a_page_at_a_time(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """However many wait, one claim moves 250 of them."""
    for number in range(600):
        await add_ticket(backlog, number, f"environment-{number % 3}")
    jobs = [job for job, _ in await read_places(redis, keys)]
    await redis.zadd(keys.backlog, dict.fromkeys(jobs, 1000))
    assert (await backlog.claim(0)).sleep_s == 0
    assert await redis.zcount(keys.backlog, 0, "+inf") == 350
    for _ in range(10):
        await backlog.claim(60)
    assert await redis.zcount(keys.backlog, "-inf", 1000) == 0


async def test_closed_list_route_does_not_block_a_ticket_with_an_id(
    backlog: Backlog, redis: Redis, keys: Keys
) -> None:
    """However many environments wait for a list, the claims get past them."""
    for number in range(250):
        await add_ticket(backlog, number, f"environment-{number}")
    await backlog.add(make_event(1000, project="zzz"))
    now = int((await redis.time())[0]) * 1000
    await redis.hset(keys.budget, "route:list", f"10 0 {now + 60_000} reported")
    await redis.hset(keys.budget, "route:get", f"10 5 {now + 60_000} reported")
    claims = [await backlog.claim(5) for _ in range(3)]
    assert [len(claimed.leases) for claimed in claims].count(1) == 1
    assert all(0 <= (claimed.sleep_s or 0) <= 60 for claimed in claims)
