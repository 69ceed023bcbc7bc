"""Tests of the waits: between the attempts of a ticket, and between the tries of a call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.enrich.verdict import (
    ApiResponse,
    AttemptHistory,
    Backoff,
    CallFailure,
    NoResponse,
    RepeatPolicy,
    RetryPolicy,
    outage_wait,
    repeat_wait,
)

RETRY_POLICY = RetryPolicy()
REPEATS = RepeatPolicy()
AGES_S = st.floats(min_value=0, max_value=1e6)
ATTEMPTS = st.integers(min_value=0, max_value=10_000)
JITTER = st.floats(min_value=0, max_value=1, exclude_max=True)


def test_max_delay_by_attempt_doubles_up_to_the_cap() -> None:
    """The values are those of the docstring of Backoff."""
    backoff = Backoff(base_s=2.0, cap_s=300.0)
    assert [backoff.max_delay(attempt) for attempt in (1, 2, 3, 8, 9, 10)] == [
        2,
        4,
        8,
        256,
        300,
        300,
    ]


@given(st.integers(min_value=-5, max_value=100_000), JITTER)
def test_delay_with_any_jitter_is_between_a_tenth_and_all_of_the_maximum(
    attempt: int, jitter: float
) -> None:
    """The bounds hold for any number of attempts."""
    backoff = Backoff()
    max_delay = backoff.max_delay(attempt)
    assert max_delay / 10 <= backoff.delay(attempt, jitter) <= max_delay <= backoff.cap_s


@given(ATTEMPTS, AGES_S, JITTER)
def test_outage_wait_while_other_calls_succeed_is_short_for_the_age_and_the_attempts(
    attempts: int, age_s: float, jitter: float
) -> None:
    """A young ticket waits seconds; one that always fails waits longer the older it is."""
    history = AttemptHistory(attempts, age_s, jitter)
    wait_s = outage_wait(history, RETRY_POLICY, closed_s=0.0)
    assert 0.2 <= wait_s <= max(2.0, age_s / 10)
    assert wait_s <= RETRY_POLICY.backoff.max_delay(attempts + 1) <= 300


@given(ATTEMPTS, AGES_S, JITTER, st.floats(min_value=0.001, max_value=64))
def test_outage_wait_while_most_calls_fail_ends_soon_after_the_budget_opens(
    attempts: int, age_s: float, jitter: float, closed_s: float
) -> None:
    """After an outage of hours, no ticket waits minutes more."""
    history = AttemptHistory(attempts, age_s, jitter)
    wait_s = outage_wait(history, RETRY_POLICY, closed_s=closed_s)
    assert closed_s + 0.2 <= wait_s <= closed_s + 2.0


@pytest.mark.parametrize("closed_s", [0.0, 10.0])
def test_outage_wait_of_a_refresh_doubles_with_each_attempt(closed_s: float) -> None:
    """The age of a refresh is that of its webhook, and its attempts are limited."""
    waits_s = [
        outage_wait(
            AttemptHistory(attempts, 1e5, 0.999999, is_refresh=True),
            RETRY_POLICY,
            closed_s=closed_s,
        )
        for attempts in range(4)
    ]
    assert waits_s == pytest.approx([closed_s + wait_s for wait_s in (2, 4, 8, 16)], rel=1e-3)


PASSING_FAULTS = [
    NoResponse("timed out"),
    ApiResponse(status=503, body=b""),
    ApiResponse(status=302, body=b""),
    ApiResponse(status=409, body=b""),
    ApiResponse(status=200, body=b"<html>", malformed="no JSON"),
]


@pytest.mark.parametrize("response", PASSING_FAULTS)
@given(jitter=JITTER)
def test_repeat_wait_of_a_passing_fault_is_short_until_the_tries_are_used_up(
    response: ApiResponse | NoResponse, jitter: float
) -> None:
    """The first call gets fewer tries than a page; each wait is between 0.2 and 2 s."""
    failure = CallFailure(response)
    for has_progress, max_tries in ((False, 4), (True, 10)):
        for tries in range(1, 12):
            wait_s = repeat_wait(
                failure, tries=tries, has_progress=has_progress, jitter=jitter, policy=REPEATS
            )
            assert (wait_s is None) is (tries >= max_tries)
            assert wait_s is None or 0.2 <= wait_s <= 2.0


def test_repeat_wait_while_the_budget_is_closed_keeps_only_what_was_fetched() -> None:
    """Without progress the ticket waits in the backlog; with progress the call waits."""
    failure = CallFailure(NoResponse("timed out"), closed_s=30.0)
    for has_progress in (False, True):
        wait_s = repeat_wait(
            failure, tries=1, has_progress=has_progress, jitter=0.5, policy=REPEATS
        )
        assert (wait_s is not None) is has_progress


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_repeat_wait_of_a_final_answer_is_none(status: int) -> None:
    """The same request would get the same answer."""
    failure = CallFailure(ApiResponse(status=status, body=b""))
    assert repeat_wait(failure, tries=1, has_progress=True, jitter=0.5, policy=REPEATS) is None


def test_repeat_wait_of_a_rate_limit_repeats_only_with_progress() -> None:
    """The budget says when; without progress the ticket waits in the backlog."""
    failure = CallFailure(ApiResponse(status=429, body=b""), closed_s=0.0)
    for has_progress, expected in ((False, None), (True, 0.0)):
        wait_s = repeat_wait(
            failure, tries=1, has_progress=has_progress, jitter=0.5, policy=REPEATS
        )
        assert wait_s == expected
