"""Tests of the charts and numbers of the example."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.examples.dora.charts import (
    HEIGHT,
    WIDTH,
    draw_bars,
    draw_dots,
    round_count_up,
    round_duration_up,
)
from deploy.examples.dora.format import (
    format_duration,
    format_number,
    format_rfc3339,
    format_utc,
    format_version,
)

counts = st.integers(0, 10_000)


@given(st.lists(st.tuples(counts, counts), max_size=40))
def test_bars_stand_on_the_axis_and_fit(stacks: list[tuple[int, int]]) -> None:
    """Each stack is as high as its sum, and no bar leaves the chart."""
    chart = draw_bars(stacks)
    assert chart.top >= max((sum(stack) for stack in stacks), default=0)
    drawn: dict[float, float] = {}
    for bar in chart.bars:
        assert bar.y >= -0.01
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        drawn[bar.x] = drawn.get(bar.x, 0) + bar.height
    expected = [HEIGHT * sum(stack) / chart.top for stack in stacks if any(stack)]
    assert list(drawn.values()) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 10**11)), max_size=40))
def test_dots_and_median_lie_within_the_chart(points: list[tuple[int, int]]) -> None:
    """The time goes to the right, the value up."""
    median = float(points[0][1]) if points else None
    chart = draw_dots(points, start=0, end=1000, median=median)
    assert [dot.index for dot in chart.dots] == list(range(len(points)))
    assert all(0 <= dot.x <= WIDTH and 0 <= dot.y <= HEIGHT for dot in chart.dots)
    assert chart.median_y == (chart.dots[0].y if points else None)


@given(st.integers(0, 10**15))
def test_rounded_values_are_not_below_and_not_far_above(value: int) -> None:
    """The highest bar fills at least half of its chart."""
    assert value <= round_count_up(value) <= max(1, 2 * value)
    rounded = round_duration_up(value)
    assert value <= rounded <= max(1000, 2.5 * value)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-1, "0 ms"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1 s"),
        (1500, "1.5 s"),
        (59_999, "60 s"),
        (90_000, "1.5 min"),
        (5_400_000, "1.5 h"),
        (172_800_000, "2 d"),
        (86_400_000_000, "1,000 d"),
    ],
)
def test_format_duration_has_a_unit(ms: float, text: str) -> None:
    """The largest unit, with one decimal below 10."""
    assert format_duration(ms) == text


def test_format_number_has_one_decimal_below_10() -> None:
    """A whole number has none."""
    assert [format_number(number) for number in (0, 0.04, 0.25, 9.94, 9.96, 12.4, 1234)] == [
        *("0", "0", "0.2", "9.9", "10", "12", "1,234")
    ]


def test_time_outside_the_calendar_is_a_number() -> None:
    """A record may hold any number."""
    assert format_utc(1_795_428_000_000) == "2026-11-23 10:00:00 UTC"
    assert (format_utc(10**18), format_rfc3339(10**18)) == ("1000000000000000000 ms", "")


def test_format_version_shortens_a_sha() -> None:
    """A tag stays whole, and no version says so."""
    assert format_version("release-2026.11.29") == "release-2026.11.29"
    assert format_version("0123456789abcdef0123456789abcdef01234567") == "0123456789"
    assert format_version("") == "unknown version"
