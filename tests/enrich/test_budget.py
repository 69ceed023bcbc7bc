"""Tests of the budget against a real Redis: claim, acquire and record never exceed the quota."""

import asyncio
import itertools
from typing import cast

import msgspec
import pytest
from redis.asyncio import Redis

from service.backlog.backlog import BacklogConfig
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.enrich.budget import Budget
from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.conftest import Eventually
from tests.enrich.budget_harness import BudgetHarness

HOUR = 3_600_000


async def test_claim_with_an_unknown_limit_starts_with_four_calls_and_doubles(
    budget_harness: BudgetHarness,
) -> None:
    """Four calls are in flight at first, twice as many after each response without headers."""
    await budget_harness.add_tickets(30)
    jobs = await budget_harness.claim_jobs()
    assert len(jobs) == 4
    assert await budget_harness.claim_jobs() == []
    await budget_harness.record(jobs.pop())
    assert len(await budget_harness.claim_jobs()) == 8 - 3
    await budget_harness.record(jobs.pop())
    assert len(await budget_harness.claim_jobs()) == 16 - 7


async def test_claim_with_a_limit_never_reported_allows_at_most_64_calls(
    budget_harness: BudgetHarness,
) -> None:
    """The number of responses without headers does not matter."""
    await budget_harness.add_tickets(80)
    for _ in range(10):
        await budget_harness.record("id:answered")
    assert len(await budget_harness.claim_jobs()) == 64


async def test_remaining_bounds_claimed_and_acquired_calls_together(
    budget_harness: BudgetHarness,
) -> None:
    """All calls in flight together are at most Remaining."""
    await budget_harness.add_tickets(9)
    await budget_harness.report_window(7, limit=10, reset_ms=await budget_harness.now() + 9000)
    claimed = await budget_harness.claim_jobs(5)
    assert len(claimed) == 5
    assert [await budget_harness.acquire(job) for job in ("id:a", "id:b")] == [0, 0]
    assert await budget_harness.acquire("id:c") > 0
    claim = await budget_harness.claim()
    assert claim.leases == []
    assert claim.sleep_s is not None
    assert 0 < claim.sleep_s < 9.1


@pytest.mark.parametrize("order", list(itertools.permutations((5, 4, 3))))
async def test_remaining_from_responses_in_any_order_is_the_lowest(
    budget_harness: BudgetHarness, order: tuple[int, ...]
) -> None:
    """Resets that differ by some milliseconds name the same window."""
    await budget_harness.add_tickets(12)
    window_end = await budget_harness.now() + 9000
    for job, remaining in zip(await budget_harness.claim_jobs(3), order, strict=True):
        window = RateLimitWindow(
            family="global", limit=10, remaining=remaining, reset_ms=window_end + remaining * 20
        )
        await budget_harness.record(job, rate_limits=RateLimitHeaders(windows=(window,)))
    assert len(await budget_harness.claim_jobs()) == 3


async def test_late_response_of_an_older_window_is_ignored(budget_harness: BudgetHarness) -> None:
    """A window that ends earlier, or has ended, says nothing about the current one."""
    await budget_harness.add_tickets(12)
    now = await budget_harness.now()
    await budget_harness.report_window(5, limit=1000, reset_ms=now + 9000)
    await budget_harness.report_window(900, limit=1000, reset_ms=now + 1000)
    await budget_harness.report_window(0, limit=1000, reset_ms=now - 200)
    assert len(await budget_harness.claim_jobs()) == 5


async def test_late_response_of_an_ended_window_leaves_the_next_window_intact(
    budget_harness: BudgetHarness,
) -> None:
    """A response that arrives after its window's end does not count for the next window."""
    await budget_harness.add_tickets(12)
    now = await budget_harness.now()
    await budget_harness.report_window(900, limit=1000, reset_ms=now - 200)
    await budget_harness.report_window(3, limit=1000, reset_ms=now + 8000)
    assert len(await budget_harness.claim_jobs()) == 3


