"""Medians, quartiles and Markdown tables."""

import statistics
from collections.abc import Sequence

from msgspec import Struct


class Spread(Struct, frozen=True):
    """The lower quartile, the median and the upper quartile of some samples."""

    low: float
    median: float
    high: float

    def format(self, digits: int = 2) -> str:
        """Return the median followed by the quartiles."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} … {self.high:.{digits}f})"


def measure_spread(samples: Sequence[float]) -> Spread:
    """Return median and quartiles. One sample is its own quartiles."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(low, median, high)


def compare_rounds(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Return the spread of the ratios of paired rounds."""
    return measure_spread([value / base for value, base in zip(values, baseline, strict=True)])


def check_goal(ratio: Spread, goal: float) -> str:
    """Return on which side of the goal both quartiles lie."""
    if ratio.high <= goal:
        return "met"
    if ratio.low > goal:
        return "not met"
    return "within the spread"


def percentile(samples: Sequence[float], fraction: float) -> float:
    """Return the sample at a fraction (0 to 1) of the sorted samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
