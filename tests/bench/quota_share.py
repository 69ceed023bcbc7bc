"""The share of the quota that was used while there was work, from the windows of the simulator."""

from collections.abc import Sequence

from msgspec import Struct

from service.simulate.quota import Limits
from service.simulate.stats import SimulatorStats, WindowUse


class QuotaShare(Struct, frozen=True, kw_only=True):
    """The calls used and the calls allowed, over the windows in which there was always work."""

    windows: int
    used: int
    allowed: float

    @property
    def percent(self) -> float:
        """The used share of the allowed calls in percent."""
        return 100 * self.used / self.allowed if self.allowed else 0.0


def measure_share(windows: Sequence[WindowUse], limits: Limits) -> QuotaShare:
    """Count the complete windows before the last one, and the unopened windows between them.

    The work ended in the last window. Where windows follow the clock, the work began in the middle
    of the first window. A window allows its limit minus the calls of the competitor. Time between
    two windows without a call allows as much as a window of the same length.
    """
    ordered = sorted(windows, key=lambda window: window.opened_at)
    full_windows = ordered[1 if limits.aligned_to == "clock" else 0 : -1]
    if not full_windows:
        return QuotaShare(windows=0, used=0, allowed=0)
    allowed_per_window = full_windows[0].limit - limits.competing_per_window
    window_spans = (ordered[-1].opened_at - full_windows[0].opened_at) / limits.window_ms
    return QuotaShare(
        windows=len(full_windows),
        used=sum(window.used for window in full_windows),
        allowed=sum(max(allowed_per_window, window.used) for window in full_windows)
        + allowed_per_window * (window_spans - len(full_windows)),
    )


class DrainResult(Struct, frozen=True, kw_only=True):
    """The result of one drained backlog: its share, its refused calls and its duration."""

    share: QuotaShare
    calls: int
    rate_limited: int
    rate_limited_while_closed: int
    drained: bool
    took_s: float

    @property
    def rate_limited_per_thousand(self) -> float:
        """The 429 responses per thousand calls."""
        return 1000 * self.rate_limited / self.calls if self.calls else 0.0


def build_drain_result(
    stats: SimulatorStats, limits: Limits, *, drained: bool, took_s: float
) -> DrainResult:
    """Return the result of one run from the stats of the simulator."""
    return DrainResult(
        share=measure_share(stats.windows, limits),
        calls=sum(stats.statuses.values()),
        rate_limited=stats.rate_limited,
        rate_limited_while_closed=stats.rate_limited_while_closed,
        drained=drained,
        took_s=took_s,
    )