async def test_slow_response_with_an_old_date_opens_no_new_window(
    budget_harness: BudgetHarness,
) -> None:
    """A slow response has an old Date, but its window is the known one."""
    now = await budget_harness.now()
    await budget_harness.add_tickets(12)
    await budget_harness.report_window(0, limit=10, reset_ms=now + 8000)
    slow = RateLimitWindow(family="global", limit=10, remaining=9, reset_ms=now + 8000)
    await budget_harness.record(
        "id:slow", rate_limits=RateLimitHeaders(windows=(slow,), date_ms=now - 4000)
    )
    assert await budget_harness.claim_jobs() == []


async def test_new_window_opens_with_a_probe_and_then_completely(
    budget_harness: BudgetHarness, eventually: Eventually
) -> None:
    """The first response of the next window reports how many calls remain in it."""
    await budget_harness.add_tickets(30)
    await budget_harness.report_window(0, limit=20, reset_ms=await budget_harness.now() + 400)
    claim = await budget_harness.claim()
    assert claim.leases == []
    assert claim.sleep_s is not None
    assert 0 < claim.sleep_s <= 0.5
    claimed: list[str] = []

    async def opened() -> bool:
        claimed.extend(await budget_harness.claim_jobs())
        return bool(claimed)

    await eventually(opened)
    assert len(claimed) == 4
    await budget_harness.report_window(19, limit=20, reset_ms=await budget_harness.now() + 9000)
    assert len(await budget_harness.claim_jobs()) == 19 - 4


async def test_probe_with_a_known_limit_is_not_larger_than_it(
    budget_harness: BudgetHarness, eventually: Eventually
) -> None:
    """A known limit of two opens a window with two calls, not with four."""
    await budget_harness.add_tickets(9)
    await budget_harness.report_window(0, limit=2, reset_ms=await budget_harness.now() + 300)
    claimed: list[str] = []

    async def opened() -> bool:
        claimed.extend(await budget_harness.claim_jobs())
        return bool(claimed)

    await eventually(opened)
    assert len(claimed) == 2


@pytest.mark.parametrize(
    ("limit", "remaining", "ours"),
    [(10, 10, 8), (5, 5, 4), (5, 2, 1), (5, 1, 0), (1, 1, 1), (2, 2, 1)],
)
async def test_claim_with_a_share_of_four_fifths_leaves_a_fifth_of_the_limit(
    budget_harness: BudgetHarness, limit: int, remaining: int, ours: int
) -> None:
    """A limit of one still allows one call."""
    shared = BudgetHarness(
        budget_harness.redis,
        budget_harness.backlog._group_commit,
        budget_harness.keys,
        msgspec.structs.replace(budget_harness.backlog._config, rate_limit_share=0.8),
    )
    await shared.add_tickets(12)
    await shared.report_window(remaining, limit=limit, reset_ms=await shared.now() + 9000)
    assert len(await shared.claim_jobs()) == ours


@pytest.mark.parametrize("tightest", ["global", "token", "route:get"])
async def test_claim_with_several_families_is_bound_by_the_tightest(
    budget_harness: BudgetHarness, tightest: str
) -> None:
    """The family with the fewest remaining calls decides."""
    await budget_harness.add_tickets(12)
    window_end = await budget_harness.now() + 9000
    for family in ("global", "token", "route:get", "route:list"):
        remaining = 2 if family == tightest else 50
        await budget_harness.report_window(remaining, limit=100, reset_ms=window_end, family=family)
    assert len(await budget_harness.claim_jobs()) == 2
    assert await budget_harness.acquire("id:more") > 0


async def test_claim_when_one_route_is_used_up_continues_with_the_other(
    budget_harness: BudgetHarness,
) -> None:
    """Tickets without an id wait for the list's window; tickets with an id are claimed."""
    await budget_harness.add_tickets(8, with_id=False)
    await budget_harness.add_tickets(3)
    window_end = await budget_harness.now() + 9000
    await budget_harness.report_window(50, limit=100, reset_ms=window_end)
    await budget_harness.report_window(1, limit=5, reset_ms=window_end, family="route:list")
    claimed = await budget_harness.claim_jobs(4)
    assert sorted(job.partition(":")[0] for job in claimed) == ["find", "id", "id", "id"]
    assert await budget_harness.acquire("find:more", "list") > 0
    assert await budget_harness.acquire("id:more", "get") == 0


