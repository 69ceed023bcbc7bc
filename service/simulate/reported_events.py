"""The events that were posted, and how many of them report again what was reported before."""

from collections import Counter

import msgspec


class ReportedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two posted events the same one: deployment, start or end, and time (epoch ms)."""

    project: str
    environment: str
    application: str
    version: str
    is_end: bool
    time: int


class ReportedEvents:
    """Counts the events that stand for a start or an end that was reported before.

    One deployment starts once and ends once, at one time. So a second event of the same time is
    reported twice, whether it says finished or failed. An event without a time is never counted.
    """

    def __init__(self) -> None:
        self._counts: Counter[ReportedEvent] = Counter()
        self.reported_twice = 0

    def record(self, event: ReportedEvent) -> None:
        """Record one accepted event with a time."""
        self.reported_twice += self._counts[event] > 0
        self._counts[event] += 1
