"""What does the picture of the flow show? Measures in; stations, pipes and gauges out."""

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from service.operate.console.figures import (
    Curve,
    Sample,
    WindowView,
    draw_arc,
    draw_curve,
    growth_rate,
    list_rates,
    list_values,
    tightest_window,
)
from service.operate.console.words import format_count, format_rate

CURVE_WIDTH, CURVE_HEIGHT = 148.0, 36.0
GAUGE_RADIUS = 84.0

_FAST_PER_S, _BUSY_PER_S = 5.0, 0.5
_MIN_BAR_MS, _MAX_BAR_MS = 10.0, 900_000.0

Tone = Literal["calm", "warn", "bad"]
FlowSpeed = Literal["still", "slow", "busy", "fast"]


class FlowStage(Struct, frozen=True, kw_only=True):
    """One station of the way, with the curve of its last minutes."""

    name: str
    title: str
    number: str
    unit: str
    note: str
    tone: Tone = "calm"
    curve: Curve


class FlowChart(Struct, frozen=True):
    """The whole way: five stations, and how lively it is in the pipe behind each."""

    stages: Sequence[FlowStage]
    pipe_speeds: Sequence[FlowSpeed]
    failed: str


class BudgetGauge(Struct, frozen=True, kw_only=True):
    """A window as a half circle: what is left of it, and the part that is others'."""

    window: WindowView
    track: str
    remaining_arc: str
    reserved_arc: str
    tone: Tone


def build_flow_chart(samples: Sequence[Sample], windows: Sequence[WindowView]) -> FlowChart:
    """Draw the way from door to stream as it is at the end of a history."""
    now = samples[-1]
    received_per_s, appended_per_s = (
        growth_rate(samples, _received_count),
        growth_rate(samples, _appended_count),
    )
    is_closed = now.closed_s > 0 or now.calls_available == 0
    worker_speed: FlowSpeed = "still" if is_closed else _flow_speed(appended_per_s)
    return FlowChart(
        stages=(
            _build_receiver_stage(samples, received_per_s),
            _build_backlog_stage(samples),
            _build_budget_stage(samples, windows),
            _build_upstream_stage(samples),
            _build_stream_stage(samples, appended_per_s),
        ),
        pipe_speeds=(
            _flow_speed(received_per_s),
            worker_speed,
            worker_speed,
            _flow_speed(appended_per_s),
        ),
        failed=format_count(now.failed),
    )


def build_gauge(windows: Sequence[WindowView], *, share: float) -> BudgetGauge | None:
    """Draw the window that binds; None while none is known."""
    window = tightest_window(windows)
    if window is None:
        return None
    reserved_share = max(0.0, 1 - share)
    remaining_share = window.remaining_share if window.is_open else 0.0
    tone: Tone = "calm" if remaining_share > reserved_share or not window.is_open else "warn"
    return BudgetGauge(
        window=window,
        track=draw_arc(1.0, radius=GAUGE_RADIUS),
        remaining_arc=draw_arc(remaining_share, radius=GAUGE_RADIUS) if remaining_share > 0 else "",
        reserved_arc=draw_arc(reserved_share, radius=GAUGE_RADIUS + 11)
        if reserved_share > 0
        else "",
        tone=tone,
    )


def bar_length(took_ms: float) -> float:
    """Give the length of a bar (0 to 1) for what took so long: milliseconds and minutes fit."""
    magnitude = math.log(max(took_ms, _MIN_BAR_MS) / _MIN_BAR_MS)
    return min(1.0, magnitude / math.log(_MAX_BAR_MS / _MIN_BAR_MS))


def _build_receiver_stage(samples: Sequence[Sample], received_per_s: float) -> FlowStage:
    return FlowStage(
        name="door",
        title="Door",
        number=format_rate(received_per_s),
        unit="/s",
        note=f"{format_count(samples[-1].received)} webhooks here",
        curve=_draw_stage_curve(list_rates(samples, _received_count)),
    )


def _build_backlog_stage(samples: Sequence[Sample]) -> FlowStage:
    now = samples[-1]
    return FlowStage(
        name="backlog",
        title="Backlog",
        number=format_count(now.waiting),
        unit="wait" if now.waiting != 1 else "waits",
        note=f"{format_count(now.due)} due, {format_count(now.leased)} in hand",
        curve=_draw_stage_curve(list_values(samples, lambda sample: sample.waiting)),
    )


def _build_budget_stage(samples: Sequence[Sample], windows: Sequence[WindowView]) -> FlowStage:
    now, window = samples[-1], tightest_window(windows)
    note: str
    tone: Tone
    if now.closed_s > 0:
        note, tone = f"closed {now.closed_s:.0f} s: {now.closed_reason}", "bad"
    elif now.calls_available == 0:
        note, tone = "quota met", "warn"
    elif window is not None and window.is_open:
        note, tone = f"{window.remaining:,} of {window.limit:,} left", "calm"
    else:
        note, tone = "a new window is tried first", "calm"
    return FlowStage(
        name="budget",
        title="Budget",
        number=format_count(now.calls_available),
        unit="calls now",
        note=note,
        tone=tone,
        curve=_draw_stage_curve(list_values(samples, lambda sample: sample.calls_available)),
    )


def _build_upstream_stage(samples: Sequence[Sample]) -> FlowStage:
    now = samples[-1]
    return FlowStage(
        name="upstream",
        title="LaunchDarkly",
        number=format_count(now.in_flight),
        unit="in flight",
        note="calls on their way",
        curve=_draw_stage_curve(list_values(samples, lambda sample: sample.in_flight)),
    )


def _build_stream_stage(samples: Sequence[Sample], appended_per_s: float) -> FlowStage:
    return FlowStage(
        name="stream",
        title="Stream",
        number=format_rate(appended_per_s),
        unit="/s",
        note=_format_stream_note(samples[-1]),
        curve=_draw_stage_curve(list_rates(samples, _appended_count)),
    )


def _format_stream_note(now: Sample) -> str:
    records = f"{format_count(now.records)} kept"
    if not now.reader_groups:
        return f"{records}, no readers"
    return f"{records}, {format_count(now.unread)} unread"


def _draw_stage_curve(points: Sequence[tuple[float, float]]) -> Curve:
    return draw_curve(points, width=CURVE_WIDTH, height=CURVE_HEIGHT)


def _flow_speed(per_second: float) -> FlowSpeed:
    if per_second >= _FAST_PER_S:
        return "fast"
    if per_second >= _BUSY_PER_S:
        return "busy"
    return "slow" if per_second > 0 else "still"


def _received_count(sample: Sample) -> int:
    return sample.received


def _appended_count(sample: Sample) -> int:
    return sample.appended
