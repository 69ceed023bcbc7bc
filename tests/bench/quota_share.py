"""How much of the quota was used while there was work? Counted from the upstream's own windows."""

from collections.abc import Sequence

from msgspec import Struct

from service.simulate.quota import Limits
from service.simulate.tally import Stats, WindowUse


class Share(Struct, frozen=True, kw_only=True):
    """Calls used of those allowed, over the windows that lie wholly in the busy time."""

    windows: int
    used: int
    allowed: float

    @property
    def percent(self) -> float:
        """How much of what was allowed was used."""
        return 100 * self.used / self.allowed if self.allowed else 0.0


def measure_share(windows: Sequence[WindowUse], limits: Limits) -> Share:
    """Count the windows before the last one, and those that nobody opened.

    The last window is the one in which the work ended. Where windows follow the clock, the work
    began in the midst of the first. A window allows its limit without what the competitor would
    have taken of it by its end; time between two windows, in which nobody called, allows as much
    as a window of the same length.
    """
    seen = sorted(windows, key=lambda window: window.opened_at)
    whole = seen[1 if limits.aligned_to == "clock" else 0 : -1]
    if not whole:
        return Share(windows=0, used=0, allowed=0)
    ours = whole[0].limit - limits.competing_per_window
    took = (seen[-1].opened_at - whole[0].opened_at) / limits.window_ms
    return Share(
        windows=len(whole),
        used=sum(window.used for window in whole),
        allowed=sum(max(ours, window.used) for window in whole) + ours * (took - len(whole)),
    )


class Run(Struct, frozen=True, kw_only=True):
    """One drain of one backlog: what it used, what was refused, how long it took (s)."""

    share: Share
    calls: int
    refused: int
    breaches: int
    drained: bool
    took_s: float

    @property
    def refused_per_thousand(self) -> float:
        """Answers of 429 among a thousand calls."""
        return 1000 * self.refused / self.calls if self.calls else 0.0


def sum_up(stats: Stats, limits: Limits, *, drained: bool, took_s: float) -> Run:
    """Read one run from what the upstream counted."""
    return Run(
        share=measure_share(stats.windows, limits),
        calls=sum(stats.statuses.values()),
        refused=stats.rate_limited,
        breaches=stats.rate_limited_while_closed,
        drained=drained,
        took_s=took_s,
    )
