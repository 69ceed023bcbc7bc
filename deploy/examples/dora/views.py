"""What the pages show: tiles with charts, a table of the parts, deployments; pure."""

from collections.abc import Callable, Container, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from msgspec import Struct

from .charts import BarChart, DotChart, draw_bars, draw_dots
from .deployments import Deployment, FlagEvent, Scope
from .format import format_duration, format_number, format_percent, split_duration
from .history import History, find_rollbacks
from .measures import Measures, has_failed, lead_time_of, measure, recovery_of
from .periods import Part, Period, split_into_parts

PAGE_SIZE = 25
_OVERVIEW_DOTS, _APPLICATION_DOTS = 40, 250  # if there are more, each part has one dot
_NO_NUMBER = "–"  # noqa: RUF001 - a dash where there is no number


class Reading(Struct, frozen=True, kw_only=True):
    """What was read of the stream: how many deployments, and whether that is all.

    ``redis_lost_at`` (epoch ms) is None unless Redis was away after the last record. ``error`` says
    why nothing is read any more.
    """

    known: int = 0
    is_loaded: bool = True
    redis_lost_at: int | None = None
    error: str = ""


class Tile(Struct, frozen=True, kw_only=True):
    """One measure: its number, and a chart of it with a title for each bar section or dot."""

    name: str
    title: str
    number: str
    unit: str = ""
    note: str
    bars: BarChart | None = None
    dots: DotChart | None = None
    top: str
    titles: Sequence[str] = ()


class OverviewRow(Struct, frozen=True):
    """The tiles of an application in an environment."""

    scope: Scope
    tiles: Sequence[Tile]


class TableRow(Struct, frozen=True):
    """The measures of one part of the period: the charts as a table."""

    starts_at: int
    measures: Measures


class FlagView(Struct, frozen=True):
    """A flag that a deployment touched, and what happened to it afterwards."""

    key: str
    url: str
    events: Sequence[FlagEvent]


class DeploymentView(Struct, frozen=True, kw_only=True):
    """A deployment, the one that rolled it back, if any, and whether it is the last one."""

    deployment: Deployment
    is_last: bool
    rolled_back_by: Deployment | None
    flags: Sequence[FlagView]


class ApplicationView(Struct, frozen=True, kw_only=True):
    """One application in an environment; ``next_start`` is the offset of older deployments."""

    scope: Scope
    tiles: Sequence[Tile]
    table: Sequence[TableRow]
    deployments: Sequence[DeploymentView]
    total: int
    next_start: int | None

    def lists(self, deployment_id: str) -> bool:
        """Return whether a deployment is on this page of the list."""
        return any(view.deployment.id == deployment_id for view in self.deployments)


def build_overview(history: History, period: Period, now_ms: int) -> Sequence[OverviewRow]:
    """Return a row for each application and environment with a deployment in the period."""
    rows = []
    for scope, deployments in history.by_scope().items():
        parts = split_into_parts(deployments, period, now_ms)
        if any(part.deployments for part in parts):
            rows.append(
                OverviewRow(
                    scope,
                    _build_tiles(
                        parts, find_rollbacks(deployments), period, max_dots=_OVERVIEW_DOTS
                    ),
                )
            )
    return rows


def build_application(
    history: History, scope: Scope, period: Period, *, now_ms: int, start: int
) -> ApplicationView:
    """Return the view of an application; its deployments begin at an offset, newest first."""
    deployments = history.by_scope().get(scope, ())
    rollbacks = find_rollbacks(deployments)
    parts = split_into_parts(deployments, period, now_ms)
    next_ends = {before.id: after.ended_at for before, after in pairwise(deployments)}
    newest_first = [deployment for part in parts for deployment in part.deployments][::-1]
    end = start + PAGE_SIZE
    return ApplicationView(
        scope=scope,
        tiles=_build_tiles(parts, rollbacks, period, max_dots=_APPLICATION_DOTS),
        table=[TableRow(part.starts_at, measure(part.deployments, rollbacks)) for part in parts],
        deployments=[
            DeploymentView(
                deployment=deployment,
                rolled_back_by=rollbacks.get(deployment.id),
                flags=_list_flags(deployment, next_ends.get(deployment.id)),
                is_last=deployment.id not in next_ends,
            )
            for deployment in newest_first[start:end]
        ],
        total=len(newest_first),
        next_start=end if end < len(newest_first) else None,
    )


