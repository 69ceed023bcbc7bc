"""What grows, and does it go on growing? Numbers and times in, verdicts out: thinks only."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

_LEAST = 8
_SLACK = 1.10


class Sample(Struct, frozen=True, kw_only=True):
    """What one look saw: seconds since the start, and what each thing came to then.

    Of what was just being started again nothing is said.
    """

    at_s: float
    values: dict[str, float]


class Course(Struct, frozen=True, kw_only=True):
    """How one thing went: where it lay in the middle half of the time, and in the last quarter."""

    name: str
    unit: str
    middle: float
    end: float
    highest: float
    grows: bool


def follow(samples: Sequence[Sample], name: str, *, unit: str, slack: float = 0.0) -> Course | None:
    """Tell whether a thing is higher in the last quarter than in the second; None of too little.

    The first quarter is left out, since caches fill and retention has dropped nothing yet. More
    by a tenth, or by ``slack`` of its unit where that is more, is growth.
    """
    told = [(each.at_s, each.values[name]) for each in samples if name in each.values]
    if len(told) < _LEAST:
        return None
    since, until = told[0][0], told[-1][0]
    quarter = (until - since) / 4
    middle = median(v for at, v in told if since + quarter <= at <= since + 2 * quarter)
    end = median(v for at, v in told if at >= until - quarter)
    return Course(
        name=name,
        unit=unit,
        middle=middle,
        end=end,
        highest=max(value for _, value in told),
        grows=end > max(middle * _SLACK, middle + slack),
    )
