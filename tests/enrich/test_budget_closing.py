"""Tests of the closed budget: rate limits, clock differences, refused tokens, outages."""

from typing import cast

import pytest

from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow, parse_rate_limits
from tests.enrich.budget_harness import BudgetHarness

HOUR = 3_600_000
JOBS = ["id:a", "id:b", "id:c", "id:d", "id:e"]


async def test_record_of_a_429_closes_the_budget_until_the_latest_hint(
    budget_harness: BudgetHarness,
) -> None:
    """The latest of Retry-After and reset counts, with jitter; an earlier hint shortens nothing."""
    await budget_harness.add_tickets(3)
    now = await budget_harness.now()
    rate_limits = RateLimitHeaders(retry_after_ms=10_000, resume_at_ms=now + 20_000)
    closed_ms = await budget_harness.record("id:a", "rate_limited", rate_limits)
    assert 15_000 < closed_ms <= 20_100
    budget_harness.jitter = 0.999
    closed_ms = await budget_harness.record(
        "id:b", "rate_limited", RateLimitHeaders(retry_after_ms=30_000)
    )
    assert 30_500 < closed_ms <= 31_000
    still_closed_ms = await budget_harness.record(
        "id:c", "rate_limited", RateLimitHeaders(retry_after_ms=1000)
    )
    assert 25_000 < still_closed_ms <= closed_ms
    claim = await budget_harness.claim()
    assert claim.leases == []
    assert claim.sleep_s is not None
    assert claim.sleep_s > 20
    assert await budget_harness.acquire("id:begun") > 20_000


async def test_record_of_a_429_with_a_reset_adds_little_jitter(
    budget_harness: BudgetHarness,
) -> None:
    """One call for all workers follows, at most a quarter of a second late."""
    budget_harness.jitter = 0.999
    rate_limits = RateLimitHeaders(resume_at_ms=await budget_harness.now() + 20_000)
    assert 15_000 < await budget_harness.record("id:a", "rate_limited", rate_limits) <= 20_250


async def test_record_of_a_429_without_headers_halves_the_calls_in_flight(
    budget_harness: BudgetHarness,
) -> None:
    """After one such 429 half as many calls may be in flight, then slowly more."""
    await budget_harness.add_tickets(100)
    for job in await budget_harness.claim_jobs():
        await budget_harness.record(job)
    first, second, *rest = await budget_harness.claim_jobs(40)
    for job in (first, second):
        await budget_harness.record(job, "rate_limited", RateLimitHeaders(retry_after_ms=1000))
    for job in rest:
        await budget_harness.record(job)
    await budget_harness.reopen()
    (next_job,) = await budget_harness.claim_jobs()
    for job in (next_job, *rest[:9]):
        await budget_harness.record(job)
    assert len(await budget_harness.claim_jobs()) == 20


@pytest.mark.parametrize("announced", ["retry_after", "resume_at", "policy"])
async def test_record_of_a_long_wait_lets_one_call_through_after_two_minutes(
    budget_harness: BudgetHarness, announced: str
) -> None:
    """Servers also send milliseconds, so a long wait is probed; a refusal closes as long again."""
    await budget_harness.add_tickets(9)
    now = await budget_harness.now()
    headers = {
        "retry_after": {"Retry-After": "30000"},
        "resume_at": {
            "X-Ratelimit-Global-Remaining": "0",
            "X-Ratelimit-Reset": f"{now + HOUR // 2}",
        },
        "policy": {"RateLimit": '"hourly";r=0;t=1800'},
    }[announced]
    rate_limits = parse_rate_limits(headers.items(), route="get", now_ms=now)
    for _ in range(2):
        closed_ms = await budget_harness.record("id:a", "rate_limited", rate_limits)
        assert 115_000 < closed_ms <= 121_000
        await budget_harness.pass_time(closed_ms + 1)
        (job,) = await budget_harness.claim_jobs()
        assert await budget_harness.claim_jobs() == []
        await budget_harness.redis.zrem(budget_harness.keys.budget_calls, job)


