"""Measurements of a whole namespace, and the gauges made of them; the same from every replica."""

from collections.abc import Callable, Iterator, Mapping
from typing import cast, get_args

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from service.backlog.lines import load_lines_lua
from service.enrich.budget import load_budget_prelude
from service.metrics.counters import (
    FAILURE_REASONS,
    ClosedReason,
    closed_reason_label,
    failure_label,
)
from service.store.exchange import decode_text
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

_READ_TIMEOUT_S = 2.0
_MIN_SILENCE_S = 10.0  # an idle worker claims every 4 s; Redis may be away for some seconds
_NUMBER_COUNT = 20  # the script returns these, a list of names, then pairs of reason and count
_PAIRS_INDEX = _NUMBER_COUNT + 1
_CLOSED_REASON_INDEX = 10


class NamespaceStats(Struct, frozen=True, kw_only=True):
    """The state of one namespace at one moment.

    ``overdue_s`` is for how long the ticket that has waited longest has been due. ``oldest_age_s``
    is the age of the oldest webhook among the first tickets of the lines and the next 64 of the
    others. Both read up to 64 lines. ``leased`` counts all leases, also those of dead workers;
    ``running_leases`` counts those that have not ended, among the 64 tickets due next.
    ``lag_records`` and ``lag_s`` belong to the slowest reader group.

    ``closed_s`` is for how long LaunchDarkly allows no call, and ``closed_reason`` is why.
    ``calls_left`` is by route. ``next_call_in_s`` is 0 while a list call may be made. ``failed`` is
    by reason. ``forbidden_total`` counts the projects and environments that the access token may
    not read, and ``forbidden`` names the last ten. ``clock_behind_s`` is by how much Redis's clock
    is behind the latest time that a script stored. ``claimed_s`` is how long ago a worker last
    claimed, which each live one does every few seconds unless it holds leases; None if none did
    within a day.
    """

    backlog: int
    due: int
    leased: int
    running_leases: int
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
    next_call_in_s: float
    failed_total: int
    failed: dict[str, int]
    forbidden_total: int = 0
    forbidden: tuple[str, ...] = ()
    clock_behind_s: float = 0.0
    claimed_s: float | None = None

    def find_stall_s(self, lease_s: float) -> float | None:
        """Return for how long no worker was alive while tickets wait; None if one may be.

        A worker that was silent for ``lease_s``, and at least 10 s, has ended.
        """
        silent_s = self.overdue_s if self.claimed_s is None else self.claimed_s
        is_stalled = self.backlog > 0 and not self.running_leases
        return silent_s if is_stalled and silent_s > max(lease_s, _MIN_SILENCE_S) else None


class NamespaceReader:
    """Reads the state of one namespace; one script call, which proves that Redis takes writes.

    ``share`` is the part of each LaunchDarkly limit that this service may use.
    """

    def __init__(self, group_commit: GroupCommit, *, keys: Keys, share: float) -> None:
        self._group_commit = group_commit
        self._keys = (
            *(keys.backlog, keys.tickets, keys.counts, keys.enriched, keys.milestones),
            *(keys.budget, keys.budget_calls, keys.budget_waiting, keys.write_probe, keys.failed),
            *(keys.forbidden, keys.turns),
        )
        self._share = share
        prelude = load_budget_prelude() + load_lines_lua()
        self._script: Script = load_script(__package__, "namespace", prelude=prelude)

    async def read_stats(self) -> NamespaceStats:
        """Return the state of the namespace.

        Raises RedisUnavailable when Redis does not take the write within 2 seconds.
        """
        reply = await self._group_commit.submit(
            self._script, keys=self._keys, args=(self._share,), timeout_s=_READ_TIMEOUT_S
        )
        return _parse_stats(cast("list[object]", reply))


