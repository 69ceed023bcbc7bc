"""Tests of the texts for numbers, times and reasons."""

import pytest

from service.backlog.failed_tickets import RetryResult
from service.console.format import (
    REASON_TEXTS,
    RETRY_RESULT_TEXTS,
    explain_reason,
    format_age,
    format_duration,
    format_rfc3339,
    format_time,
)
from service.metrics.counters import FAILURE_REASONS


def test_every_failure_reason_has_a_text() -> None:
    """A person who sees a reason in the console finds its meaning there; no text is unused."""
    assert set(REASON_TEXTS) == set(FAILURE_REASONS)
    assert all(explain_reason(reason) for reason in FAILURE_REASONS)


def test_every_retry_result_has_a_text() -> None:
    """The console and the command ``failed`` share the texts."""
    statuses = RetryResult.__annotations__["status"].__args__
    assert set(RETRY_RESULT_TEXTS) == set(statuses)


@pytest.mark.parametrize(
    ("seconds", "digits", "text"),
    [
        (-1, 0, "0 s"),
        (59, 0, "59 s"),
        (60, 0, "1 min"),
        (5400, 1, "1.5 h"),
        (900_000, 1, "10.4 d"),
    ],
)
def test_format_age_uses_the_largest_unit(seconds: float, digits: int, text: str) -> None:
    """Negative ages, which come from clocks that differ, are 0."""
    assert format_age(seconds, digits=digits) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(12, "12 ms"), (1234, "1.2 s"), (12_345, "12 s"), (120_000, "2 min")]
)
def test_format_duration_is_more_precise_for_short_ones(ms: float, text: str) -> None:
    """Milliseconds below a second, one decimal below ten."""
    assert format_duration(ms) == text


def test_format_time_outside_the_calendar_is_a_number() -> None:
    """A sender may give any number as a time."""
    assert format_time(0) == "1970-01-01 00:00:00 UTC"
    assert format_time(1e18) == "1000000000000000000 ms"
    assert format_rfc3339(0) == "1970-01-01T00:00:00.000+00:00"
    assert format_rfc3339(1e18) == ""
