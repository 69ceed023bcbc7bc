"""Counts of calls, responses, faults and rate-limit windows. Times are epoch milliseconds."""

from collections import Counter

import msgspec

from service.simulate.quota import Family, FamilyUsage, QuotaDecision

_MAX_WINDOWS = 1_000


class WindowUse(msgspec.Struct, frozen=True, kw_only=True):
    """The calls in one window of one family."""

    family: Family
    key: str
    opened_at: int
    used: int
    others: int
    limit: int
    refused: int


class SimulatorStats(msgspec.Struct, frozen=True, kw_only=True):
    """All counts since the last reset."""

    calls: dict[str, int]
    """Calls by route (verb and URL pattern)."""
    statuses: dict[str, int]
    """Responses by status; `cut` counts aborted connections."""
    faults: dict[str, int]
    """Faults by name."""
    rate_limited: int
    """Responses with 429."""
    rate_limited_while_closed: int
    """429 responses to calls that ignored an earlier 429 of the same window."""
    distinct_ids: int
    """Different deployments requested by id."""
    max_concurrent: int
    """Highest number of concurrent calls."""
    reported_twice: int = 0
    """Posted events that report a start or an end for the second time: `reported_events.py`."""
    windows: list[WindowUse]
    """The newest windows, oldest first."""


class CallStats:
    """Counts calls and responses."""

    def __init__(self, *, concurrent: int = 0) -> None:
        self._calls: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._limited_while_closed = 0
        self._requested_ids: set[str] = set()
        self._concurrent = concurrent
        self._max_concurrent = concurrent
        self._windows: dict[tuple[str, int], WindowUse] = {}
        self._first_refusals: dict[str, tuple[int, int]] = {}

    def start_call(self, route: str) -> None:
        """Count the start of a call."""
        self._calls[route] += 1
        self._concurrent += 1
        self._max_concurrent = max(self._max_concurrent, self._concurrent)

    def end_call(self, status: str) -> None:
        """Count the end of a call."""
        self._statuses[status] += 1
        self._concurrent -= 1

    def record_requested_id(self, identifier: str) -> None:
        """Count a deployment that was requested by id."""
        self._requested_ids.add(identifier)

    def record_fault(self, fault: str) -> None:
        """Count a fault."""
        self._faults[fault] += 1

    def record_decision(self, decision: QuotaDecision, now: int, notice_ms: int) -> None:
        """Count a call against its windows.

        A refused call counts as made while closed when the same window first refused a call more
        than `notice_ms` ago. By then every caller must know of the closed window.
        """
        for usage in decision.usages:
            self._record_window(usage, refused=usage in decision.exhausted)
        known_closed = False
        for usage in decision.exhausted:
            opened_at, first_refused_at = self._first_refusals.get(usage.key, (-1, now))
            if opened_at != usage.window.opened_at:
                first_refused_at = now
                self._first_refusals[usage.key] = (usage.window.opened_at, now)
            known_closed = known_closed or now - first_refused_at > notice_ms
        self._limited_while_closed += known_closed

    def reset(self) -> "CallStats":
        """Return new stats with zero counts; calls in progress stay in progress."""
        return CallStats(concurrent=self._concurrent)

    def snapshot(self) -> SimulatorStats:
        """Return the current counts."""
        return SimulatorStats(
            calls=dict(self._calls),
            statuses=dict(self._statuses),
            faults=dict(self._faults),
            rate_limited=self._statuses["429"],
            rate_limited_while_closed=self._limited_while_closed,
            distinct_ids=len(self._requested_ids),
            max_concurrent=self._max_concurrent,
            windows=list(self._windows.values()),
        )

    def _record_window(self, usage: FamilyUsage, *, refused: bool) -> None:
        key = (usage.key, usage.window.opened_at)
        previous = self._windows.get(key)
        if previous is None and len(self._windows) >= _MAX_WINDOWS:
            self._windows.pop(next(iter(self._windows)))
        self._windows[key] = WindowUse(
            family=usage.family,
            key=usage.key,
            opened_at=usage.window.opened_at,
            used=usage.window.used,
            others=usage.window.used_by_others,
            limit=usage.limit,
            refused=refused + (0 if previous is None else previous.refused),
        )
