"""The summary of the reports: what the service costs beside what you would build."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from tests.bench.contestants import CONTENT_FLOOR
from tests.bench.spread import Spread, check_goal, compare_rounds, format_table, measure_spread

Samples = Mapping[str, Sequence[float]]

_TITLE = "## What it costs beside what you would build\n\n"


class Comparison(Struct, frozen=True):
    """A cost of the service: a ratio to the cost of something else, or a value with a unit."""

    what: str
    beside: str
    value: Spread
    goal: float
    unit: str = ""

    def format_row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        unit = f" {self.unit}" if self.unit else ""
        digits = 0 if self.unit else 2
        return (
            self.what,
            self.beside,
            self.value.format(digits) + unit,
            f"<= {self.goal:.{digits}f}{unit}",
            check_goal(self.value, self.goal),
        )


class Report(Struct, frozen=True):
    """The text of a report, and what it adds to the summary."""

    text: str
    comparisons: tuple[Comparison, ...] = ()


def compare_with(
    samples: Samples, name: str, *, what: str, beside: str, goal: float
) -> tuple[Comparison, ...]:
    """Compare the first of the samples with another one; nothing if one was not measured."""
    service, *_ = samples.values()
    other = samples.get(name, ())
    if not service or len(other) != len(service):
        return ()
    return (Comparison(what, beside, compare_rounds(service, other), goal),)


def compare_floors(
    samples: Samples, name: str, *, what: str, beside: str, goal: float
) -> tuple[Comparison, ...]:
    """Compare each floor with another one: a goal below the content floor is out of reach."""
    return tuple(
        comparison
        for floor in ("floor", CONTENT_FLOOR)
        if floor in samples
        for comparison in compare_with(
            {key: samples[key] for key in (floor, name)},
            name,
            what=f"{floor} of a {what}",
            beside=beside,
            goal=goal,
        )
    )


def compare_with_cheapest(
    samples: Samples, names: Iterable[str], *, what: str, beside: str, goal: float
) -> tuple[Comparison, ...]:
    """Compare the first of the samples with the one of these that has the lowest median."""
    measured = [name for name in names if samples.get(name)]
    if not measured:
        return ()
    cheapest = min(measured, key=lambda name: measure_spread(samples[name]).median)
    return compare_with(samples, cheapest, what=what, beside=f"{beside}: {cheapest}", goal=goal)


def format_summary(comparisons: Iterable[Comparison], *, loop: str) -> str:
    """Return the table of all comparisons. ``loop`` is the event loop of both sides."""
    header = ("what", "beside", "median (quartiles)", "goal", "")
    rows = [comparison.format_row() for comparison in comparisons]
    return f"{_TITLE}Both sides run on {loop}.\n\n{format_table(header, rows)}"