async def test_windows_of_the_ietf_fields_bind_although_their_reset_is_rounded(
    budget_harness: BudgetHarness,
) -> None:
    """Resets that differ by a second name one window, in which the lowest count binds."""
    await budget_harness.add_tickets(12)
    now = await budget_harness.now()
    for remaining, late_ms in ((5, 0), (4, 1000), (3, 0)):
        await budget_harness.report_window(
            remaining, limit=10, reset_ms=now + 5000 + late_ms, family="policy"
        )
    await budget_harness.report_window(5, limit=10, reset_ms=now + 6000, family="policy")
    assert len(await budget_harness.claim_jobs()) == 3
    await budget_harness.report_window(6, limit=10, reset_ms=now + 9000, family="policy")
    assert len(await budget_harness.claim_jobs()) == 3  # three of the six are in flight


@pytest.mark.parametrize("resume_ms", [None, -5000, 10 * HOUR])
async def test_record_of_a_429_without_a_usable_hint_backs_off_exponentially(
    budget_harness: BudgetHarness, resume_ms: int | None
) -> None:
    """The maximum is 2, 4, 8 ... 64 s, the minimum half of it; a success starts over."""
    now = await budget_harness.now()
    rate_limits = RateLimitHeaders(resume_at_ms=None if resume_ms is None else now + resume_ms)
    for max_ms in (2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000):
        budget_harness.jitter = 0.0
        assert (
            max_ms / 2 - 500
            < await budget_harness.record("id:a", "rate_limited", rate_limits)
            <= max_ms / 2 + 101
        )
        await budget_harness.record(
            "id:b", "rate_limited", rate_limits
        )  # more of the same are no further strike
        await budget_harness.reopen()
    await budget_harness.record("id:c")
    budget_harness.jitter = 0.999
    assert 2000 < await budget_harness.record("id:a", "rate_limited", rate_limits) <= 3000


@pytest.mark.parametrize("clock_difference_ms", [HOUR, -HOUR, 7000, -7000])
async def test_record_with_a_date_corrects_for_the_clock_difference(
    budget_harness: BudgetHarness, clock_difference_ms: int
) -> None:
    """A window ends when the server says so, whichever clock is wrong."""
    await budget_harness.add_tickets(12)
    server_now = await budget_harness.now() + clock_difference_ms
    date_ms = server_now // 1000 * 1000
    used_up_window = RateLimitWindow(
        family="global", limit=10, remaining=0, reset_ms=server_now + 6000
    )
    await budget_harness.record(
        "id:a", rate_limits=RateLimitHeaders(windows=(used_up_window,), date_ms=date_ms)
    )
    claim = await budget_harness.claim()
    assert claim.leases == []
    assert claim.sleep_s is not None
    assert 3 < claim.sleep_s < 7.6
    late_window = RateLimitWindow(
        family="global", limit=10, remaining=9, reset_ms=server_now + 6000
    )
    await budget_harness.record(
        "id:b", rate_limits=RateLimitHeaders(windows=(late_window,), date_ms=date_ms - 2000)
    )
    assert await budget_harness.claim_jobs() == []
    rate_limits = RateLimitHeaders(resume_at_ms=server_now + 20_000, date_ms=date_ms)
    assert 15_000 < await budget_harness.record("id:c", "rate_limited", rate_limits) < 22_000


async def test_record_with_an_absurd_date_corrects_nothing(budget_harness: BudgetHarness) -> None:
    """A Date of 1970 from a proxy does not make every reset unbelievable."""
    await budget_harness.add_tickets(3)
    used_up_window = RateLimitWindow(
        family="global", limit=10, remaining=0, reset_ms=await budget_harness.now() + 3000
    )
    await budget_harness.record(
        "id:a", rate_limits=RateLimitHeaders(windows=(used_up_window,), date_ms=0)
    )
    claim = await budget_harness.claim()
    assert claim.leases == []
    assert claim.sleep_s is not None
    assert claim.sleep_s < 3.1


