"""Tests of the lag of the event loop."""

import asyncio
import time

from service.metrics.loop_lag import LoopLag


class Clock:
    """A clock that tests set, in seconds."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def test_largest_lag_of_the_last_minute_counts() -> None:
    """A larger lag replaces the smaller ones before it; after a minute the next one counts."""
    clock = Clock()
    lag = LoopLag(clock)
    assert lag.largest_s() == 0
    shown = []
    for lag_s in (0.1, 0.3, 0.2, 0.05):
        lag.record(lag_s)
        shown.append(lag.largest_s())
        clock.now_s += 35
    assert shown == [0.1, 0.3, 0.3, 0.2]  # 70 s after the second one, 35 s after the third
    clock.now_s += 1000
    assert lag.largest_s() == 0


def test_every_scraper_sees_the_same_lag() -> None:
    """Reading it does not reset it."""
    lag = LoopLag(Clock())
    lag.record(0.4)
    assert [lag.largest_s() for _ in range(3)] == [0.4] * 3


async def test_a_blocked_loop_shows() -> None:
    """What blocks the loop for 0.3 s is seen, at least 0.25 s of it."""
    lag = LoopLag()
    watch_task = asyncio.create_task(lag.watch())
    await asyncio.sleep(0)  # the first measurement has begun
    time.sleep(0.3)  # noqa: ASYNC251 - it blocks on purpose
    async with asyncio.timeout(20):
        while lag.largest_s() < 0.2:
            await asyncio.sleep(0.01)
    watch_task.cancel()
    await asyncio.gather(watch_task, return_exceptions=True)
