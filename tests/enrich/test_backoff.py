"""How long to wait?"""

from hypothesis import given
from hypothesis import strategies as st

from service.enrich.verdict import Backoff

JITTER = st.floats(min_value=0, max_value=1, exclude_max=True)


def test_max_delay_by_attempt_doubles_up_to_the_cap() -> None:
    """As the table in its docstring says."""
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
    attempt: int, chance: float
) -> None:
    """Never at once, never longer, however often it was tried."""
    backoff = Backoff()
    ceiling = backoff.max_delay(attempt)
    assert ceiling / 10 <= backoff.delay(attempt, chance) <= ceiling <= backoff.cap_s