async def test_record_of_a_refused_token_closes_the_budget(budget_harness: BudgetHarness) -> None:
    """After a 401 no worker claims for a while, and the reason is kept."""
    await budget_harness.add_tickets(3)
    closed_ms = await budget_harness.record("id:a", "unauthorized")
    assert 25_000 < closed_ms <= 30_000
    assert await budget_harness.claim_jobs() == []
    assert (
        await budget_harness.redis.hget(budget_harness.keys.budget, "closed_reason")
        == b"token refused"
    )
    await budget_harness.reopen()
    await budget_harness.record("id:a")
    assert await budget_harness.redis.hget(budget_harness.keys.budget, "closed_reason") is None


async def test_record_of_a_forbidden_project_names_it_and_closes_nothing(
    budget_harness: BudgetHarness,
) -> None:
    """It is no failure of LaunchDarkly; a good response of the project ends the record."""
    harness = budget_harness
    for number in range(120):
        assert await harness.record(f"id:{number}", "forbidden", scope=f"p{number}/e") == 0
        await harness.record("id:a", "server_error") if number % 2 else None
    names = await harness.redis.zrange(harness.keys.forbidden, 0, -1)
    assert sorted(names) == sorted(f"p{number}/e".encode() for number in range(20, 120))
    await harness.record("id:a", "ok", scope="p119/e")
    await harness.record("id:a", "server_error", scope="p118/e")
    await harness.record("id:a", "forbidden")
    assert await harness.redis.zcard(harness.keys.forbidden) == 99
    assert await harness.redis.zscore(harness.keys.forbidden, "p119/e") is None
    assert 0 < await harness.redis.pttl(harness.keys.forbidden) <= HOUR
    assert await harness.redis.hget(harness.keys.budget, "closed_reason") is None
    await harness.redis.delete(harness.keys.forbidden)


async def test_breaker_when_most_calls_fail_opens_longer_each_time(
    budget_harness: BudgetHarness,
) -> None:
    """Failed calls of five jobs close the budget, longer each time up to 16 s, until a success."""
    budget_harness.jitter = 0.999
    for max_ms in (2000, 4000, 8000, 16_000, 16_000):
        replies = [await budget_harness.record(job, "server_error") for job in JOBS]
        assert replies[:4] == [0, 0, 0, 0]
        assert max_ms - 500 < replies[4] <= max_ms
        assert await budget_harness.acquire("id:begun") > 0
        await budget_harness.reopen()
    await budget_harness.record("id:a")
    await budget_harness.redis.hset(budget_harness.keys.budget, "breaker_window_ends", "0")
    replies = [await budget_harness.record(job, "server_error") for job in JOBS]
    assert 1500 < replies[4] <= 2000


async def test_breaker_when_calls_are_cancelled_stays_closed(budget_harness: BudgetHarness) -> None:
    """A worker that stops breaks off all its calls. LaunchDarkly may have counted each of them."""
    harness = budget_harness
    await harness.report_window(50, limit=100, reset_ms=await harness.now() + 10_000)
    for number, job in enumerate(JOBS * 2):
        assert await harness.record(job, "cancelled") == 0
        window = cast("bytes", await harness.redis.hget(harness.keys.budget, "global"))
        assert window.split()[1] == b"%d" % (49 - number)


async def test_breaker_when_one_job_fails_again_and_again_stays_closed(
    budget_harness: BudgetHarness,
) -> None:
    """On a quiet system, a deployment that always fails does not stop the others."""
    for call_id in ("id:a", "list for id:a", "id:b") * 20:
        assert await budget_harness.record(call_id, "server_error") == 0


async def test_breaker_while_half_the_calls_succeed_stays_closed(
    budget_harness: BudgetHarness,
) -> None:
    """Failures of some deployments are not an outage."""
    replies = []
    for job in JOBS * 4:
        replies += [
            await budget_harness.record("id:ok"),
            await budget_harness.record(job, "server_error"),
        ]
    assert replies == [0] * 40
