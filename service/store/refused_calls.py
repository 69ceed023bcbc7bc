"""The calls that Redis refuses while its memory or disk is full, and when they are sent again."""

from collections.abc import Callable
from typing import Generic, TypeVar

from service.log import EventLogger

_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_ACCEPTED_AFTER_S = 2.0

Call = TypeVar("Call")


class RefusedCalls(Generic[Call]):
    """The refused calls of one connection. The delay grows while Redis refuses them again.

    The log says once that writes are refused, and once that they are accepted. ``clock`` returns
    monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float], log: EventLogger) -> None:
        self.calls: list[Call] = []
        self._clock = clock
        self._log = log
        self._rounds = 0
        self._refused_since: float | None = None
        self._last_refusal = 0.0
        self._due_at = 0.0

    def record_refusal(self, reason: str) -> None:
        """Record that Redis refused a call."""
        now = self._last_refusal = self._clock()
        if self._refused_since is None:
            self._refused_since = now
            self._log.warning("redis_writes_refused", reason=reason)
        if self._due_at <= now:
            self._schedule()

    def record_acceptance(self) -> None:
        """Record that Redis executed a call that it might have refused: all calls are due.

        Memory that is nearly full changes often. So the end is logged after some time without a
        refusal.
        """
        if self._refused_since is None:
            return
        self._rounds, self._due_at = 0, 0.0
        if not self.calls and self._clock() - self._last_refusal >= _ACCEPTED_AFTER_S:
            outage_s = round(self._last_refusal - self._refused_since, 3)
            self._refused_since = None
            self._log.info("redis_writes_accepted", outage_s=outage_s)

    def wait_s(self) -> float:
        """Return the seconds until the calls are due."""
        return max(0.0, self._due_at - self._clock())

    def take_due(self, limit: int) -> list[Call]:
        """Remove and return up to ``limit`` calls that are due, the oldest first."""
        if not self.calls or self.wait_s() > 0:
            return []
        self._rounds += 1
        self._schedule()
        due, self.calls = self.calls[:limit], self.calls[limit:]
        return due

    def _schedule(self) -> None:
        self._due_at = self._clock() + _DELAYS_S[min(self._rounds, len(_DELAYS_S) - 1)]
