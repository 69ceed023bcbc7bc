"""What does the picture of the flow show? Measures in; stations, pipes and gauges out."""

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from service.operate.console.figures import (
    Curve,
    Measures,
    Window,
    draw_arc,
    draw_curve,
    find_rate,
    find_tightest,
    list_levels,
    list_paces,
)
from service.operate.console.words import write_count, write_pace

CURVE_WIDTH, CURVE_HEIGHT = 148.0, 36.0
GAUGE_RADIUS = 84.0

_FAST, _BUSY = 5.0, 0.5
_SHORTEST_MS, _LONGEST_MS = 10.0, 900_000.0

Tone = Literal["calm", "warn", "bad"]
Stream = Literal["still", "slow", "busy", "fast"]


class Station(Struct, frozen=True, kw_only=True):
    """One station of the way, with the curve of its last minutes."""

    name: str
    title: str
    number: str
    unit: str
    note: str
    tone: Tone = "calm"
    curve: Curve


class Picture(Struct, frozen=True):
    """The whole way: five stations, and how lively it is in the pipe behind each."""

    stations: Sequence[Station]
    pipes: Sequence[Stream]
    failed: str


class Gauge(Struct, frozen=True, kw_only=True):
    """A window as a half circle: what is left of it, and the part that is others'."""

    window: Window
    track: str
    left: str
    spared: str
    tone: Tone


def draw_flow(history: Sequence[Measures], windows: Sequence[Window]) -> Picture:
    """Draw the way from door to stream as it is at the end of a history."""
    now = history[-1]
    came, went = find_rate(history, _received), find_rate(history, _appended)
    is_shut = now.closed_s > 0 or now.room == 0
    working: Stream = "still" if is_shut else _name_stream(went)
    return Picture(
        stations=(
            _draw_door(history, came),
            _draw_backlog(history),
            _draw_budget(history, windows),
            _draw_upstream(history),
            _draw_stream(history, went),
        ),
        pipes=(_name_stream(came), working, working, _name_stream(went)),
        failed=write_count(now.failed),
    )


def draw_gauge(windows: Sequence[Window], *, share: float) -> Gauge | None:
    """Draw the window that binds; None while none is known."""
    window = find_tightest(windows)
    if window is None:
        return None
    spared = max(0.0, 1 - share)
    left = window.part_left if window.is_open else 0.0
    tone: Tone = "calm" if left > spared or not window.is_open else "warn"
    return Gauge(
        window=window,
        track=draw_arc(1.0, radius=GAUGE_RADIUS),
        left=draw_arc(left, radius=GAUGE_RADIUS) if left > 0 else "",
        spared=draw_arc(spared, radius=GAUGE_RADIUS + 11) if spared > 0 else "",
        tone=tone,
    )


def measure_bar(took_ms: float) -> float:
    """Give the length of a bar (0 to 1) for what took so long: milliseconds and minutes fit."""
    part = math.log(max(took_ms, _SHORTEST_MS) / _SHORTEST_MS)
    return min(1.0, part / math.log(_LONGEST_MS / _SHORTEST_MS))


def _draw_door(history: Sequence[Measures], came: float) -> Station:
    return Station(
        name="door",
        title="Door",
        number=write_pace(came),
        unit="/s",
        note=f"{write_count(history[-1].received)} webhooks here",
        curve=_curve(list_paces(history, _received)),
    )


def _draw_backlog(history: Sequence[Measures]) -> Station:
    now = history[-1]
    return Station(
        name="backlog",
        title="Backlog",
        number=write_count(now.waiting),
        unit="wait" if now.waiting != 1 else "waits",
        note=f"{write_count(now.due)} due, {write_count(now.in_hand)} in hand",
        curve=_curve(list_levels(history, lambda each: each.waiting)),
    )


def _draw_budget(history: Sequence[Measures], windows: Sequence[Window]) -> Station:
    now, window = history[-1], find_tightest(windows)
    note: str
    tone: Tone
    if now.closed_s > 0:
        note, tone = f"closed {now.closed_s:.0f} s: {now.why}", "bad"
    elif now.room == 0:
        note, tone = "quota met", "warn"
    elif window is not None and window.is_open:
        note, tone = f"{window.left:,} of {window.limit:,} left", "calm"
    else:
        note, tone = "a new window is tried first", "calm"
    return Station(
        name="budget",
        title="Budget",
        number=write_count(now.room),
        unit="calls now",
        note=note,
        tone=tone,
        curve=_curve(list_levels(history, lambda each: each.room)),
    )


def _draw_upstream(history: Sequence[Measures]) -> Station:
    now = history[-1]
    return Station(
        name="upstream",
        title="LaunchDarkly",
        number=write_count(now.in_flight),
        unit="in flight",
        note="calls on their way",
        curve=_curve(list_levels(history, lambda each: each.in_flight)),
    )


def _draw_stream(history: Sequence[Measures], went: float) -> Station:
    return Station(
        name="stream",
        title="Stream",
        number=write_pace(went),
        unit="/s",
        note=_tell_readers(history[-1]),
        curve=_curve(list_paces(history, _appended)),
    )


def _tell_readers(now: Measures) -> str:
    kept = f"{write_count(now.records)} kept"
    if not now.groups:
        return f"{kept}, no readers"
    return f"{kept}, {write_count(now.unread)} unread"


def _curve(points: Sequence[tuple[float, float]]) -> Curve:
    return draw_curve(points, width=CURVE_WIDTH, height=CURVE_HEIGHT)


def _name_stream(per_second: float) -> Stream:
    if per_second >= _FAST:
        return "fast"
    if per_second >= _BUSY:
        return "busy"
    return "slow" if per_second > 0 else "still"


def _received(measures: Measures) -> int:
    return measures.received


def _appended(measures: Measures) -> int:
    return measures.appended
