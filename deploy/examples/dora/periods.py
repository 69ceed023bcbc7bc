"""The periods that a reader of the page can choose, and their parts; pure. Times are epoch ms."""

from collections.abc import Sequence

from msgspec import Struct

from .deployments import Deployment

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


class Period(Struct, frozen=True, kw_only=True):
    """A period that ends now, and its parts; the frequency is given per ``unit``."""

    key: str
    label: str
    length_ms: int
    part_ms: int
    unit: str
    unit_ms: int

    def starts_at(self, now_ms: int) -> int:
        """Return when the period begins: its parts begin at multiples of their length, in UTC."""
        return self.ends_at(now_ms) - self.length_ms

    def ends_at(self, now_ms: int) -> int:
        """Return when the part ends in which it is now."""
        return (now_ms // self.part_ms + 1) * self.part_ms

    def rate(self, count: int) -> float:
        """Return a number of deployments in the period as a frequency, per ``unit``."""
        return count * self.unit_ms / self.length_ms


class Part(Struct, frozen=True):
    """A part of a period, and the deployments that ended in it."""

    starts_at: int
    deployments: Sequence[Deployment]


_PERIODS = (
    Period(
        key="15m",
        label="15 minutes",
        length_ms=15 * MINUTE_MS,
        part_ms=MINUTE_MS,
        unit="minute",
        unit_ms=MINUTE_MS,
    ),
    Period(
        key="24h",
        label="24 hours",
        length_ms=DAY_MS,
        part_ms=HOUR_MS,
        unit="hour",
        unit_ms=HOUR_MS,
    ),
    Period(
        key="7d", label="7 days", length_ms=7 * DAY_MS, part_ms=DAY_MS, unit="day", unit_ms=DAY_MS
    ),
    Period(
        key="30d",
        label="30 days",
        length_ms=30 * DAY_MS,
        part_ms=DAY_MS,
        unit="day",
        unit_ms=DAY_MS,
    ),
    Period(
        key="13w",
        label="13 weeks",
        length_ms=91 * DAY_MS,
        part_ms=7 * DAY_MS,
        unit="week",
        unit_ms=7 * DAY_MS,
    ),
)
PERIODS = {period.key: period for period in _PERIODS}
LONGEST_MS = max(period.length_ms for period in _PERIODS)


def split_into_parts(
    deployments: Sequence[Deployment], period: Period, now_ms: int
) -> Sequence[Part]:
    """Return the parts of a period, with the deployments that ended in each."""
    start = period.starts_at(now_ms)
    listed: list[list[Deployment]] = [[] for _ in range(period.length_ms // period.part_ms)]
    for deployment in deployments:
        index = (deployment.ended_at - start) // period.part_ms
        if 0 <= index < len(listed):
            listed[index].append(deployment)
    return [Part(start + index * period.part_ms, part) for index, part in enumerate(listed)]
