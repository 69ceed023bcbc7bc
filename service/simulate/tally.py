"""Who called what, and was it within the quota? Times are epoch milliseconds."""

from collections import Counter

import msgspec

from service.simulate.quota import Count, Decision, Family

_MOST_WINDOWS = 1_000


class WindowUse(msgspec.Struct, frozen=True, kw_only=True):
    """How far one window of one family was used up."""

    family: Family
    key: str
    opened_at: int
    used: int
    others: int
    limit: int
    refused: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was counted since the last reset."""

    calls: dict[str, int]
    """Calls by route (verb and URL pattern)."""
    statuses: dict[str, int]
    """Answers by status; `cut` where the connection was cut instead."""
    faults: dict[str, int]
    """Faults by name."""
    rate_limited: int
    """Answers with 429."""
    rate_limited_while_closed: int
    """Of these, those to calls made though an earlier 429 had told that the window was closed."""
    distinct_ids: int
    """Different deployments asked for by id."""
    max_concurrent: int
    """Most calls in work at one time."""
    windows: list[WindowUse]
    """The newest windows, oldest first."""


class Tally:
    """Counts calls and answers."""

    def __init__(self, *, concurrent: int = 0) -> None:
        self._calls: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._while_closed = 0
        self._ids: set[str] = set()
        self._concurrent = concurrent
        self._max_concurrent = concurrent
        self._windows: dict[tuple[str, int], WindowUse] = {}
        self._refused_at: dict[str, tuple[int, int]] = {}

    def begin(self, route: str) -> None:
        """Count a call that comes in."""
        self._calls[route] += 1
        self._concurrent += 1
        self._max_concurrent = max(self._max_concurrent, self._concurrent)

    def finish(self, status: str) -> None:
        """Count a call that is answered."""
        self._statuses[status] += 1
        self._concurrent -= 1

    def ask(self, identifier: str) -> None:
        """Count a deployment asked for by id."""
        self._ids.add(identifier)

    def strike(self, fault: str) -> None:
        """Count a fault."""
        self._faults[fault] += 1

    def weigh(self, decision: Decision, now: int, notice_ms: int) -> None:
        """Count a call against its windows.

        A refusal counts as made while closed when the same window refused another call more than
        `notice_ms` ago: since then the caller must have known.
        """
        for count in decision.counts:
            self._note(count, refused=count in decision.refusing)
        known = False
        for count in decision.refusing:
            opened_at, first_at = self._refused_at.get(count.key, (-1, now))
            if opened_at != count.window.opened_at:
                first_at = now
                self._refused_at[count.key] = (count.window.opened_at, now)
            known = known or now - first_at > notice_ms
        self._while_closed += known

    def start_anew(self) -> "Tally":
        """Give a tally without counts; calls in work stay in work."""
        return Tally(concurrent=self._concurrent)

    def read(self) -> Stats:
        """Give the counts as they stand."""
        return Stats(
            calls=dict(self._calls),
            statuses=dict(self._statuses),
            faults=dict(self._faults),
            rate_limited=self._statuses["429"],
            rate_limited_while_closed=self._while_closed,
            distinct_ids=len(self._ids),
            max_concurrent=self._max_concurrent,
            windows=list(self._windows.values()),
        )

    def _note(self, count: Count, *, refused: bool) -> None:
        key = (count.key, count.window.opened_at)
        before = self._windows.get(key)
        if before is None and len(self._windows) >= _MOST_WINDOWS:
            self._windows.pop(next(iter(self._windows)))
        self._windows[key] = WindowUse(
            family=count.family,
            key=count.key,
            opened_at=count.window.opened_at,
            used=count.window.used,
            others=count.window.others,
            limit=count.limit,
            refused=refused + (0 if before is None else before.refused),
        )