def _list_flags(deployment: Deployment, next_end: int | None) -> Sequence[FlagView]:
    """Return the flags with their events until the next deployment ended (epoch ms; None: none).

    A flag may be known by its events alone.
    """
    events = [
        event
        for event in deployment.flag_events or ()
        if next_end is None or event.event_time < next_end
    ]
    urls = {flag.key: flag.url for flag in deployment.flags}
    keys = dict.fromkeys((*urls, *(event.flag_key for event in events)))
    return [
        FlagView(key, urls.get(key, ""), [event for event in events if event.flag_key == key])
        for key in keys
    ]


def _build_tiles(
    parts: Sequence[Part], rollbacks: Mapping[str, Deployment], period: Period, *, max_dots: int
) -> Sequence[Tile]:
    deployments = [deployment for part in parts for deployment in part.deployments]
    measures = measure(deployments, rollbacks)
    lead_times, recoveries = (
        _list_points(parts, value_of, max_points=max_dots)
        for value_of in (lead_time_of, recovery_of)
    )
    lead_time_count = sum(lead_time_of(deployment) is not None for deployment in deployments)
    return (
        _frequency_tile(parts, measures, period),
        Tile(
            name="lead-time",
            title="Lead time for changes",
            note=_median_note(lead_time_count, "deployment", "deployments"),
            **_dot_chart(lead_times, parts, measures.lead_time_ms),
        ),
        _failure_tile(parts, measures, rollbacks),
        Tile(
            name="recovery",
            title="Time to restore",
            note=_median_note(measures.recoveries, "recovery", "recoveries"),
            **_dot_chart(recoveries, parts, measures.recovery_ms),
        ),
    )


def _frequency_tile(parts: Sequence[Part], measures: Measures, period: Period) -> Tile:
    counts = [sum(deployment.succeeded for deployment in part.deployments) for part in parts]
    chart = draw_bars([(count,) for count in counts])
    return Tile(
        name="frequency",
        title="Deployment frequency",
        number=format_number(period.rate(measures.succeeded)),
        unit=f"per {period.unit}",
        note=count_text(measures.succeeded, "successful deployment"),
        bars=chart,
        top=f"{chart.top}",
        titles=[f"{count} succeeded" for count in counts if count],
    )


def _failure_tile(parts: Sequence[Part], measures: Measures, rolled_back: Container[str]) -> Tile:
    stacks = []
    for part in parts:
        failed = sum(has_failed(deployment, rolled_back) for deployment in part.deployments)
        stacks.append((failed, len(part.deployments) - failed))
    chart = draw_bars(stacks)
    rate = measures.failure_rate
    kinds = ("failed or rolled back", "good")
    return Tile(
        name="failures",
        title="Change failure rate",
        number=_NO_NUMBER if rate is None else format_percent(rate),
        unit="" if rate is None else "%",
        note=f"{measures.failed} of {count_text(measures.total, 'deployment')}",
        bars=chart,
        top=f"{chart.top}",
        titles=[
            f"{count} {kind}"
            for stack in stacks
            for count, kind in zip(stack, kinds, strict=True)
            if count
        ],
    )


def _dot_chart(
    points: Sequence[tuple[int, int]], parts: Sequence[Part], median_ms: float | None
) -> dict[str, Any]:
    """Return the fields of a tile that show durations over time."""
    start, length_ms = parts[0].starts_at, parts[1].starts_at - parts[0].starts_at
    chart = draw_dots(points, start=start, end=parts[-1].starts_at + length_ms, median=median_ms)
    number, unit = (_NO_NUMBER, "") if median_ms is None else split_duration(median_ms)
    return {
        "number": number,
        "unit": unit,
        "dots": chart,
        "top": format_duration(chart.top) if points else "",
        "titles": [format_duration(duration) for _, duration in points],
    }


def _list_points(
    parts: Sequence[Part], value_of: Callable[[Deployment], int | None], *, max_points: int
) -> Sequence[tuple[int, int]]:
    """Return (time, duration in ms) of each deployment; if these are too many, of each part."""
    length_ms = parts[1].starts_at - parts[0].starts_at
    points, medians = [], []
    for part in parts:
        values = [
            (deployment.ended_at, value)
            for deployment in part.deployments
            if (value := value_of(deployment)) is not None
        ]
        points += values
        if values:
            middle = round(median(value for _, value in values))
            medians.append((part.starts_at + length_ms // 2, middle))
    return points if len(points) <= max_points else medians


def _median_note(count: int, singular: str, plural: str) -> str:
    return f"median of {count_text(count, singular, plural)}" if count else f"no {singular}"


def count_text(count: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
