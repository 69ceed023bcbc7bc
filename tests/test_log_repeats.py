"""Tests of repeated trouble: lines at growing intervals, and every occurrence counted once."""

from hypothesis import given
from hypothesis import strategies as st

from service.log_repeats import MAX_INTERVAL_S, RepeatLimiter

KEY = ("claim_failed", "RedisUnavailable")


def test_lines_follow_after_1_2_4_seconds_up_to_60() -> None:
    """Trouble every 0.1 s for ten minutes makes 15 lines, which count it all."""
    limiter = RepeatLimiter()
    counts = {tenths / 10: limiter.add(KEY, tenths / 10) for tenths in range(6000)}
    lines = {time_s: count for time_s, count in counts.items() if count}
    assert [*lines] == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363, 423, 483, 543]
    assert [*lines.values()][:4] == [1, 10, 20, 40]


def test_waiting_occurrences_are_due_without_another_one() -> None:
    """The last line of a trouble that has ended counts what no line counted."""
    limiter = RepeatLimiter()
    assert [limiter.add(KEY, 0.0), limiter.add(KEY, 0.1), limiter.add(KEY, 0.2)] == [1, 0, 0]
    assert limiter.next_due_s() == 1.0
    assert [*limiter.pop_due(0.9)] == []
    assert [*limiter.pop_due(1.0)] == [(KEY, 2)]
    assert limiter.next_due_s() is None


def test_trouble_that_comes_back_after_a_minute_starts_over() -> None:
    """It is logged at once, and again after a second."""
    limiter = RepeatLimiter()
    for time_s in range(60):
        limiter.add(KEY, time_s)
    [*limiter.pop_due(63.0)]
    assert [limiter.add(KEY, 200.0), limiter.add(KEY, 200.5), limiter.add(KEY, 201.0)] == [1, 0, 2]


def test_other_trouble_is_logged_at_once() -> None:
    """Until an event has so many reasons that they cannot be the same few troubles."""
    limiter = RepeatLimiter()
    counts = [
        limiter.add(limiter.normalize(("redis_disconnected", f"reason {number}")), 0.0)
        for number in range(1000)
    ]
    assert sum(counts) == 17
    assert limiter.add(limiter.normalize(KEY), 0.0) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 200), st.booleans()),
        max_size=60,
    )
)
def test_every_occurrence_is_counted_by_one_line(steps: list[tuple[str, float, bool]]) -> None:
    """Whenever trouble comes, and whether a timer runs in between or not."""
    limiter, now_s, counted = RepeatLimiter(), 0.0, 0
    last_line_s: dict[str, float] = {}
    for reason, wait_s, has_timer in steps:
        now_s += wait_s
        if has_timer:
            for (_, due_reason), count in limiter.pop_due(now_s):
                counted += count
                last_line_s[due_reason] = now_s
        if count := limiter.add(("event", reason), now_s):
            counted += count
            assert now_s - last_line_s.get(reason, -1.0) >= 1.0
            last_line_s[reason] = now_s
        assert now_s - last_line_s[reason] <= MAX_INTERVAL_S
    assert counted + sum(count for _, count in limiter.pop_due(float("inf"))) == len(steps)