async def test_family_no_longer_reported_binds_no_calls(budget_harness: BudgetHarness) -> None:
    """An old report neither bounds nor delays the calls of known windows."""
    await budget_harness.add_tickets(60)
    now = await budget_harness.now()
    await budget_harness.redis.hset(
        budget_harness.keys.budget, "route:get", f"5 0 {now - 120_000} reported"
    )
    await budget_harness.report_window(50, limit=100, reset_ms=now + 9000)
    assert len(await budget_harness.claim_jobs()) == 50


@pytest.mark.parametrize("reset", [None, "far", "past"])
async def test_a_reset_that_cannot_be_believed_is_replaced_by_ten_seconds(
    budget_harness: BudgetHarness, reset: str | None
) -> None:
    """The remaining calls bind for one window if the reset is missing or unbelievable."""
    await budget_harness.add_tickets(12)
    now = await budget_harness.now()
    window_end = {None: None, "far": now + 2 * HOUR, "past": now - HOUR}[reset]
    await budget_harness.report_window(3, limit=10, reset_ms=window_end)
    await budget_harness.report_window(2, limit=10, reset_ms=window_end)
    await budget_harness.report_window(4, limit=10, reset_ms=window_end)
    assert len(await budget_harness.claim_jobs()) == 2
    claim = await budget_harness.claim()
    assert claim.sleep_s is not None
    assert claim.sleep_s <= 10.1


async def test_after_a_long_rest_the_last_limit_still_bounds_the_probe(
    budget_harness: BudgetHarness,
) -> None:
    """Without a newer report, a limit of two opens a window with two calls."""
    await budget_harness.add_tickets(9)
    ended = await budget_harness.now() - 3 * HOUR
    await budget_harness.redis.hset(budget_harness.keys.budget, "global", f"2 0 {ended} reported")
    await budget_harness.redis.pexpire(budget_harness.keys.budget, HOUR)
    assert len(await budget_harness.claim_jobs()) == 2


async def test_reported_window_replaces_an_assumed_one(budget_harness: BudgetHarness) -> None:
    """A response with a reset is not older than the assumed window before it."""
    await budget_harness.add_tickets(12)
    await budget_harness.report_window(9, limit=10, reset_ms=None)
    now = await budget_harness.now()
    await budget_harness.report_window(8, limit=10, reset_ms=now + 5000)
    await budget_harness.report_window(7, limit=10, reset_ms=now + 5000)
    assert len(await budget_harness.claim_jobs()) == 7


async def test_remaining_without_a_limit_binds_alone(budget_harness: BudgetHarness) -> None:
    """Some responses report only Remaining."""
    await budget_harness.add_tickets(12)
    await budget_harness.report_window(6, limit=None, reset_ms=await budget_harness.now() + 9000)
    assert len(await budget_harness.claim_jobs()) == 6


async def test_calls_of_a_dead_worker_return_to_the_budget(
    budget_harness: BudgetHarness, eventually: Eventually
) -> None:
    """The calls of a killed worker count as in flight only until their TTL ends."""
    await budget_harness.report_window(2, limit=10, reset_ms=await budget_harness.now() + 15_000)
    assert await budget_harness.acquire("id:a", ttl_ms=300) == 0
    assert await budget_harness.acquire("id:b", ttl_ms=300) == 0
    assert await budget_harness.acquire("id:c") > 0

    async def returned() -> bool:
        return await budget_harness.acquire("id:c") == 0

    await eventually(returned)
    assert await budget_harness.acquire("id:d") == 0
    assert await budget_harness.acquire("id:e") > 0


async def test_probe_of_a_dead_worker_is_followed_by_one_call_each_five_seconds(
    budget_harness: BudgetHarness,
) -> None:
    """A probe that nobody answers must not stop all calls until its TTL ends."""
    await budget_harness.add_tickets(20)
    assert len(await budget_harness.claim_jobs()) == 4  # all that an unknown limit allows
    await budget_harness.pass_time(4000)
    assert await budget_harness.claim_jobs() == []
    job = ""
    for _ in range(2):
        await budget_harness.pass_time(5001)
        (job,) = await budget_harness.claim_jobs()
        assert await budget_harness.acquire("id:begun") > 0
    await budget_harness.record(job)
    await budget_harness.report_window(50, limit=100, reset_ms=await budget_harness.now() + 9000)
    assert len(await budget_harness.claim_jobs()) == 14


