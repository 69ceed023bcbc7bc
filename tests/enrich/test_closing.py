"""When may nobody call, and for how long? Rate limits, clocks that differ, bad tokens, outages."""

import pytest

from service.enrich.ratelimit import Hints, Window
from tests.enrich.desk import Desk

HOUR = 3_600_000


async def test_a_429_closes_for_everyone_until_the_latest_hint(desk: Desk) -> None:
    """Retry-After or a reset: the latest counts, with jitter, and a sooner one shortens nothing."""
    await desk.add(3)
    now = await desk.now()
    hints = Hints(retry_after_ms=10_000, resume_at_ms=now + 20_000)
    closed = await desk.learn("id:a", "limited", hints)
    assert 15_000 < closed <= 20_100
    desk.chance = 0.999
    closed = await desk.learn("id:b", "limited", Hints(retry_after_ms=30_000))
    assert 30_500 < closed <= 31_000
    still = await desk.learn("id:c", "limited", Hints(retry_after_ms=1000))
    assert 25_000 < still <= closed
    looked = await desk.look()
    assert looked.leases == []
    assert looked.sleep_s is not None
    assert looked.sleep_s > 20
    assert await desk.ask("id:begun") > 20_000


async def test_a_reset_is_a_moment_and_needs_little_jitter(desk: Desk) -> None:
    """We come back with one call for all workers: a quarter of a second late at the most."""
    desk.chance = 0.999
    hints = Hints(resume_at_ms=await desk.now() + 20_000)
    assert 15_000 < await desk.learn("id:a", "limited", hints) <= 20_250


async def test_with_nothing_told_a_429_halves_what_may_be_in_flight(desk: Desk) -> None:
    """Once is enough to learn it: half as many again, and from there on slowly more."""
    await desk.add(100)
    for job in await desk.claim():
        await desk.learn(job)
    first, second, *rest = await desk.claim(40)
    for job in (first, second):
        await desk.learn(job, "limited", Hints(retry_after_ms=1000))
    for job in rest:
        await desk.learn(job)
    await desk.reopen()
    (again,) = await desk.claim()
    for job in (again, *rest[:9]):
        await desk.learn(job)
    assert len(await desk.claim()) == 20


async def test_an_explicit_wait_is_obeyed_up_to_an_hour(desk: Desk) -> None:
    """A Retry-After of a day would stop us for a day: an hour is the most."""
    closed = await desk.learn("id:a", "limited", Hints(retry_after_ms=24 * HOUR))
    assert HOUR - 5000 < closed <= HOUR + 1000


@pytest.mark.parametrize("resume", [None, -5000, 10 * HOUR])
async def test_a_429_without_a_usable_hint_waits_exponentially(
    desk: Desk, resume: int | None
) -> None:
    """2, 4, 8 ... 64 s at most, at least half of it, and from the start again after a success."""
    now = await desk.now()
    hints = Hints(resume_at_ms=None if resume is None else now + resume)
    for longest in (2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000):
        desk.chance = 0.0
        assert longest / 2 - 500 < await desk.learn("id:a", "limited", hints) <= longest / 2 + 101
        await desk.learn("id:b", "limited", hints)  # more of the same are no further strike
        await desk.reopen()
    await desk.learn("id:c")
    desk.chance = 0.999
    assert 2000 < await desk.learn("id:a", "limited", hints) <= 3000


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, 7000, -7000])
async def test_a_clock_that_differs_is_corrected_by_date(desk: Desk, ahead: int) -> None:
    """Whoever's clock is wrong, a window ends when the server says so."""
    await desk.add(12)
    there = await desk.now() + ahead
    date = there // 1000 * 1000
    spent = Window(family="global", limit=10, left=0, reset_ms=there + 6000)
    await desk.learn("id:a", hints=Hints(windows=(spent,), date_ms=date))
    looked = await desk.look()
    assert looked.leases == []
    assert looked.sleep_s is not None
    assert 3 < looked.sleep_s < 7.6
    late = Window(family="global", limit=10, left=9, reset_ms=there + 6000)
    await desk.learn("id:b", hints=Hints(windows=(late,), date_ms=date - 2000))
    assert await desk.claim() == []
    hints = Hints(resume_at_ms=there + 20_000, date_ms=date)
    assert 15_000 < await desk.learn("id:c", "limited", hints) < 22_000


async def test_a_date_that_is_nonsense_corrects_nothing(desk: Desk) -> None:
    """A proxy's Date of 1970 does not make every reset unbelievable."""
    await desk.add(3)
    spent = Window(family="global", limit=10, left=0, reset_ms=await desk.now() + 3000)
    await desk.learn("id:a", hints=Hints(windows=(spent,), date_ms=0))
    looked = await desk.look()
    assert looked.leases == []
    assert looked.sleep_s is not None
    assert looked.sleep_s < 3.1


async def test_a_refused_token_pauses_everyone(desk: Desk) -> None:
    """401 and 403 say nothing of the ticket: nobody claims for a while, and why is kept."""
    await desk.add(3)
    closed = await desk.learn("id:a", "refused")
    assert 25_000 < closed <= 30_000
    assert await desk.claim() == []
    assert await desk.redis.hget(desk.keys.budget, "why") == b"token refused"
    await desk.reopen()
    await desk.learn("id:a")
    assert await desk.redis.hget(desk.keys.budget, "why") is None


async def test_the_breaker_opens_grows_and_heals(desk: Desk) -> None:
    """Five calls of which most fail close the budget, longer each time; a success starts afresh."""
    desk.chance = 0.999
    for longest in (2000, 4000, 8000):
        replies = [await desk.learn("id:a", "failing") for _ in range(5)]
        assert replies[:4] == [0, 0, 0, 0]
        assert longest - 500 < replies[4] <= longest
        assert await desk.ask("id:begun") > 0
        await desk.reopen()
    await desk.learn("id:a")
    await desk.redis.hset(desk.keys.budget, "tally_ends", "0")
    replies = [await desk.learn("id:a", "failing") for _ in range(5)]
    assert 1500 < replies[4] <= 2000


async def test_the_breaker_stays_shut_while_half_the_calls_succeed(desk: Desk) -> None:
    """Failures of single deployments are not an outage."""
    replies = []
    for _ in range(20):
        replies += [await desk.learn("id:a"), await desk.learn("id:b", "failing")]
    assert replies == [0] * 40
