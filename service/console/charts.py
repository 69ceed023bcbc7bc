"""Samples of the namespace as rates, curves, gauges and the flow chart; pure."""

import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from service.console.format import format_count, format_rate

CURVE_WIDTH, CURVE_HEIGHT = 60, 36
_CURVE_STEP_MS = 3000
_HISTORY_MS = (CURVE_WIDTH + 3) * _CURVE_STEP_MS  # a little more than a curve shows
_RATE_SPAN_MS, _RATE_SAMPLES = 10_000, 12
_MAX_SAMPLES = 400
_WINDOW_PATTERN = re.compile(r"([0-9]{1,15}) (-?[0-9]{1,15}) ([0-9]{1,15}) ([a-z]+)")
_FAMILY_ORDER = ("global", "token", "policy", "route:list", "route:get")
_FAMILY_PATTERN = re.compile(r"[a-z]+(?::[a-z]+)?")


class Sample(Struct, frozen=True, kw_only=True):
    """The state of the namespace at one moment (``at_ms``, Redis time).

    ``received`` counts the webhooks of this receiver, ``appended`` all records ever appended.
    """

    at_ms: int
    waiting: int
    due: int
    leased: int
    oldest_s: float
    failed: int
    records: int
    reader_groups: int
    unread: int
    appended: int
    received: int
    in_flight: int
    calls_available: int
    closed_s: float
    closed_reason: str


class WindowView(Struct, frozen=True, kw_only=True):
    """One rate-limit window as LaunchDarkly last reported it."""

    family: str
    limit: int
    remaining: int
    ends_in_s: float

    @property
    def is_open(self) -> bool:
        """Whether the window has not ended yet; an ended window says little."""
        return self.ends_in_s > 0

    @property
    def remaining_share(self) -> float:
        """What is left, as a part (0 to 1) of the limit."""
        return min(1.0, max(0.0, self.remaining / self.limit)) if self.limit else 0.0


class SampleHistory:
    """The samples of the last minutes."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_MAX_SAMPLES)

    def add(self, sample: Sample) -> None:
        """Add a sample and remove those that are too old."""
        if self._samples and sample.at_ms <= self._samples[-1].at_ms:
            self._samples.clear()  # another server, or a clock that was set back
        self._samples.append(sample)
        while sample.at_ms - self._samples[0].at_ms > _HISTORY_MS:
            self._samples.popleft()

    def list_samples(self) -> Sequence[Sample]:
        """Return the samples, the oldest first."""
        return tuple(self._samples)


def growth_rate(samples: Sequence[Sample], count_of: Callable[[Sample], int]) -> float:
    """Return how fast a count grew in the last 10 seconds, in 1/s."""
    if not samples:
        return 0.0
    last = samples[-1]
    recent = [
        sample for sample in samples[-_RATE_SAMPLES:] if last.at_ms - sample.at_ms <= _RATE_SPAN_MS
    ]
    span_s = (last.at_ms - recent[0].at_ms) / 1000
    growth = count_of(last) - count_of(recent[0])
    return max(0.0, growth / span_s) if span_s else 0.0


def list_rates(
    samples: Sequence[Sample], count_of: Callable[[Sample], int]
) -> list[tuple[int, float]]:
    """Return (time in ms, growth in 1/s) of each sample."""
    return [
        (sample.at_ms, growth_rate(samples[max(0, end - _RATE_SAMPLES) : end], count_of))
        for end, sample in enumerate(samples, start=1)
    ]


def list_values(
    samples: Sequence[Sample], value_of: Callable[[Sample], int]
) -> list[tuple[int, float]]:
    """Return (time in ms, value) of each sample."""
    return [(sample.at_ms, float(value_of(sample))) for sample in samples]


def draw_curve(points: Sequence[tuple[int, float]]) -> str:
    """Return (time in ms, value) as an SVG path: the curve of the last minutes, closed below it.

    The curve is CURVE_WIDTH wide, one step per 3 s of the clock, with the largest value of each
    step. So it changes only when a step begins or the newest value grows, and a constant value is
    always the same path. The largest value of all is at 0, the value 0 at CURVE_HEIGHT; the edge
    that closes the path lies outside that range.
    """
    if not points:
        return ""
    first_step = points[-1][0] // _CURVE_STEP_MS - CURVE_WIDTH
    step_values: dict[int, float] = {}
    for at_ms, value in points:
        step = max(0, at_ms // _CURVE_STEP_MS - first_step)
        step_values[step] = max(value, step_values.get(step, 0.0))
    max_value = max(1.0, *step_values.values())
    corners = [
        (step, f"{CURVE_HEIGHT * (1 - value / max_value):.1f}")
        for step, value in step_values.items()
    ]
    line = "L".join(f"{x} {y}" for x, y in _drop_level_corners(corners))
    left, bottom = corners[0][0] or -1, CURVE_HEIGHT + 3
    return f"M{left} {bottom}V{corners[0][1]}L{line}H{CURVE_WIDTH + 1}V{bottom}Z"


def _drop_level_corners(corners: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the corners without those between two of the same height."""
    return [
        corner
        for index, corner in enumerate(corners)
        if index in {0, len(corners) - 1}
        or not corners[index - 1][1] == corner[1] == corners[index + 1][1]
    ]


def draw_arc(share: float, *, radius: float) -> str:
    """Return an SVG path: a part (0 to 1) of a half circle around 0 0, from the left."""
    angle = math.pi * (1 - min(1.0, max(0.0, share)))
    x, y = radius * math.cos(angle), -radius * math.sin(angle)
    return f"M{-radius:.1f} 0A{radius:.1f} {radius:.1f} 0 0 1 {x:.2f} {y:.2f}"


