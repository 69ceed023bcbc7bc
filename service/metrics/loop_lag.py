"""The lag of the event loop: how late it runs a task that is due, because something blocks it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

_INTERVAL_S = 0.05
_WINDOW_S = 60.0


class LoopLag:
    """The largest lag of the last minute, so that no scraper hides it from another.

    A block of the loop shows as a lag that is shorter by 50 ms at most, the time between two
    measurements. ``clock`` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peaks: deque[tuple[float, float]] = deque()  # (time, lag), the largest lag first

    async def watch(self) -> None:
        """Measure the lag of the running loop until cancelled."""
        while True:
            due_s = self._clock() + _INTERVAL_S
            await asyncio.sleep(_INTERVAL_S)
            self.record(self._clock() - due_s)

    def record(self, lag_s: float) -> None:
        """Keep one measurement, and of those before it only the larger ones."""
        self._drop_old()
        while self._peaks and self._peaks[-1][1] <= lag_s:
            self._peaks.pop()
        self._peaks.append((self._clock(), lag_s))

    def largest_s(self) -> float:
        """Return the largest lag of the last minute in seconds; 0 without a measurement."""
        self._drop_old()
        return max(0.0, self._peaks[0][1]) if self._peaks else 0.0

    def _drop_old(self) -> None:
        oldest_s = self._clock() - _WINDOW_S
        while self._peaks and self._peaks[0][0] < oldest_s:
            self._peaks.popleft()
