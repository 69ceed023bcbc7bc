"""When may nobody call, and for how long? Rate limits, clocks that differ, bad tokens, outages."""

import pytest

from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from tests.enrich.budget_harness import BudgetHarness

HOUR = 3_600_000


async def test_record_of_a_429_closes_the_budget_until_the_latest_hint(
    budget_harness: BudgetHarness,
) -> None:
    """Retry-After or a reset: the latest counts, with jitter, and a sooner one shortens nothing."""
    await budget_harness.add_tickets(3)
    now = await budget_harness.now()
    hints = RateLimitHeaders(retry_after_ms=10_000, resume_at_ms=now + 20_000)
    closed = await budget_harness.record("id:a", "rate_limited", hints)
    assert 15_000 < closed <= 20_100
    budget_harness.jitter = 0.999
    closed = await budget_harness.record(
        "id:b", "rate_limited", RateLimitHeaders(retry_after_ms=30_000)
    )
    assert 30_500 < closed <= 31_000
    still = await budget_harness.record(
        "id:c", "rate_limited", RateLimitHeaders(retry_after_ms=1000)
    )
    assert 25_000 < still <= closed
    looked = await budget_harness.claim()
    assert looked.leases == []
    assert looked.sleep_s is not None
    assert looked.sleep_s > 20
    assert await budget_harness.acquire("id:begun") > 20_000


async def test_record_of_a_429_with_a_reset_adds_little_jitter(
    budget_harness: BudgetHarness,
) -> None:
    """We come back with one call for all workers: a quarter of a second late at the most."""
    budget_harness.jitter = 0.999
    hints = RateLimitHeaders(resume_at_ms=await budget_harness.now() + 20_000)
    assert 15_000 < await budget_harness.record("id:a", "rate_limited", hints) <= 20_250


async def test_record_of_a_429_without_headers_halves_the_calls_in_flight(
    budget_harness: BudgetHarness,
) -> None:
    """Once is enough to learn it: half as many again, and from there on slowly more."""
    await budget_harness.add_tickets(100)
    for job in await budget_harness.claim_jobs():
        await budget_harness.record(job)
    first, second, *rest = await budget_harness.claim_jobs(40)
    for job in (first, second):
        await budget_harness.record(job, "rate_limited", RateLimitHeaders(retry_after_ms=1000))
    for job in rest:
        await budget_harness.record(job)
    await budget_harness.reopen()
    (again,) = await budget_harness.claim_jobs()
    for job in (again, *rest[:9]):
        await budget_harness.record(job)
    assert len(await budget_harness.claim_jobs()) == 20


async def test_record_of_a_long_retry_after_closes_for_at_most_an_hour(
    budget_harness: BudgetHarness,
) -> None:
    """A Retry-After of a day would stop us for a day: an hour is the most."""
    closed = await budget_harness.record(
        "id:a", "rate_limited", RateLimitHeaders(retry_after_ms=24 * HOUR)
    )
    assert HOUR - 5000 < closed <= HOUR + 1000


@pytest.mark.parametrize("resume", [None, -5000, 10 * HOUR])
async def test_record_of_a_429_without_a_usable_hint_backs_off_exponentially(
    budget_harness: BudgetHarness, resume: int | None
) -> None:
    """2, 4, 8 ... 64 s at most, at least half of it, and from the start again after a success."""
    now = await budget_harness.now()
    hints = RateLimitHeaders(resume_at_ms=None if resume is None else now + resume)
    for longest in (2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000):
        budget_harness.jitter = 0.0
        assert (
            longest / 2 - 500
            < await budget_harness.record("id:a", "rate_limited", hints)
            <= longest / 2 + 101
        )
        await budget_harness.record(
            "id:b", "rate_limited", hints
        )  # more of the same are no further strike
        await budget_harness.reopen()
    await budget_harness.record("id:c")
    budget_harness.jitter = 0.999
    assert 2000 < await budget_harness.record("id:a", "rate_limited", hints) <= 3000


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, 7000, -7000])
async def test_record_with_a_date_corrects_for_the_clock_difference(
    budget_harness: BudgetHarness, ahead: int
) -> None:
    """Whoever's clock is wrong, a window ends when the server says so."""
    await budget_harness.add_tickets(12)
    there = await budget_harness.now() + ahead
    date = there // 1000 * 1000
    spent = RateLimitWindow(family="global", limit=10, remaining=0, reset_ms=there + 6000)
    await budget_harness.record(
        "id:a", rate_limits=RateLimitHeaders(windows=(spent,), date_ms=date)
    )
    looked = await budget_harness.claim()
    assert looked.leases == []
    assert looked.sleep_s is not None
    assert 3 < looked.sleep_s < 7.6
    late = RateLimitWindow(family="global", limit=10, remaining=9, reset_ms=there + 6000)
    await budget_harness.record(
        "id:b", rate_limits=RateLimitHeaders(windows=(late,), date_ms=date - 2000)
    )
    assert await budget_harness.claim_jobs() == []
    hints = RateLimitHeaders(resume_at_ms=there + 20_000, date_ms=date)
    assert 15_000 < await budget_harness.record("id:c", "rate_limited", hints) < 22_000


async def test_record_with_an_absurd_date_corrects_nothing(budget_harness: BudgetHarness) -> None:
    """A proxy's Date of 1970 does not make every reset unbelievable."""
    await budget_harness.add_tickets(3)
    spent = RateLimitWindow(
        family="global", limit=10, remaining=0, reset_ms=await budget_harness.now() + 3000
    )
    await budget_harness.record("id:a", rate_limits=RateLimitHeaders(windows=(spent,), date_ms=0))
    looked = await budget_harness.claim()
    assert looked.leases == []
    assert looked.sleep_s is not None
    assert looked.sleep_s < 3.1


async def test_record_of_a_refused_token_closes_the_budget(budget_harness: BudgetHarness) -> None:
    """401 and 403 say nothing of the ticket: nobody claims for a while, and why is kept."""
    await budget_harness.add_tickets(3)
    closed = await budget_harness.record("id:a", "unauthorized")
    assert 25_000 < closed <= 30_000
    assert await budget_harness.claim_jobs() == []
    assert (
        await budget_harness.redis.hget(budget_harness.keys.budget, "closed_reason")
        == b"token refused"
    )
    await budget_harness.reopen()
    await budget_harness.record("id:a")
    assert await budget_harness.redis.hget(budget_harness.keys.budget, "closed_reason") is None


async def test_breaker_when_most_calls_fail_opens_longer_each_time(
    budget_harness: BudgetHarness,
) -> None:
    """Five calls of which most fail close the budget, longer each time; a success starts afresh."""
    budget_harness.jitter = 0.999
    for longest in (2000, 4000, 8000):
        replies = [await budget_harness.record("id:a", "server_error") for _ in range(5)]
        assert replies[:4] == [0, 0, 0, 0]
        assert longest - 500 < replies[4] <= longest
        assert await budget_harness.acquire("id:begun") > 0
        await budget_harness.reopen()
    await budget_harness.record("id:a")
    await budget_harness.redis.hset(budget_harness.keys.budget, "breaker_window_ends", "0")
    replies = [await budget_harness.record("id:a", "server_error") for _ in range(5)]
    assert 1500 < replies[4] <= 2000


async def test_breaker_while_half_the_calls_succeed_stays_closed(
    budget_harness: BudgetHarness,
) -> None:
    """Failures of single deployments are not an outage."""
    replies = []
    for _ in range(20):
        replies += [
            await budget_harness.record("id:a"),
            await budget_harness.record("id:b", "server_error"),
        ]
    assert replies == [0] * 40
