"""Tests of a quota shared with other clients: they are detected, spared and forgotten."""

import msgspec

from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from tests.conftest import Eventually
from tests.enrich.budget_harness import BudgetHarness


async def read_other_clients_rate(harness: BudgetHarness) -> float:
    """Return the estimated calls per second of other clients."""
    return float(await harness.redis.hget(harness.keys.budget, "other_clients_per_s") or "nan")


async def set_other_clients_rate(harness: BudgetHarness, calls_per_s: float | None) -> None:
    """Set the estimated calls per second of other clients; None removes the estimate."""
    if calls_per_s is None:
        await harness.redis.hdel(harness.keys.budget, "other_clients_per_s")
    else:
        await harness.redis.hset(harness.keys.budget, "other_clients_per_s", str(calls_per_s))


async def test_claim_with_unknown_other_clients_uses_half_of_remaining(
    budget_harness: BudgetHarness,
) -> None:
    """After one window without other clients, all remaining calls are used."""
    await set_other_clients_rate(budget_harness, None)
    await budget_harness.add_tickets(60)
    window_end = await budget_harness.now() + 9000
    await budget_harness.report_window(21, limit=100, reset_ms=window_end)
    assert len(await budget_harness.claim_jobs()) == 11
    assert await budget_harness.claim_jobs() == []
    await budget_harness.report_window(99, limit=100, reset_ms=window_end + 10_000)
    assert len(await budget_harness.claim_jobs()) == 60 - 11


async def test_remaining_that_falls_faster_than_our_calls_reveals_other_clients(
    budget_harness: BudgetHarness,
) -> None:
    """Remaining fell further than by our own calls."""
    await budget_harness.add_tickets(99)
    window_end = await budget_harness.now() + 9000
    await budget_harness.report_window(99, limit=100, reset_ms=window_end)
    await budget_harness.report_window(50, limit=100, reset_ms=window_end)
    assert await read_other_clients_rate(budget_harness) > 1
    assert len(await budget_harness.claim_jobs()) <= 25


async def test_window_found_half_used_reveals_no_rate_of_other_clients(
    budget_harness: BudgetHarness,
) -> None:
    """Calls before our first response say nothing about a rate."""
    await budget_harness.add_tickets(99)
    window_end = await budget_harness.now() + 9000
    await budget_harness.report_window(50, limit=100, reset_ms=window_end)
    await budget_harness.report_window(49, limit=100, reset_ms=window_end)
    assert len(await budget_harness.claim_jobs()) == 49


async def test_our_own_calls_are_not_counted_as_other_clients(
    budget_harness: BudgetHarness,
) -> None:
    """Answered calls and calls in flight, which may be counted already, are our own."""
    await budget_harness.add_tickets(30)
    window_end = await budget_harness.now() + 9000
    await budget_harness.report_window(20, limit=100, reset_ms=window_end)
    first, second, *_ = await budget_harness.claim_jobs(6)
    for job, remaining in ((first, 14), (second, 16)):
        window = RateLimitWindow(
            family="global", limit=100, remaining=remaining, reset_ms=window_end
        )
        await budget_harness.record(job, rate_limits=RateLimitHeaders(windows=(window,)))
    assert await read_other_clients_rate(budget_harness) < 1
    assert len(await budget_harness.claim_jobs()) == 14 - 4


async def test_claim_with_other_clients_leaves_what_they_use_during_a_call(
    budget_harness: BudgetHarness,
) -> None:
    """Thirty calls per second are nine in 0.3 s."""
    await budget_harness.add_tickets(30)
    await budget_harness.report_window(12, limit=100, reset_ms=await budget_harness.now() + 9000)
    await set_other_clients_rate(budget_harness, 31)
    assert await budget_harness.acquire("id:a") == 0
    assert len(await budget_harness.claim_jobs()) == 12 - 9 - 1


async def test_claim_with_a_share_and_other_clients_leaves_the_larger_part_once(
    budget_harness: BudgetHarness,
) -> None:
    """The share that the operator leaves covers the calls of other clients."""
    shared = BudgetHarness(
        budget_harness.redis,
        budget_harness.backlog._group_commit,
        budget_harness.keys,
        msgspec.structs.replace(budget_harness.backlog._config, rate_limit_share=0.8),
    )
    await shared.add_tickets(30)
    await shared.report_window(24, limit=100, reset_ms=await shared.now() + 9000)
    await set_other_clients_rate(budget_harness, 31)
    assert len(await shared.claim_jobs()) == 4


async def test_other_clients_that_stop_are_forgotten(budget_harness: BudgetHarness) -> None:
    """Each new window halves the estimate."""
    await budget_harness.add_tickets(99)
    await set_other_clients_rate(budget_harness, 31)
    window_end = await budget_harness.now() + 9000
    for turn in range(5):
        await budget_harness.report_window(99, limit=100, reset_ms=window_end + 10_000 * turn)
    assert await read_other_clients_rate(budget_harness) < 1
    assert len([job for _ in range(2) for job in await budget_harness.claim_jobs()]) == 99


async def test_claim_with_many_other_clients_still_gets_one_call(
    budget_harness: BudgetHarness, eventually: Eventually
) -> None:
    """Each window gives us one call, even if the rest is left to other clients."""
    await budget_harness.add_tickets(9)
    await budget_harness.report_window(0, limit=1, reset_ms=await budget_harness.now() + 300)
    await set_other_clients_rate(budget_harness, 1000)
    claimed: list[str] = []

    async def opened() -> bool:
        claimed.extend(await budget_harness.claim_jobs())
        return bool(claimed)

    await eventually(opened)
    assert len(claimed) == 1
