"""Is the share of the quota counted as it is said to be?"""

import pytest

from service.simulate.quota import Limits
from service.simulate.stats import WindowUse
from tests.bench.quota_recipe import compute_wait_s
from tests.bench.quota_share import measure_share

LIMITS = Limits(global_limit=100, window_ms=1000)


def make_window(opened_at: int, used: int, others: int = 0) -> WindowUse:
    """Give one window of the account."""
    return WindowUse(
        family="global",
        key="global",
        opened_at=opened_at,
        used=used,
        others=others,
        limit=100,
        refused=0,
    )


def test_the_windows_in_which_work_began_and_ended_do_not_count() -> None:
    """Nobody could have used what passed before the work was there, or after it ended."""
    share = measure_share([make_window(0, 10), make_window(1000, 90), make_window(2000, 5)], LIMITS)
    assert (share.windows, share.used, share.allowed) == (1, 90, 100)


def test_a_window_that_nobody_opened_counts_as_unused() -> None:
    """A pause that was too long costs what it would have allowed."""
    share = measure_share(
        [make_window(0, 10), make_window(1000, 100), make_window(3000, 5)], LIMITS
    )
    assert (share.used, share.allowed) == (100, 200)


def test_time_before_a_window_that_a_call_opens_counts_as_unused() -> None:
    """Where the first call opens a window, coming late makes the next ones late too."""
    limits = Limits(global_limit=100, window_ms=1000, aligned_to="first_call")
    share = measure_share(
        [make_window(0, 100), make_window(1500, 100), make_window(2500, 5)], limits
    )
    assert (share.windows, share.used, share.allowed) == (2, 200, 250)


@pytest.mark.parametrize(("used", "allowed"), [(60, 70), (70, 70), (90, 90)])
def test_what_a_competitor_takes_by_the_end_is_not_allowed_to_us(used: int, allowed: int) -> None:
    """A competitor of 30 takes them all, but where we left it less."""
    limits = Limits(global_limit=100, window_ms=1000, competing_per_window=30)
    share = measure_share(
        [make_window(0, 1), make_window(1000, used, others=3), make_window(2000, 1)], limits
    )
    assert (share.used, share.allowed) == (used, allowed)


def test_no_whole_window_is_no_share() -> None:
    """A run that was too short says nothing."""
    assert measure_share([make_window(0, 10), make_window(1000, 10)], LIMITS).percent == 0


def test_the_recipe_waits_at_least_as_long_as_it_is_told() -> None:
    """What we are compared with is no straw man: Retry-After and its backoff add up."""
    assert 3 <= compute_wait_s({"Retry-After": "3"}, attempt=0) <= 3.5
    assert compute_wait_s({"X-Ratelimit-Reset": "soon"}, attempt=0) <= 0.5
    assert compute_wait_s({"X-Ratelimit-Reset": "99999999999999"}, attempt=0) > 10**9