def parse_windows(budget: Mapping[str, str], *, now_ms: int) -> list[WindowView]:
    """Return the windows of the budget, global first; unreadable ones are left out."""
    skew_ms = _parse_number(budget.get("clock_skew_ms", "0"))
    windows = []
    for family in sorted(budget, key=_family_order):
        match = _WINDOW_PATTERN.match(budget[family])
        if match is None or not _FAMILY_PATTERN.fullmatch(family):
            continue
        limit, remaining, reset_ms = (int(match[group]) for group in (1, 2, 3))
        ends_in_s = (reset_ms - skew_ms - now_ms) / 1000
        windows.append(
            WindowView(family=family, limit=limit, remaining=remaining, ends_in_s=ends_in_s)
        )
    return windows


def tightest_window(windows: Sequence[WindowView]) -> WindowView | None:
    """Return the open window with the fewest calls left; without an open one, the first."""
    open_windows = [window for window in windows if window.is_open]
    if open_windows:
        return min(open_windows, key=lambda window: window.remaining)
    return windows[0] if windows else None


def _family_order(family: str) -> int:
    return _FAMILY_ORDER.index(family) if family in _FAMILY_ORDER else len(_FAMILY_ORDER)


def _parse_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


GAUGE_RADIUS = 84.0

_FAST_PER_S, _BUSY_PER_S = 5.0, 0.5
_MIN_BAR_MS, _MAX_BAR_MS = 10.0, 900_000.0

Tone = Literal["calm", "warn", "bad"]
FlowSpeed = Literal["still", "slow", "busy", "fast"]


class FlowStage(Struct, frozen=True, kw_only=True):
    """One stage of the flow chart, with the curve of its last minutes."""

    name: str
    title: str
    number: str
    unit: str
    note: str
    tone: Tone = "calm"
    curve: str


class FlowChart(Struct, frozen=True):
    """The five stages, the speed in the pipe behind each, and the number of failed tickets."""

    stages: Sequence[FlowStage]
    pipe_speeds: Sequence[FlowSpeed]
    failed: str


class BudgetGauge(Struct, frozen=True, kw_only=True):
    """A window as a half circle: what is left, and the part reserved for other clients."""

    window: WindowView
    track: str
    remaining_arc: str
    reserved_arc: str
    tone: Tone


def build_flow_chart(samples: Sequence[Sample], windows: Sequence[WindowView]) -> FlowChart:
    """Return the flow chart from receiver to stream, as of the last sample."""
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
    """Return the gauge of the tightest window; None while no window is known."""
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
    """Return the length of a bar (0 to 1) for a duration, on a logarithmic scale to 15 minutes."""
    magnitude = math.log(max(took_ms, _MIN_BAR_MS) / _MIN_BAR_MS)
    return min(1.0, magnitude / math.log(_MAX_BAR_MS / _MIN_BAR_MS))


def _build_receiver_stage(samples: Sequence[Sample], received_per_s: float) -> FlowStage:
    received = samples[-1].received
    return FlowStage(
        name="receiver",
        title="Receiver",
        number=format_rate(received_per_s),
        unit="/s",
        note=f"{format_count(received)} {'webhook' if received == 1 else 'webhooks'} here",
        curve=draw_curve(list_rates(samples, _received_count)),
    )


def _build_backlog_stage(samples: Sequence[Sample]) -> FlowStage:
    now = samples[-1]
    return FlowStage(
        name="backlog",
        title="Backlog",
        number=format_count(now.waiting),
        unit="ticket" if now.waiting == 1 else "tickets",
        note=f"{format_count(now.due)} due, {format_count(now.leased)} leased",
        curve=draw_curve(list_values(samples, lambda sample: sample.waiting)),
    )


def _build_budget_stage(samples: Sequence[Sample], windows: Sequence[WindowView]) -> FlowStage:
    now, window = samples[-1], tightest_window(windows)
    note: str
    tone: Tone
    if now.closed_s > 0:
        note, tone = f"closed {now.closed_s:.0f} s: {now.closed_reason}", "bad"
    elif now.calls_available == 0:
        note, tone = "used up", "warn"
    elif window is not None and window.is_open:
        note, tone = f"{window.remaining:,} of {window.limit:,} left", "calm"
    else:
        note, tone = "a probe goes first", "calm"
    return FlowStage(
        name="budget",
        title="Budget",
        number=format_count(now.calls_available),
        unit="calls available",
        note=note,
        tone=tone,
        curve=draw_curve(list_values(samples, lambda sample: sample.calls_available)),
    )


def _build_upstream_stage(samples: Sequence[Sample]) -> FlowStage:
    now = samples[-1]
    return FlowStage(
        name="upstream",
        title="LaunchDarkly",
        number=format_count(now.in_flight),
        unit="in flight",
        note="calls to the API",
        curve=draw_curve(list_values(samples, lambda sample: sample.in_flight)),
    )


def _build_stream_stage(samples: Sequence[Sample], appended_per_s: float) -> FlowStage:
    return FlowStage(
        name="stream",
        title="Stream",
        number=format_rate(appended_per_s),
        unit="/s",
        note=_format_stream_note(samples[-1]),
        curve=draw_curve(list_rates(samples, _appended_count)),
    )


def _format_stream_note(now: Sample) -> str:
    records = f"{format_count(now.records)} kept"
    if not now.reader_groups:
        return f"{records}, no readers"
    return f"{records}, {format_count(now.unread)} unread"


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
