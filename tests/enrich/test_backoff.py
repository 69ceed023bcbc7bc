"""Tests of the backoff between attempts."""

from hypothesis import given
from hypothesis import strategies as st

from service.enrich.verdict import Backoff

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