async def test_probe_of_a_dead_worker_that_may_have_used_the_limit_is_waited_for(
    budget_harness: BudgetHarness,
) -> None:
    """A window of ten seconds has ended when the calls are 16 s old: they reached it within 6 s."""
    await budget_harness.add_tickets(9)
    ended = await budget_harness.now() - 3 * HOUR
    await budget_harness.redis.hset(budget_harness.keys.budget, "global", f"2 0 {ended} reported")
    assert len(await budget_harness.claim_jobs()) == 2
    for _ in range(3):
        await budget_harness.pass_time(5000)
        assert await budget_harness.claim_jobs() == []
    await budget_harness.pass_time(1100)
    assert len(await budget_harness.claim_jobs()) == 2


async def test_call_without_a_response_counts_as_used(budget_harness: BudgetHarness) -> None:
    """LaunchDarkly may have counted the call, so the window has one call less."""
    await budget_harness.add_tickets(12)
    await budget_harness.report_window(3, limit=10, reset_ms=await budget_harness.now() + 9000)
    for job in await budget_harness.claim_jobs(2):
        await budget_harness.record(job, "server_error")
    assert len(await budget_harness.claim_jobs()) == 1


async def test_acquire_of_a_begun_deployment_goes_before_new_tickets(
    budget_harness: BudgetHarness,
) -> None:
    """A deployment that waits for a further page gets the next free call."""
    await budget_harness.add_tickets(6)
    window_end = await budget_harness.now() + 9000
    await budget_harness.report_window(2, limit=10, reset_ms=window_end)
    first, second = await budget_harness.claim_jobs()
    assert await budget_harness.acquire("id:begun") > 0
    await budget_harness.record(first)
    await budget_harness.record(second)
    await budget_harness.report_window(2, limit=10, reset_ms=window_end)
    assert len(await budget_harness.claim_jobs()) == 1
    assert await budget_harness.acquire("id:begun") == 0
    assert await budget_harness.claim_jobs() == []


async def test_acquire_sent_twice_takes_one_call(
    budget_harness: BudgetHarness,
) -> None:
    """A call whose reply was lost does not block itself."""
    await budget_harness.report_window(1, limit=10, reset_ms=await budget_harness.now() + 9000)
    assert await budget_harness.acquire("id:a") == 0
    assert await budget_harness.acquire("id:a") == 0
    assert await budget_harness.acquire("id:b") > 0


async def test_acquire_in_a_used_up_window_waits_until_the_next_one(
    budget_harness: BudgetHarness,
) -> None:
    """The caller waits and then has its call."""
    await budget_harness.report_window(0, limit=10, reset_ms=await budget_harness.now() + 300)
    async with asyncio.timeout(10):
        await budget_harness.budget.acquire("id:begun", "get")
    assert await budget_harness.redis.zcard(budget_harness.keys.budget_calls) == 1
    assert await budget_harness.redis.zcard(budget_harness.keys.budget_waiting) == 0


@pytest.mark.parametrize("act", ["postpone", "fail"])
async def test_postpone_or_fail_with_a_lost_lease_returns_no_call(
    budget_harness: BudgetHarness, backlog_config: BacklogConfig, eventually: Eventually, act: str
) -> None:
    """The call in flight belongs to the worker that holds the ticket now."""
    await budget_harness.add_tickets(1)
    short_config = msgspec.structs.replace(backlog_config, lease_ms=50)
    lost_lease = (
        await BudgetHarness(
            budget_harness.redis,
            budget_harness.backlog._group_commit,
            budget_harness.keys,
            short_config,
        ).claim()
    ).leases[0]
    assert isinstance(lost_lease, Lease)

    async def taken_over() -> bool:
        return bool(await budget_harness.claim_jobs())

    await eventually(taken_over)
    if act == "postpone":
        assert (
            await budget_harness.backlog.postpone(lost_lease, lost_lease.ticket, delay_s=9)
            == "lease_lost"
        )
    else:
        assert (
            await budget_harness.backlog.fail(lost_lease, FailureRecord(reason="late"))
            == "lease_lost"
        )
    assert await budget_harness.redis.zcard(budget_harness.keys.budget_calls) == 1


