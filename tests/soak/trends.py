"""What grows, and does it go on growing? Numbers and times in, verdicts out: thinks only."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

_MIN_SAMPLES = 8
_GROWTH_FACTOR = 1.10


class ResourceSample(Struct, frozen=True, kw_only=True):
    """What one look saw: seconds since the start, and what each thing came to then.

    Of what was just being started again nothing is said.
    """

    at_s: float
    values: dict[str, float]


class Trend(Struct, frozen=True, kw_only=True):
    """How one thing went: where it lay in the middle half of the time, and in the last quarter."""

    name: str
    unit: str
    second_quarter: float
    last_quarter: float
    highest: float
    grows: bool


def measure_trend(
    samples: Sequence[ResourceSample], name: str, *, unit: str, slack: float = 0.0
) -> Trend | None:
    """Tell whether a thing is higher in the last quarter than in the second; None of too little.

    The first quarter is left out, since caches fill and retention has dropped nothing yet. More
    by a tenth, or by ``slack`` of its unit where that is more, is growth.
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
