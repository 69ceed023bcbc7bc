"""What do the samples say? Medians, quartiles, and a table that a person can read."""

import statistics
from collections.abc import Sequence

from msgspec import Struct


class Spread(Struct, frozen=True):
    """The middle half of some samples, and their middle."""

    low: float
    median: float
    high: float

    def format(self, digits: int = 2) -> str:
        """Write the median, and the quartiles behind it."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} … {self.high:.{digits}f})"


def measure_spread(samples: Sequence[float]) -> Spread:
    """Give median and quartiles; of one sample, itself."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(low, median, high)


def compare_rounds(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Give the spread of the ratios of rounds: each pair was measured side by side."""
    return measure_spread(
        [ours_value / theirs_value for ours_value, theirs_value in zip(ours, theirs, strict=True)]
    )


def check_goal(ratio: Spread, goal: float) -> str:
    """Say whether the middle half lies on one side of the goal; else that it cannot be told."""
    if ratio.high <= goal:
        return "met"
    if ratio.low > goal:
        return "not met"
    return "within the spread"


def percentile(samples: Sequence[float], fraction: float) -> float:
    """Give the sample below which that share lies."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
