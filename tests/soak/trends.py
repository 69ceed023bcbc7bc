"""Trends: whether a value keeps growing. Pure."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

_MIN_SAMPLES = 8
_GROWTH_FACTOR = 1.10


class ResourceSample(Struct, frozen=True, kw_only=True):
    """One sample: the seconds since the start, and the measured values.

    It has no values of a process that was just restarting.
    """

    at_s: float
    values: dict[str, float]


class Trend(Struct, frozen=True, kw_only=True):
    """The trend of one value: its medians in the second and in the last quarter of the time."""

    name: str
    unit: str
    second_quarter: float
    last_quarter: float
    highest: float
    grows: bool


def measure_trend(
    samples: Sequence[ResourceSample], name: str, *, unit: str, slack: float = 0.0
) -> Trend | None:
    """Return the trend of one value, or None when there are too few samples.

    The first quarter does not count: caches fill and nothing has expired yet. A value grows when
    its last quarter is higher than its second by more than a tenth and by more than ``slack``.
    """
    points = [(sample.at_s, sample.values[name]) for sample in samples if name in sample.values]
    if len(points) < _MIN_SAMPLES:
        return None
    since, until = points[0][0], points[-1][0]
    quarter = (until - since) / 4
    second_quarter = median(
        value for at_s, value in points if since + quarter <= at_s <= since + 2 * quarter
    )
    last_quarter = median(value for at_s, value in points if at_s >= until - quarter)
    return Trend(
        name=name,
        unit=unit,
        second_quarter=second_quarter,
        last_quarter=last_quarter,
        highest=max(value for _, value in points),
        grows=last_quarter > max(second_quarter * _GROWTH_FACTOR, second_quarter + slack),
    )
