"""Tests of the share of the quota."""

import pytest

from service.simulate.quota import Limits
from service.simulate.stats import WindowUse
from tests.bench.quota_recipe import compute_wait_s
from tests.bench.quota_share import measure_share

LIMITS = Limits(global_limit=100, window_ms=1000)


def make_window(opened_at: int, used: int, others: int = 0) -> WindowUse:
    """Return one window of the account."""
    return WindowUse(
        family="global",
        key="global",
        opened_at=opened_at,
        used=used,
        others=others,
        limit=100,
        refused=0,
    )


def test_first_and_last_window_do_not_count() -> None:
    """There was no work in a part of these windows."""
    share = measure_share([make_window(0, 10), make_window(1000, 90), make_window(2000, 5)], LIMITS)
    assert (share.windows, share.used, share.allowed) == (1, 90, 100)


def test_unopened_window_counts_as_unused() -> None:
    """A pause that is too long wastes the calls of its windows."""
    share = measure_share(
        [make_window(0, 10), make_window(1000, 100), make_window(3000, 5)], LIMITS
    )
    assert (share.used, share.allowed) == (100, 200)


def test_time_before_first_call_window_counts_as_unused() -> None:
    """Where the first call opens a window, a late call delays the next windows too."""
    limits = Limits(global_limit=100, window_ms=1000, aligned_to="first_call")
    share = measure_share(
        [make_window(0, 100), make_window(1500, 100), make_window(2500, 5)], limits
    )
    assert (share.windows, share.used, share.allowed) == (2, 200, 250)


@pytest.mark.parametrize(("used", "allowed"), [(60, 70), (70, 70), (90, 90)])
def test_competing_calls_are_not_allowed(used: int, allowed: int) -> None:
    """A competitor takes all of its 30 calls unless the service left fewer."""
    limits = Limits(global_limit=100, window_ms=1000, competing_per_window=30)
    share = measure_share(
        [make_window(0, 1), make_window(1000, used, others=3), make_window(2000, 1)], limits
    )
    assert (share.used, share.allowed) == (used, allowed)


def test_run_without_complete_window_has_no_share() -> None:
    """A run that is too short has no result."""
    assert measure_share([make_window(0, 10), make_window(1000, 10)], LIMITS).percent == 0


def test_recipe_waits_at_least_as_long_as_asked() -> None:
    """The recipe is fair: it adds its backoff to Retry-After."""
    assert 3 <= compute_wait_s({"Retry-After": "3"}, attempt=0) <= 3.5
    assert compute_wait_s({"X-Ratelimit-Reset": "soon"}, attempt=0) <= 0.5
    assert compute_wait_s({"X-Ratelimit-Reset": "99999999999999"}, attempt=0) > 10**9