def _parse_stats(reply: list[object]) -> NamespaceStats:
    failed = dict.fromkeys(FAILURE_REASONS, 0)
    for reason, count in zip(reply[_PAIRS_INDEX::2], reply[_PAIRS_INDEX + 1 :: 2], strict=True):
        failed[failure_label(decode_text(reason))] += cast("int", count)
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
        in_flight,
        get_calls_left,
        list_calls_left,
        failed_total,
        running_leases,
        next_call_in_ms,
        forbidden_total,
        clock_behind_ms,
        claimed_ms,
    ) = [value for value in reply[:_NUMBER_COUNT] if isinstance(value, int)]
    return NamespaceStats(
        backlog=backlog,
        due=due,
        leased=leased,
        running_leases=running_leases,
        overdue_s=overdue_ms / 1000,
        oldest_age_s=oldest_age_ms / 1000,
        records=records,
        reader_groups=reader_groups,
        lag_records=lag_records,
        lag_s=lag_ms / 1000,
        closed_s=closed_ms / 1000,
        closed_reason=decode_text(reply[_CLOSED_REASON_INDEX]),
        in_flight=in_flight,
        calls_left={"get": get_calls_left, "list": list_calls_left},
        next_call_in_s=next_call_in_ms / 1000,
        failed_total=failed_total,
        failed=failed,
        forbidden_total=forbidden_total,
        clock_behind_s=clock_behind_ms / 1000,
        claimed_s=None if claimed_ms < 0 else claimed_ms / 1000,
        forbidden=tuple(map(decode_text, cast("list[bytes]", reply[_NUMBER_COUNT]))),
    )


class _NamespaceGauge(Struct, frozen=True):
    """One gauge of the namespace: one number, or one number for each value of its label."""

    name: str
    description: str
    value_of: Callable[[NamespaceStats], float | Mapping[str, float]]
    label: str = ""


def _closed_seconds_by_reason(stats: NamespaceStats) -> dict[str, float]:
    seconds_by_reason: dict[str, float] = dict.fromkeys(get_args(ClosedReason), 0.0)
    return seconds_by_reason | {closed_reason_label(stats.closed_reason): stats.closed_s}


_GAUGES = (
    _NamespaceGauge(
        "backlog_tickets", "Tickets that wait or are leased", lambda stats: stats.backlog
    ),
    _NamespaceGauge(
        "backlog_due_tickets", "Tickets that a worker may claim now", lambda stats: stats.due
    ),
    _NamespaceGauge(
        "backlog_leased_tickets", "Tickets leased to workers", lambda stats: stats.leased
    ),
    _NamespaceGauge(
        "backlog_overdue_seconds",
        "For how long the ticket that has waited longest has been due",
        lambda stats: stats.overdue_s,
    ),
    _NamespaceGauge(
        "backlog_oldest_seconds",
        "Age of the oldest webhook among the tickets that are next",
        lambda stats: stats.oldest_age_s,
    ),
    _NamespaceGauge(
        "failed_tickets",
        "Tickets given up, kept for a person",
        lambda stats: stats.failed,
        "reason",
    ),
    _NamespaceGauge(
        "budget_calls_left", "Calls that may be made now", lambda stats: stats.calls_left, "route"
    ),
    _NamespaceGauge("budget_calls_in_flight", "Calls in flight", lambda stats: stats.in_flight),
    _NamespaceGauge(
        "budget_closed_seconds",
        "For how long no call is allowed",
        _closed_seconds_by_reason,
        "reason",
    ),
    _NamespaceGauge(
        "token_refused",
        "1 when LaunchDarkly refused the access token last time",
        lambda stats: closed_reason_label(stats.closed_reason) == "token_refused",
    ),
    _NamespaceGauge(
        "forbidden_projects",
        "Projects and environments that the access token may not read",
        lambda stats: stats.forbidden_total,
    ),
    _NamespaceGauge(
        "redis_clock_behind_seconds",
        "By how much Redis's clock was set back",
        lambda stats: stats.clock_behind_s,
    ),
    _NamespaceGauge("stream_records", "Records in the output stream", lambda stats: stats.records),
    _NamespaceGauge(
        "reader_groups", "Reader groups of the output stream", lambda stats: stats.reader_groups
    ),
    _NamespaceGauge(
        "reader_lag_records",
        "Records not yet delivered to the slowest reader group",
        lambda stats: stats.lag_records,
    ),
    _NamespaceGauge(
        "reader_lag_seconds",
        "Age of the oldest record that a reader group has not acknowledged",
        lambda stats: stats.lag_s,
    ),
)


def format_forbidden(stats: NamespaceStats) -> str:
    """Return the names of the forbidden projects and environments; empty if there are none."""
    unnamed = stats.forbidden_total - len(stats.forbidden)
    return ", ".join(stats.forbidden) + (f" and {unnamed} more" if unnamed > 0 else "")


def collect_gauges(stats: NamespaceStats | None) -> Iterator[Metric]:
    """Yield the gauges; None, when Redis is away, yields ``redis_up 0`` and nothing else."""
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
