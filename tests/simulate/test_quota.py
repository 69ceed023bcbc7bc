"""Tests of the quota: window limits and rate-limit headers."""

from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulate.quota import (
    Caller,
    Limits,
    QuotaDecision,
    QuotaWindow,
    decide_call,
    rate_limit_headers,
)

CALLER = Caller(route="GET /deployments", address="192.0.2.1")
NOW = 1_800_000_003_000


def decide_calls(limits: Limits, times: list[int]) -> list[QuotaDecision]:
    """Decide calls one after the other."""
    windows: dict[str, QuotaWindow] = {}
    decisions = []
    for now in times:
        decision = decide_call(windows, CALLER, limits, now)
        windows |= {usage.key: usage.window for usage in decision.usages}
        decisions.append(decision)
    return decisions


some_limits = st.builds(
    Limits,
    global_limit=st.none() | st.integers(0, 8),
    route_limit=st.none() | st.integers(0, 8),
    token_limit=st.none() | st.integers(0, 8),
    address_limit=st.none() | st.integers(0, 8),
    window_ms=st.integers(1, 200),
    aligned_to=st.sampled_from(["clock", "first_call"]),
    competing_per_window=st.integers(0, 12),
)
some_times = st.lists(st.integers(0, 60), max_size=40).map(
    lambda steps: [NOW + sum(steps[:place]) for place in range(len(steps))]
)


@given(some_limits, some_times)
def test_window_never_exceeds_its_limit(limits: Limits, times: list[int]) -> None:
    """Granted calls and competing calls never add up to more than the limit."""
    for decision in decide_calls(limits, times):
        for count in decision.usages:
            assert count.window.used + count.window.used_by_others <= count.limit


@given(some_limits, some_times)
def test_remaining_only_shrinks_within_a_window(limits: Limits, times: list[int]) -> None:
    """Until a window ends, no call sees more remaining than the call before it."""
    seen: dict[tuple[str, int], int] = {}
    for decision in decide_calls(limits, times):
        for count in decision.usages:
            place = (count.key, count.window.opened_at)
            assert count.remaining <= seen.get(place, count.limit)
            seen[place] = count.remaining


@given(some_limits, some_times)
def test_call_is_refused_only_by_an_exhausted_family(limits: Limits, times: list[int]) -> None:
    """Each refusal names a full window, and each window covers the time of its call."""
    for now, decision in zip(times, decide_calls(limits, times), strict=True):
        assert all(count.remaining == 0 for count in decision.exhausted)
        assert decision.granted == (not decision.exhausted)
        for count in decision.usages:
            assert count.window.opened_at <= now < count.window.opened_at + limits.window_ms


def test_granted_calls_reach_the_limit_exactly() -> None:
    """Of five calls in a window of three, three are granted; the next window grants again."""
    times = [NOW] * 5 + [NOW + 10_000]
    granted = [decision.granted for decision in decide_calls(Limits(global_limit=3), times)]
    assert granted == [True, True, True, False, False, True]


def test_routes_have_separate_windows() -> None:
    """An exhausted route does not affect other routes."""
    limits = Limits(route_limit=1)
    first = decide_call({}, CALLER, limits, NOW)
    windows = {count.key: count.window for count in first.usages}
    other = Caller(route="GET /pull-requests", address=CALLER.address)
    assert not decide_call(windows, CALLER, limits, NOW).granted
    assert decide_call(windows, other, limits, NOW).granted


def test_clock_aligned_window_opens_at_multiple_of_length() -> None:
    """Aligned to the clock, a window opens at a multiple of its length."""
    (decision,) = decide_calls(Limits(global_limit=1), [NOW])
    assert decision.usages[0].window.opened_at == NOW - 3_000


def test_first_call_aligned_window_opens_with_the_call() -> None:
    """Aligned to the first call, a window opens with it and ends one full length later."""
    limits = Limits(global_limit=1, aligned_to="first_call")
    decisions = decide_calls(limits, [NOW, NOW + 9_999, NOW + 10_000])
    assert [decision.granted for decision in decisions] == [True, False, True]
    assert decisions[1].usages[0].window.opened_at == NOW


