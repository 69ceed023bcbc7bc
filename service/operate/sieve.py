"""Which of the failed are meant? By reason, source, application and age."""

from msgspec import Struct

from service.backlog.failure import FailedTicket


class FailedFilter(Struct, frozen=True, kw_only=True):
    """What a person asked for; None is anything. Ages are seconds."""

    reason: str | None = None
    source: str | None = None
    application: str | None = None
    older_than: float | None = None
    newer_than: float | None = None

    def time_range_ms(self, now_ms: float) -> tuple[float, float]:
        """Give from and until when it was given up, in ms."""
        oldest_ms = float("-inf") if self.newer_than is None else now_ms - self.newer_than * 1000
        newest_ms = float("inf") if self.older_than is None else now_ms - self.older_than * 1000
        return oldest_ms, newest_ms

    def matches(self, failed: FailedTicket, now_ms: float) -> bool:
        """Tell whether one of the failed is meant."""
        oldest_ms, newest_ms = self.time_range_ms(now_ms)
        return (
            self.reason in {None, failed.reason}
            and self.source in {None, failed.source}
            and self.application in {None, failed.application}
            and oldest_ms <= failed.at_ms <= newest_ms
        )
