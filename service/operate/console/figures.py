"""What numbers make the picture? Measures and the time in; rates, curves and gauges out."""

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

SPAN_S = 180.0
_RATE_MS, _RATE_SAMPLES = 10_000, 12
_MOST_SAMPLES = 400
_WINDOW = re.compile(r"(\d{1,15}) (-?\d{1,15}) (\d{1,15}) (\w+)")
_FAMILIES = ("global", "token", "route:list", "route:get")
_FAMILY = re.compile(r"[a-z]+(?::[a-z]+)?")


class Measures(Struct, frozen=True, kw_only=True):
    """How things stood at one moment (Redis ms).

    ``received`` counts this door's webhooks, ``appended`` all records ever.
    """

    at_ms: int
    waiting: int
    due: int
    in_hand: int
    oldest_s: float
    failed: int
    records: int
    groups: int
    unread: int
    appended: int
    received: int
    in_flight: int
    room: int
    closed_s: float
    why: str


class Window(Struct, frozen=True, kw_only=True):
    """One rate-limit window as LaunchDarkly told it last."""

    family: str
    limit: int
    left: int
    ends_s: float

    @property
    def is_open(self) -> bool:
        """Tell whether it still lasts: what is past says little."""
        return self.ends_s > 0

    @property
    def part_left(self) -> float:
        """Give what is left as a part of the limit."""
        return min(1.0, max(0.0, self.left / self.limit)) if self.limit else 0.0


class Curve(Struct, frozen=True):
    """A curve as two SVG paths: its line, and the area below it."""

    line: str = ""
    area: str = ""


class History:
    """The measures of the last minutes."""

    def __init__(self) -> None:
        self._samples: deque[Measures] = deque(maxlen=_MOST_SAMPLES)

    def add(self, measures: Measures) -> None:
        """Add what was measured last, and forget what is too long ago."""
        if self._samples and measures.at_ms <= self._samples[-1].at_ms:
            self._samples.clear()  # another server, or a clock set back
        self._samples.append(measures)
        while measures.at_ms - self._samples[0].at_ms > SPAN_S * 1000:
            self._samples.popleft()

    def list_samples(self) -> Sequence[Measures]:
        """List them, the oldest first."""
        return tuple(self._samples)


def find_rate(samples: Sequence[Measures], read: Callable[[Measures], int]) -> float:
    """Give how fast a count grew in the last seconds, in 1/s."""
    if not samples:
        return 0.0
    last = samples[-1]
    recent = [each for each in samples[-_RATE_SAMPLES:] if last.at_ms - each.at_ms <= _RATE_MS]
    span_s = (last.at_ms - recent[0].at_ms) / 1000
    grown = read(last) - read(recent[0])
    return max(0.0, grown / span_s) if span_s else 0.0


def list_paces(
    samples: Sequence[Measures], read: Callable[[Measures], int]
) -> list[tuple[float, float]]:
    """Give (seconds before now, growth in 1/s): of each sample since some before it."""
    return [
        (ago_s, find_rate(samples[max(0, end - _RATE_SAMPLES) : end], read))
        for end, (ago_s, _) in enumerate(list_levels(samples, read), start=1)
    ]


def list_levels(
    samples: Sequence[Measures], read: Callable[[Measures], int]
) -> list[tuple[float, float]]:
    """Give (seconds before now, value) of each sample."""
    return [((samples[-1].at_ms - each.at_ms) / 1000, float(read(each))) for each in samples]


def draw_curve(points: Iterable[tuple[float, float]], *, width: float, height: float) -> Curve:
    """Draw a curve of the last minutes."""
    drawn = list(points)
    if not drawn:
        return Curve()
    top = max(1.0, *(value for _, value in drawn))
    places = [
        (width * (1 - min(1.0, ago / SPAN_S)), height * (1 - max(0.0, value) / top))
        for ago, value in drawn
    ]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    area = f"{line}L{places[-1][0]:.1f} {height:.1f}L{places[0][0]:.1f} {height:.1f}Z"
    return Curve(line, area)


def draw_arc(part: float, *, radius: float) -> str:
    """Draw a part (0 to 1) of a half circle from the left, around 0 0, as an SVG path."""
    angle = math.pi * (1 - min(1.0, max(0.0, part)))
    x, y = radius * math.cos(angle), -radius * math.sin(angle)
    return f"M{-radius:.1f} 0A{radius:.1f} {radius:.1f} 0 0 1 {x:.2f} {y:.2f}"


def read_windows(budget: Mapping[str, str], *, now_ms: int) -> list[Window]:
    """Read the windows of the budget, the best known first; what cannot be read is left out."""
    skew = _read_number(budget.get("skew", "0"))
    windows = []
    for family in sorted(budget, key=_rank):
        told = _WINDOW.match(budget[family])
        if told is None or not _FAMILY.fullmatch(family):
            continue
        limit, left, reset = (int(told[nth]) for nth in (1, 2, 3))
        ends_s = (reset - skew - now_ms) / 1000
        windows.append(Window(family=family, limit=limit, left=left, ends_s=ends_s))
    return windows


def find_tightest(windows: Sequence[Window]) -> Window | None:
    """Give the window that binds: of those that last the one with least left, else the first."""
    lasting = [window for window in windows if window.is_open]
    if lasting:
        return min(lasting, key=lambda window: window.left)
    return windows[0] if windows else None


def _rank(family: str) -> int:
    return _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)


def _read_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