async def test_record_of_a_new_window_wakes_a_worker(budget_harness: BudgetHarness) -> None:
    """One element is pushed for the first response of a window, none for the others."""
    await budget_harness.redis.delete(budget_harness.keys.wakeup)
    window_end = await budget_harness.now() + 9000
    await budget_harness.report_window(5, limit=10, reset_ms=window_end)
    assert await budget_harness.redis.llen(budget_harness.keys.wakeup) == 1
    await budget_harness.redis.delete(budget_harness.keys.wakeup)
    await budget_harness.report_window(4, limit=10, reset_ms=window_end)
    assert await budget_harness.redis.llen(budget_harness.keys.wakeup) == 0


async def test_budget_keys_all_expire(budget_harness: BudgetHarness) -> None:
    """Windows, calls in flight and waiting callers expire even if every worker is killed."""
    await budget_harness.add_tickets(3)
    await budget_harness.report_window(1, limit=10, reset_ms=await budget_harness.now() + 9000)
    assert len(await budget_harness.claim_jobs()) == 1
    assert await budget_harness.acquire("id:begun") > 0
    keys = budget_harness.keys
    for key in (keys.budget, keys.budget_calls, keys.budget_waiting, keys.wakeup):
        assert await budget_harness.redis.pttl(key) > 0, key


@pytest.mark.parametrize("name", ["{}", "list for {}"])
async def test_claim_from_a_deep_backlog_recovers_the_calls_of_dead_workers(
    redis: Redis,
    group_commit: GroupCommit,
    keys: Keys,
    backlog_config: BacklogConfig,
    eventually: Eventually,
    *,
    name: str,
) -> None:
    """The calls return when the leases end, although older tickets are due first."""
    short_config = msgspec.structs.replace(backlog_config, lease_ms=300, call_ttl_ms=HOUR)
    harness = BudgetHarness(redis, group_commit, keys, short_config)
    await harness.add_tickets(4)
    dead_jobs = await harness.claim_jobs()
    assert len(dead_jobs) == 4  # all that an unknown limit allows
    dead_calls = [name.format(job) for job in dead_jobs]
    calls_end = cast("float", await redis.zscore(keys.budget_calls, dead_jobs[0]))
    await redis.delete(keys.budget_calls)
    await redis.zadd(keys.budget_calls, dict.fromkeys(dead_calls, calls_end))
    older_jobs = [f"id:older-{number}" for number in range(150)]
    await redis.hset(keys.tickets, mapping=dict.fromkeys(older_jobs, "no ticket"))
    await redis.zadd(keys.backlog, dict.fromkeys(older_jobs, 1))
    assert await harness.claim_jobs() == []

    claimed_jobs: list[str] = []

    async def are_given_out() -> bool:
        claimed_jobs.extend(await harness.claim_jobs(1))
        return bool(claimed_jobs)

    await eventually(are_given_out)
    calls = cast("list[bytes]", await redis.zrange(keys.budget_calls, 0, -1))
    assert calls == [job.encode() for job in claimed_jobs]
    await redis.delete(keys.backlog, keys.tickets)


async def test_spare_call_is_acquired_only_while_no_ticket_is_due(
    budget_harness: BudgetHarness,
) -> None:
    """A deployment already begun gets the same call; a refused spare call waits for nothing."""
    begun, spare = (
        budget_harness.budget,
        Budget(
            budget_harness.backlog._group_commit,
            keys=budget_harness.keys,
            share=1.0,
            rng=lambda: 0.5,
            spare_only=True,
        ),
    )
    await budget_harness.add_tickets(1)
    budget_harness.budget = spare
    assert await budget_harness.acquire("spare") > 0
    budget_harness.budget = begun
    assert await budget_harness.acquire("begun") == 0
    assert len(await budget_harness.claim_jobs()) == 1  # the ticket is leased: it is not due now
    budget_harness.budget = spare
    assert await budget_harness.acquire("spare") == 0
