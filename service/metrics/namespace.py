"""How does the whole namespace stand? Asked at every scrape, the same whoever is asked."""

from collections.abc import Callable, Iterator, Mapping
from typing import cast, get_args

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from service.enrich.budget import load_budget_prelude
from service.metrics.counters import (
    FAILURE_REASONS,
    ClosedReason,
    closed_reason_label,
    failure_label,
)
from service.store import RedisUnavailable
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

_READ_TIMEOUT_S = 2.0
_NUMBER_COUNT = 14  # numbers before the pairs of reasons


class NamespaceStats(Struct, frozen=True, kw_only=True):
    """The measures of one moment. ``calls_left`` is by route, ``failed`` by reason."""

    backlog: int
    due: int
    leased: int
    overdue_s: float
    oldest_age_s: float
    records: int
    reader_groups: int
    lag_records: int
    lag_s: float
    closed_s: float
    closed_reason: str
    in_flight: int
    calls_left: dict[str, int]
    failed: dict[str, int]


class NamespaceReader:
    """Measures one namespace. ``share`` is the part of each LaunchDarkly limit that is ours."""

    def __init__(self, group_commit: GroupCommit, *, keys: Keys, share: float) -> None:
        self._group_commit = group_commit
        self._keys = (
            *(keys.backlog, keys.tickets, keys.counts, keys.enriched, keys.milestones),
            *(keys.budget, keys.budget_calls, keys.budget_waiting, keys.write_probe),
        )
        self._share = share
        self._script: Script = load_script(__package__, "namespace", prelude=load_budget_prelude())

    async def read_stats(self) -> NamespaceStats | None:
        """Measure; None when Redis cannot be written in time."""
        try:
            reply = await self._group_commit.submit(
                self._script, keys=self._keys, args=(self._share,), timeout_s=_READ_TIMEOUT_S
            )
        except RedisUnavailable:
            return None
        return _parse_stats(cast("list[int | bytes]", reply))


def _parse_stats(reply: list[int | bytes]) -> NamespaceStats:
    closed_reason = cast("bytes", reply[10]).decode("utf-8", "replace")
    numbers = [0 if isinstance(value, bytes) else value for value in reply[:_NUMBER_COUNT]]
    failed = dict.fromkeys(FAILURE_REASONS, 0)
    for reason, count in zip(reply[_NUMBER_COUNT::2], reply[_NUMBER_COUNT + 1 :: 2], strict=True):
        label = failure_label(cast("bytes", reason).decode("utf-8", "replace"))
        failed[label] += cast("int", count)
    (
        backlog,
        due,
        leased,
        overdue_ms,
        oldest_age_ms,
        records,
        reader_groups,
        lag_records,
        lag_ms,
        closed_ms,
    ) = numbers[:10]
    return NamespaceStats(
        backlog=backlog,
        due=due,
        leased=leased,
        overdue_s=overdue_ms / 1000,
        oldest_age_s=oldest_age_ms / 1000,
        records=records,
        reader_groups=reader_groups,
        lag_records=lag_records,
        lag_s=lag_ms / 1000,
        closed_s=closed_ms / 1000,
        closed_reason=closed_reason,
        in_flight=numbers[11],
        calls_left={"get": numbers[12], "list": numbers[13]},
        failed=failed,
    )


class _NamespaceGauge(Struct, frozen=True):
    """One metric of the namespace: one number, or one for each value of a label."""

    name: str
    description: str
    value_of: Callable[[NamespaceStats], float | Mapping[str, float]]
    label: str = ""


def _closed_seconds_by_reason(stats: NamespaceStats) -> dict[str, float]:
    seconds_by_reason: dict[str, float] = dict.fromkeys(get_args(ClosedReason), 0.0)
    return seconds_by_reason | {closed_reason_label(stats.closed_reason): stats.closed_s}


_GAUGES = (
    _NamespaceGauge(
        "backlog_tickets", "Tickets that wait or are worked on", lambda told: told.backlog
    ),
    _NamespaceGauge(
        "backlog_due_tickets", "Tickets that a worker may take now", lambda told: told.due
    ),
    _NamespaceGauge(
        "backlog_leased_tickets", "Tickets handed out to workers", lambda told: told.leased
    ),
    _NamespaceGauge(
        "backlog_overdue_seconds",
        "How long ago the ticket next in line was due",
        lambda told: told.overdue_s,
    ),
    _NamespaceGauge(
        "backlog_oldest_seconds",
        "Since the oldest webhook among the 64 tickets next in line",
        lambda told: told.oldest_age_s,
    ),
    _NamespaceGauge("failed_tickets", "Given up, for a person", lambda told: told.failed, "reason"),
    _NamespaceGauge(
        "budget_calls_left", "Calls that may be made now", lambda told: told.calls_left, "route"
    ),
    _NamespaceGauge("budget_calls_in_flight", "Calls on their way", lambda told: told.in_flight),
    _NamespaceGauge(
        "budget_closed_seconds",
        "For how long nobody may call yet",
        _closed_seconds_by_reason,
        "reason",
    ),
    _NamespaceGauge(
        "token_refused",
        "1 when LaunchDarkly refused the access token last",
        lambda told: closed_reason_label(told.closed_reason) == "token_refused",
    ),
    _NamespaceGauge("stream_records", "Records in the output stream", lambda told: told.records),
    _NamespaceGauge(
        "reader_groups", "Consumer groups of the output stream", lambda told: told.reader_groups
    ),
    _NamespaceGauge(
        "reader_lag_records",
        "Records that the slowest group was not given yet, by our own count",
        lambda told: told.lag_records,
    ),
    _NamespaceGauge(
        "reader_lag_seconds",
        "Age of the oldest record that a group was not given or has not acknowledged",
        lambda told: told.lag_s,
    ),
)


def collect_gauges(stats: NamespaceStats | None) -> Iterator[Metric]:
    """Write what was measured as metrics; what is not known is left out, and not made up."""
    description = "1 when Redis takes writes"
    yield GaugeMetricFamily("enricher_redis_up", description, value=float(stats is not None))
    if stats is None:
        return
    for gauge in _GAUGES:
        value = gauge.value_of(stats)
        values = value if isinstance(value, Mapping) else {"": value}
        labels = [gauge.label] if gauge.label else None
        family = GaugeMetricFamily(f"enricher_{gauge.name}", gauge.description, labels=labels)
        for label_value, number in values.items():
            family.add_metric([label_value] if gauge.label else [], float(number))
        yield family
