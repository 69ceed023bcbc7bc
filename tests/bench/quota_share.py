"""How much of the quota was used while there was work? Counted from the upstream's own windows."""

from collections.abc import Sequence

from msgspec import Struct

from service.simulate.quota import Limits
from service.simulate.stats import SimulatorStats, WindowUse


class QuotaShare(Struct, frozen=True, kw_only=True):
    """Calls used of those allowed, over the windows that lie wholly in the busy time."""

    windows: int
    used: int
    allowed: float

    @property
    def percent(self) -> float:
        """How much of what was allowed was used."""
        return 100 * self.used / self.allowed if self.allowed else 0.0


def measure_share(windows: Sequence[WindowUse], limits: Limits) -> QuotaShare:
    """Count the windows before the last one, and those that nobody opened.

    The last window is the one in which the work ended. Where windows follow the clock, the work
    began in the midst of the first. A window allows its limit without what the competitor would
    have taken of it by its end; time between two windows, in which nobody called, allows as much
    as a window of the same length.
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
    """One drain of one backlog: what it used, what was refused, how long it took (s)."""

    share: QuotaShare
    calls: int
    rate_limited: int
    rate_limited_while_closed: int
    drained: bool
    took_s: float

    @property
    def rate_limited_per_thousand(self) -> float:
        """Answers of 429 among a thousand calls."""
        return 1000 * self.rate_limited / self.calls if self.calls else 0.0


def build_drain_result(
    stats: SimulatorStats, limits: Limits, *, drained: bool, took_s: float
) -> DrainResult:
    """Read one run from what the upstream counted."""
    return DrainResult(
        share=measure_share(stats.windows, limits),
        calls=sum(stats.statuses.values()),
        rate_limited=stats.rate_limited,
        rate_limited_while_closed=stats.rate_limited_while_closed,
        drained=drained,
        took_s=took_s,
    )
