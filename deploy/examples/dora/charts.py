"""Bars and dots as coordinates of an SVG that is stretched to its place; pure.

A chart is WIDTH wide and HEIGHT high; its largest value is a round number at the top.
"""

from collections.abc import Sequence

from msgspec import Struct

WIDTH, HEIGHT = 1000, 100
_BAR_SHARE = 0.74  # of its part of the period; the rest is the gap
_ROUND_COUNTS = (1, 2, 3, 4, 5, 6, 8)
_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
_ROUND_DURATIONS_MS = (
    *(number * _SECOND for number in (1, 2, 5, 10, 20, 30)),
    *(number * _MINUTE for number in (1, 2, 5, 10, 20, 30)),
    *(number * _HOUR for number in (1, 2, 3, 6, 12)),
    *(number * _DAY for number in (1, 2, 3, 5, 7, 10, 14, 20, 30, 60, 90, 180, 365)),
)


class Bar(Struct, frozen=True):
    """One section of a bar: ``series`` is its index among the sections, from the bottom."""

    series: int
    x: float
    y: float
    width: float
    height: float


class BarChart(Struct, frozen=True):
    """One stacked bar for each part of a period. ``top`` is the value at the upper edge."""

    bars: Sequence[Bar]
    top: int


class Dot(Struct, frozen=True):
    """One value at its time, as coordinates; ``index`` is that of the point."""

    index: int
    x: float
    y: float


class DotChart(Struct, frozen=True):
    """Values over time, and the height of their median. ``top`` is the value at the upper edge."""

    dots: Sequence[Dot]
    top: int
    median_y: float | None


def draw_bars(stacks: Sequence[Sequence[int]]) -> BarChart:
    """Return the bars of counts: one stack for each part of a period, from the bottom."""
    top = round_count_up(max((sum(stack) for stack in stacks), default=0))
    step = WIDTH / max(1, len(stacks))
    bars = []
    for position, stack in enumerate(stacks):
        y = float(HEIGHT)
        for series, count in enumerate(stack):
            height = HEIGHT * count / top
            y -= height
            if count:
                x = (position + (1 - _BAR_SHARE) / 2) * step
                bars.append(
                    Bar(series, round(x, 2), round(y, 2), round(step * _BAR_SHARE, 2), height)
                )
    return BarChart(bars, top)


def draw_dots(
    points: Sequence[tuple[int, int]], *, start: int, end: int, median: float | None
) -> DotChart:
    """Return (time, duration in ms) as dots between two times, with a line at the median."""
    top = round_duration_up(max((duration for _, duration in points), default=0))
    dots = [
        Dot(index, round(WIDTH * (at - start) / (end - start), 2), _height_of(duration, top))
        for index, (at, duration) in enumerate(points)
    ]
    return DotChart(dots, top, None if median is None else _height_of(median, top))


def round_count_up(count: int) -> int:
    """Return the smallest round number that is not below a count, at least 1."""
    magnitude = 1
    while True:
        for number in _ROUND_COUNTS:
            if number * magnitude >= count:
                return number * magnitude
        magnitude *= 10


def round_duration_up(duration_ms: int) -> int:
    """Return the smallest round duration that is not below a duration, in ms."""
    for round_ms in _ROUND_DURATIONS_MS:
        if round_ms >= duration_ms:
            return round_ms
    return round_count_up(-(-duration_ms // _DAY)) * _DAY


def _height_of(value: float, top: int) -> float:
    return round(HEIGHT * (1 - max(0.0, value) / top), 2)
