"""How does the whole namespace stand? Asked at every scrape, the same whoever is asked."""

from collections.abc import Callable, Iterator, Mapping
from typing import cast, get_args

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from service.enrich.budget import load_room
from service.operate.labels import FAILED, Closing, name_closing, name_failure
from service.store import Unavailable
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

_PATIENCE_S = 2.0
_FIXED = 14  # numbers before the pairs of reasons


class Survey(Struct, frozen=True, kw_only=True):
    """The measures of one moment. ``calls_left`` is by route, ``failed`` by reason."""

    waiting: int
    due: int
    leased: int
    overdue_s: float
    oldest_s: float
    records: int
    groups: int
    unread: int
    unread_s: float
    closed_s: float
    why: str
    in_flight: int
    calls_left: dict[str, int]
    failed: dict[str, int]


class Surveyor:
    """Measures one namespace. ``share`` is the part of each LaunchDarkly limit that is ours."""

    def __init__(self, group: GroupCommit, *, keys: Keys, share: float) -> None:
        self._group = group
        self._keys = (
            *(keys.backlog, keys.tickets, keys.counts, keys.enriched, keys.milestones),
            *(keys.budget, keys.calls, keys.callers, keys.probe),
        )
        self._share = share
        self._survey: Script = load_script(__package__, "survey", prelude=load_room())

    async def survey(self) -> Survey | None:
        """Measure; None when Redis cannot be written in time."""
        try:
            reply = await self._group.submit(
                self._survey, keys=self._keys, args=(self._share,), patience_s=_PATIENCE_S
            )
        except Unavailable:
            return None
        return _read(cast("list[int | bytes]", reply))


def _read(reply: list[int | bytes]) -> Survey:
    why = cast("bytes", reply[10]).decode("utf-8", "replace")
    numbers = [0 if isinstance(part, bytes) else part for part in reply[:_FIXED]]
    failed = dict.fromkeys(FAILED, 0)
    for reason, count in zip(reply[_FIXED::2], reply[_FIXED + 1 :: 2], strict=True):
        known = name_failure(cast("bytes", reason).decode("utf-8", "replace"))
        failed[known] += cast("int", count)
    waiting, due, leased, overdue, oldest, records, groups, unread, since, closed = numbers[:10]
    return Survey(
        waiting=waiting,
        due=due,
        leased=leased,
        overdue_s=overdue / 1000,
        oldest_s=oldest / 1000,
        records=records,
        groups=groups,
        unread=unread,
        unread_s=since / 1000,
        closed_s=closed / 1000,
        why=why,
        in_flight=numbers[11],
        calls_left={"get": numbers[12], "list": numbers[13]},
        failed=failed,
    )


class _Gauge(Struct, frozen=True):
    """One metric of the namespace: one number, or one for each value of a label."""

    name: str
    meaning: str
    read: Callable[[Survey], float | Mapping[str, float]]
    label: str = ""


def _read_closing(survey: Survey) -> dict[str, float]:
    closed: dict[str, float] = dict.fromkeys(get_args(Closing), 0.0)
    return closed | {name_closing(survey.why): survey.closed_s}


_GAUGES = (
    _Gauge("backlog_tickets", "Tickets that wait or are worked on", lambda told: told.waiting),
    _Gauge("backlog_due_tickets", "Tickets that a worker may take now", lambda told: told.due),
    _Gauge("backlog_leased_tickets", "Tickets handed out to workers", lambda told: told.leased),
    _Gauge(
        "backlog_overdue_seconds",
        "How long ago the ticket next in line was due",
        lambda told: told.overdue_s,
    ),
    _Gauge(
        "backlog_oldest_seconds",
        "Since the oldest webhook among the 64 tickets next in line",
        lambda told: told.oldest_s,
    ),
    _Gauge("failed_tickets", "Given up, for a person", lambda told: told.failed, "reason"),
    _Gauge(
        "budget_calls_left", "Calls that may be made now", lambda told: told.calls_left, "route"
    ),
    _Gauge("budget_calls_in_flight", "Calls on their way", lambda told: told.in_flight),
    _Gauge("budget_closed_seconds", "For how long nobody may call yet", _read_closing, "reason"),
    _Gauge(
        "token_refused",
        "1 when LaunchDarkly refused the access token last",
        lambda told: name_closing(told.why) == "token_refused",
    ),
    _Gauge("stream_records", "Records in the output stream", lambda told: told.records),
    _Gauge("reader_groups", "Consumer groups of the output stream", lambda told: told.groups),
    _Gauge(
        "reader_lag_records",
        "Records that the slowest group was not given yet, by our own count",
        lambda told: told.unread,
    ),
    _Gauge(
        "reader_lag_seconds",
        "Age of the oldest record that a group was not given or has not acknowledged",
        lambda told: told.unread_s,
    ),
)


def write_gauges(survey: Survey | None) -> Iterator[Metric]:
    """Write what was measured as metrics; what is not known is left out, and not made up."""
    meaning = "1 when Redis takes writes"
    yield GaugeMetricFamily("enricher_redis_up", meaning, value=float(survey is not None))
    if survey is None:
        return
    for gauge in _GAUGES:
        value = gauge.read(survey)
        values = value if isinstance(value, Mapping) else {"": value}
        labels = [gauge.label] if gauge.label else None
        family = GaugeMetricFamily(f"enricher_{gauge.name}", gauge.meaning, labels=labels)
        for key, number in values.items():
            family.add_metric([key] if gauge.label else [], float(number))
        yield family
