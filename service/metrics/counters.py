"""The counters and histograms of one process, and the closed sets of their labels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from itertools import product
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Gauge, Info, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from service import __version__
from service.enrich.verdict import ApiResponse, CallResult, NoResponse, classify_response
from service.metrics.instruments import Counter, CounterFamily, Histogram, HistogramFamily
from service.metrics.loop_lag import LoopLag

WebhookOutcome = Literal["queued", "duplicate", "ignored", "rejected", "parked", "unavailable"]
ClosedReason = Literal["rate_limited", "token_refused", "upstream_failing", "other"]
CallOutcome = Literal[
    "ok",
    "not_found",
    "rate_limited",
    "refused",
    "forbidden",
    "client_error",
    "server_error",
    "too_large",
    "garbled",
    "silent",
    "other",
]

CALL_ROUTES = ("get", "list", "pull-requests", "flag-events", "report")
RECONCILE_OUTCOMES = ("ended", "failed", "lease_lost")
FAILURE_REASONS = (
    "forbidden",
    "internal_error",
    "not_found",
    "poison",
    "record_too_large",
    "rejected",
    "report_forbidden",
    "report_invalid",
    "report_rejected",
    "too_large",
    "undecodable",
    "unmappable",
    "corrupt_ticket",
    "upstream_failing",
    "other",
)
POSTPONE_REASONS = (
    "forbidden",
    "garbled",
    "http_error",
    "internal_error",
    "newer_event",
    "no_answer",
    "not_finished_yet",
    "not_found_yet",
    "rate_limited",
    "report_busy",
    "report_forbidden",
    "report_unclear",
    "reported",
    "token_refused",
    "other",
)
_OUTCOME_BY_STATUS: dict[int, CallOutcome] = {
    HTTPStatus.OK: "ok",
    HTTPStatus.CREATED: "ok",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
}
_OUTCOME_BY_RESULT: dict[CallResult, CallOutcome] = {
    "unauthorized": "refused",
    "forbidden": "forbidden",
}
_REASON_PREFIXES = (
    ("HTTP ", "http_error"),
    ("no answer", "no_answer"),
    ("token_refused", "token_refused"),
)
_CLOSED_REASONS: dict[str, ClosedReason] = {
    name.replace("_", " "): name for name in get_args(ClosedReason) if name != "other"
}


def failure_label(reason: str) -> str:
    """Return the label for the reason why a ticket was given up."""
    return reason if reason in FAILURE_REASONS else "other"


def postpone_label(reason: str) -> str:
    """Return the label for the reason of a postponement, without its status or error text."""
    if reason in POSTPONE_REASONS:
        return reason
    for prefix, label in _REASON_PREFIXES:
        if reason.startswith(prefix):
            return label
    return "other"


def call_outcome_label(response: ApiResponse | NoResponse) -> CallOutcome:
    """Return the label for the result of a call to LaunchDarkly."""
    if isinstance(response, NoResponse):
        return "silent"
    if response.oversized:
        return "too_large"
    if response.malformed is not None:
        return "garbled"
    outcome = _OUTCOME_BY_STATUS.get(response.status) or _OUTCOME_BY_RESULT.get(
        classify_response(response)
    )
    if outcome is not None:
        return outcome
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return "client_error" if response.status >= HTTPStatus.BAD_REQUEST else "other"


def closed_reason_label(reason: str) -> ClosedReason:
    """Return the label for the reason why the budget is closed."""
    return _CLOSED_REASONS.get(reason, "other")


OTHER_SOURCE = "other"
ERROR_LOCATIONS = ("webhook", "request", "claim", "attempt", "settle")

_CALL_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ATTEMPT_BUCKETS_S = (0.01, *_CALL_BUCKETS_S, 60)
_WEBHOOK_TO_RECORD_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 86400)
_ROUND_TRIP_BUCKETS_S = (
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
)
_BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one process; all of them start at zero, so that the first event shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._in_progress_counts: list[Callable[[], int]] = []
        self._webhook_counters: dict[tuple[str, str], Counter] = {}
        self.webhooks_received = 0
        self._define_receiver_metrics()
        self._define_worker_metrics()
        self._define_reconcile_metrics()
        self._define_launchdarkly_metrics()
        self._define_redis_metrics()
        self._define_log_metrics()
        self._define_loop_metrics()
        ProcessCollector(registry=registry)
        build_info = Info("enricher_build", "The running version", registry=registry)
        build_info.info({"version": __version__})

    def _define_receiver_metrics(self) -> None:
        self._webhooks_by_source = self._build_counters(
            "webhooks", "Webhooks by source and outcome", "source outcome"
        )
        self.time_unreadable = self._build_counter(
            "webhooks_time_unreadable", "Webhooks queued whose time could not be read"
        )
        self.metadata_dropped = self._build_counter(
            "webhooks_metadata_dropped",
            "Webhooks queued without their metadata, which was too large or not JSON",
        )

    def _define_worker_metrics(self) -> None:
        build_counter = self._build_counter
        self.published = build_counter("records_published", "Records appended to the output stream")
        self.revised = build_counter("records_revised", "Records appended as a later revision")
        self.incomplete = build_counter(
            "records_incomplete", "Records appended that are not complete"
        )
        self.partly_unreadable = build_counter(
            "records_partly_unreadable",
            "Records appended with a field of another type than documented",
        )
        self.unchanged = build_counter(
            "deployments_unchanged", "Deployments fetched whose record had not changed"
        )
        self.reported = build_counter(
            "deployments_reported", "Deployment events that LaunchDarkly stored when reported"
        )
        self.filtered = build_counter(
            "deployments_filtered", "Deployments fetched that a filter excludes"
        )
        self.failed_dropped = build_counter(
            "deployments_failed_dropped",
            "Failed webhooks dropped because 16 later ones of their version have failed too",
        )
        self.leases_lost = build_counter("leases_lost", "Leases that ended before their work did")
        self.leases_released = build_counter(
            "leases_released", "Tickets released by a worker that stopped"
        )
        self.schema_mismatches = build_counter(
            "launchdarkly_schema_mismatches", "Responses that are JSON of an unknown shape"
        )
        postponed = self._build_counters("deployments_postponed", "Tickets postponed", "reason")
        self.postponed = {reason: postponed.labels(reason) for reason in POSTPONE_REASONS}
        failed = self._build_counters("deployments_failed", "Tickets given up", "reason")
        self.failed = {reason: failed.labels(reason) for reason in FAILURE_REASONS}
        internal_errors = self._build_counters(
            "internal_errors", "Errors in our own code, by where they were caught", "where"
        )
        self.internal_errors = {
            location: internal_errors.labels(location) for location in ERROR_LOCATIONS
        }
        self.attempt_seconds = self._build_histogram(
            "attempt_seconds", "Duration of one attempt", _ATTEMPT_BUCKETS_S
        )
        self.webhook_to_record_seconds = self._build_histogram(
            "webhook_to_record_seconds",
            "Time from a webhook to its record",
            _WEBHOOK_TO_RECORD_BUCKETS_S,
        )

    def _define_reconcile_metrics(self) -> None:
        self.missed_deployments = self._build_counter(
            "reconcile_missed_deployments",
            "Deployments that reconciling queued, since no webhook reported them",
        )
        runs = self._build_counters("reconcile_runs", "Reconcile runs of a scope", "outcome")
        self.reconcile_runs = {outcome: runs.labels(outcome) for outcome in RECONCILE_OUTCOMES}

    def _define_launchdarkly_metrics(self) -> None:
        calls = self._build_counters("launchdarkly_calls", "Calls to LaunchDarkly", "route outcome")
        self._call_counters = {
            (route, outcome): calls.labels(route, outcome)
            for route, outcome in product(CALL_ROUTES, get_args(CallOutcome))
        }
        call_seconds = HistogramFamily(
            "enricher_launchdarkly_call_seconds",
            "Duration of a call to LaunchDarkly",
            ["route"],
            bounds=_CALL_BUCKETS_S,
            registry=self.registry,
        )
        self._call_seconds = {route: call_seconds.labels(route) for route in CALL_ROUTES}

    def _define_redis_metrics(self) -> None:
        self.redis_disconnects = self._build_counter(
            "redis_disconnects", "Lost or refused connections to Redis"
        )
        self._round_trip_seconds = self._build_histogram(
            "redis_round_trip_seconds", "Duration of a round trip to Redis", _ROUND_TRIP_BUCKETS_S
        )
        self._batch_sizes = self._build_histogram(
            "redis_batch_size", "Script calls that shared a round trip", _BATCH_SIZE_BUCKETS
        )

    def _define_log_metrics(self) -> None:
        self._lost_lines = _LostLinesCollector()
        self.registry.register(self._lost_lines)

    def _define_loop_metrics(self) -> None:
        self.loop_lag = LoopLag()
        gauge = Gauge(
            "enricher_event_loop_lag_seconds",
            "Largest lag of the event loop in the last minute: how long something blocked it",
            registry=self.registry,
        )
        gauge.set_function(self.loop_lag.largest_s)

    def _build_counters(self, name: str, description: str, labels: str) -> CounterFamily:
        return CounterFamily(
            f"enricher_{name}", description, labels.split(), registry=self.registry
        )

    def _build_counter(self, name: str, description: str) -> Counter:
        return self._build_counters(name, description, "").labels()

    def _build_histogram(self, name: str, description: str, bounds: Sequence[float]) -> Histogram:
        return HistogramFamily(
            f"enricher_{name}", description, (), bounds=bounds, registry=self.registry
        ).labels()

    def set_limits(self, *, tickets: int, records: int) -> None:
        """Expose the limits of the backlog and of the stream (0: the stream has no maximum)."""
        for name, description, limit in (
            ("backlog_limit_tickets", "Most tickets that the backlog takes", tickets),
            ("stream_limit_records", "Most records that the stream keeps; 0: no maximum", records),
        ):
            Gauge(f"enricher_{name}", description, registry=self.registry).set(limit)

    def initialize_sources(self, names: Iterable[str]) -> None:
        """Start each source's counters at zero, so that its first webhook is an increase."""
        for name, outcome in product((*names, OTHER_SOURCE), get_args(WebhookOutcome)):
            self._webhook_counters[name, outcome] = self._webhooks_by_source.labels(name, outcome)

    def count_webhook(self, source: str, outcome: WebhookOutcome) -> None:
        """Count one delivery: a webhook, or one event of a batch."""
        counter = self._webhook_counters.get((source, outcome))
        if counter is None:
            counter = self._webhook_counters[source, outcome] = self._webhooks_by_source.labels(
                source, outcome
            )
        counter.inc()
        self.webhooks_received += 1

    def add_log(self, count_lost_lines: Callable[[], int]) -> None:
        """Expose how many lines of the log of this process were lost."""
        self._lost_lines.count = count_lost_lines

    def add_worker(self, count_in_progress: Callable[[], int]) -> None:
        """Expose how many tickets this process works on; only workers have this gauge."""
        if not self._in_progress_counts:
            description = "Tickets that this process works on; workers only"
            gauge = Gauge(
                "enricher_worker_tickets_in_progress", description, registry=self.registry
            )
            gauge.set_function(lambda: sum(count() for count in self._in_progress_counts))
        self._in_progress_counts.append(count_in_progress)

    def record_call(self, route: str, response: ApiResponse | NoResponse, took_s: float) -> None:
        """Count one call to LaunchDarkly."""
        self._call_counters[route, call_outcome_label(response)].inc()
        self._call_seconds[route].observe(took_s)

    def record_schema_mismatch(self) -> None:
        """Count a response that is JSON of an unknown shape."""
        self.schema_mismatches.inc()

    def record_round_trip(self, batch_size: int, took_s: float) -> None:
        """Count one round trip to Redis."""
        self._batch_sizes.observe(batch_size)
        self._round_trip_seconds.observe(took_s)


class _LostLinesCollector(Collector):
    """The counter of lost log lines; the log keeps the count."""

    def __init__(self) -> None:
        self.count: Callable[[], int] = lambda: 0

    def collect(self) -> Iterator[Metric]:
        """Yield the counter."""
        yield CounterMetricFamily(
            "enricher_log_lines_lost", "Log lines lost: nothing took them", value=self.count()
        )