def test_competing_calls_are_spread_over_the_window() -> None:
    """Halfway through a window of ten, a competitor of six has used three."""
    start = NOW - 3_000
    limits = Limits(global_limit=10, competing_per_window=6)
    decisions = decide_calls(limits, [start, start + 5_000, start + 9_999])
    assert [decision.usages[0].remaining for decision in decisions] == [9, 5, 2]


def test_headers_have_the_documented_names() -> None:
    """Global and route share one reset, the token has its own, in epoch milliseconds."""
    limits = Limits(global_limit=10, route_limit=5, token_limit=7, address_limit=9)
    (decision,) = decide_calls(limits, [NOW])
    assert rate_limit_headers(decision, limits, NOW) == {
        "X-Ratelimit-Global-Limit": "10",
        "X-Ratelimit-Global-Remaining": "9",
        "X-Ratelimit-Route-Limit": "5",
        "X-Ratelimit-Route-Remaining": "4",
        "X-Ratelimit-Reset": "1800000010000",
        "X-Ratelimit-Auth-Token-Limit": "7",
        "X-Ratelimit-Auth-Token-Remaining": "6",
        "X-Ratelimit-Auth-Token-Reset": "1800000010000",
    }


@pytest.mark.parametrize(
    ("limits", "headers"),
    [
        (Limits(), {}),
        (Limits(global_limit=2, send_limit=False, send_remaining=False, reset="absent"), {}),
        (
            Limits(global_limit=2, send_limit=False),
            {"X-Ratelimit-Global-Remaining": "1", "X-Ratelimit-Reset": "1800000010000"},
        ),
        (
            Limits(token_limit=2, send_remaining=False, reset="malformed"),
            {"X-Ratelimit-Auth-Token-Limit": "2", "X-Ratelimit-Auth-Token-Reset": "soon"},
        ),
    ],
)
def test_headers_can_be_omitted_or_malformed(limits: Limits, headers: dict[str, str]) -> None:
    """Limits, remaining counts and resets can be omitted, and a reset can be no number."""
    (decision,) = decide_calls(limits, [NOW])
    assert rate_limit_headers(decision, limits, NOW) == headers


def test_reset_can_be_past_or_far_ahead() -> None:
    """A past reset is before now; a far one is beyond any window."""
    past, far = Limits(global_limit=1, reset="past"), Limits(global_limit=1, reset="far")
    (decision,) = decide_calls(past, [NOW])
    assert int(rate_limit_headers(decision, past, NOW)["X-Ratelimit-Reset"]) < NOW
    assert int(rate_limit_headers(decision, far, NOW)["X-Ratelimit-Reset"]) > NOW + 3_600_000


def test_refusal_has_the_configured_retry_after() -> None:
    """Retry-After is in seconds, rounded up, or an HTTP date, or absent."""
    now = NOW + 1
    seconds = Limits(global_limit=0, retry_after="seconds")
    date = Limits(global_limit=0, retry_after="date")
    (refused,) = decide_calls(seconds, [now])
    assert rate_limit_headers(refused, seconds, now)["Retry-After"] == "7"
    retry_at = parsedate_to_datetime(rate_limit_headers(refused, date, now)["Retry-After"])
    assert retry_at.timestamp() == 1_800_000_010
    assert "Retry-After" not in rate_limit_headers(refused, Limits(global_limit=0), now)


def test_headers_can_be_the_ietf_fields() -> None:
    """Each family is one item; the seconds until the window ends are rounded up."""
    limits = Limits(global_limit=2, route_limit=5, ietf_fields=True)
    (decision,) = decide_calls(limits, [NOW + 1])
    assert rate_limit_headers(decision, limits, NOW + 1) == {
        "RateLimit-Policy": '"global";q=2;w=10, "route";q=5;w=10',
        "RateLimit": '"global";r=1;t=7, "route";r=4;t=7',
    }
    assert rate_limit_headers(decide_calls(Limits(), [NOW])[0], Limits(ietf_fields=True), NOW) == {}


def test_address_limit_sends_only_retry_after() -> None:
    """The address family has no headers of its own, and its 429 always has Retry-After."""
    limits = Limits(address_limit=1)
    granted, refused = decide_calls(limits, [NOW, NOW])
    assert rate_limit_headers(granted, limits, NOW) == {}
    assert rate_limit_headers(refused, limits, NOW) == {"Retry-After": "7"}
