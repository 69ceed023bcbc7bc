"""Repeated trouble: which occurrences of a warning are logged, and how many each line stands for.

Pure: times (s) are arguments, of any clock that never goes back.
"""

from collections.abc import Iterator

TroubleKey = tuple[str, str]
"""What is the same trouble: the log event, and its reason."""

FIRST_INTERVAL_S = 1.0
MAX_INTERVAL_S = 60.0
_MAX_REASONS = 16
_ANY_REASON = "any"


class _Trouble:
    """The occurrences of one trouble since its last line; ``due_s``: when the next may follow."""

    __slots__ = ("due_s", "interval_s", "last_s", "waiting")

    def __init__(self, now_s: float) -> None:
        self.interval_s = FIRST_INTERVAL_S
        self.due_s = now_s + FIRST_INTERVAL_S
        self.last_s = now_s
        self.waiting = 0

    def has_ended(self, now_s: float) -> bool:
        """Return whether the next occurrence starts over."""
        return now_s >= self.due_s and now_s - self.last_s > MAX_INTERVAL_S

    def report(self, now_s: float) -> int:
        """Return how many occurrences a line written now stands for; lengthen the interval."""
        count, self.waiting = self.waiting, 0
        self.interval_s = min(self.interval_s * 2, MAX_INTERVAL_S)
        self.due_s = now_s + self.interval_s
        return count


class RepeatLimiter:
    """Allows a line at once, then after 1 s, 2 s, 4 s … 60 s while the same trouble goes on.

    Trouble that did not occur for a minute starts over. An event has at most 16 reasons of its
    own, and all others count as one.
    """

    def __init__(self) -> None:
        self._troubles: dict[TroubleKey, _Trouble] = {}

    def normalize(self, key: TroubleKey) -> TroubleKey:
        """Return the key, without its reason if its event has too many."""
        if key in self._troubles:
            return key
        event, _ = key
        reasons = sum(known_event == event for known_event, _ in self._troubles)
        return key if reasons < _MAX_REASONS else (event, _ANY_REASON)

    def add(self, key: TroubleKey, now_s: float) -> int:
        """Record an occurrence under a normalized key.

        Returns how many occurrences its line stands for; 0: it waits until :meth:`next_due_s`.
        """
        trouble = self._troubles.get(key)
        if trouble is not None and not trouble.has_ended(now_s):
            trouble.last_s = now_s
            trouble.waiting += 1
            return trouble.report(now_s) if now_s >= trouble.due_s else 0
        waiting = 0 if trouble is None else trouble.waiting
        self._forget_ended(now_s)
        self._troubles[key] = _Trouble(now_s)
        return waiting + 1

    def next_due_s(self) -> float | None:
        """Return when the next waiting occurrences are due, None if none wait."""
        due_times = [trouble.due_s for trouble in self._troubles.values() if trouble.waiting]
        return min(due_times, default=None)

    def pop_due(self, now_s: float) -> Iterator[tuple[TroubleKey, int]]:
        """Yield the troubles whose waiting occurrences are due, each with their number."""
        for key, trouble in self._troubles.items():
            if trouble.waiting and now_s >= trouble.due_s:
                yield key, trouble.report(now_s)

    def _forget_ended(self, now_s: float) -> None:
        self._troubles = {
            key: trouble
            for key, trouble in self._troubles.items()
            if trouble.waiting or not trouble.has_ended(now_s)
        }
