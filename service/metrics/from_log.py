"""How do facts become numbers? Each is written down as before, and counted by its name."""

from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

from prometheus_client import Counter

from service.log import EventLogger
from service.metrics.counters import (
    OTHER_SOURCE,
    Metrics,
    WebhookOutcome,
    failure_label,
    postpone_label,
)

LogFields = Mapping[str, Any]
EventCounter = Callable[[LogFields], None]


class MetricsLog:
    """A log whose facts are counted: what is said and what is counted cannot differ."""

    def __init__(self, log: EventLogger, counters: Mapping[str, EventCounter]) -> None:
        self._log = log
        self._counters = counters

    def _count(self, event: str, fields: LogFields) -> None:
        counter = self._counters.get(event)
        if counter is not None:
            counter(fields)

    def info(self, event: str, **fields: object) -> None:
        """Count and write one fact."""
        self._count(event, fields)
        self._log.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Count and write a fact that somebody should look at."""
        self._count(event, fields)
        self._log.warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Count and write that something is wrong."""
        self._count(event, fields)
        self._log.error(event, **fields)

    def exception(self, event: str, **fields: object) -> None:
        """Count and write that our own code failed, with the exception being handled."""
        self._count(event, fields)
        self._log.exception(event, **fields)


def webhook_counters(metrics: Metrics, sources: Container[str]) -> dict[str, EventCounter]:
    """Give what the receiver's facts add to. A name that is no source's is not repeated."""

    def count_outcome(outcome: WebhookOutcome, fields: LogFields) -> None:
        source = fields["source"]
        metrics.count_webhook(source if source in sources else OTHER_SOURCE, outcome)
        if "time_unreadable" in fields:
            metrics.time_unreadable.inc()

    def count_internal_error(_: LogFields) -> None:
        metrics.internal_errors["webhook"].inc()

    outcomes: tuple[WebhookOutcome, ...] = (
        "queued",
        "duplicate",
        "ignored",
        "rejected",
        "parked",
        "unavailable",
    )
    return {f"webhook_{outcome}": partial(count_outcome, outcome) for outcome in outcomes} | {
        "webhook_error": count_internal_error
    }


def _observe_webhook_to_record(metrics: Metrics, fields: LogFields) -> None:
    """Observe how long a webhook took; a later look says nothing of that."""
    if "since_webhook_ms" in fields:
        metrics.webhook_to_record_seconds.observe(fields["since_webhook_ms"] / 1000)


def attempt_counters(metrics: Metrics) -> dict[str, EventCounter]:
    """Give what a worker's facts add to."""

    def count_published(fields: LogFields) -> None:
        metrics.published.inc()
        if fields["revision"] > 1:
            metrics.revised.inc()
        if not fields["complete"]:
            metrics.incomplete.inc()
        _observe_webhook_to_record(metrics, fields)
        metrics.attempt_seconds.observe(fields["took_ms"] / 1000)

    def count_finished(counter: Counter, fields: LogFields) -> None:
        counter.inc()
        metrics.attempt_seconds.observe(fields["took_ms"] / 1000)

    def count_postponed(fields: LogFields) -> None:
        metrics.postponed[postpone_label(fields["reason"])].inc()
        metrics.attempt_seconds.observe(fields["took_ms"] / 1000)

    def count_failed(fields: LogFields) -> None:
        metrics.failed[failure_label(fields["reason"])].inc()
        metrics.attempt_seconds.observe(fields["took_ms"] / 1000)

    def count_corrupt_ticket(_: LogFields) -> None:
        metrics.failed["corrupt_ticket"].inc()

    return {
        "deployment_published": count_published,
        "deployment_unchanged": partial(count_finished, metrics.unchanged),
        "deployment_filtered": partial(count_finished, metrics.filtered),
        "deployment_postponed": count_postponed,
        "deployment_requeued": partial(count_finished, metrics.postponed["newer_event"]),
        "deployment_failed": count_failed,
        "ticket_corrupt": count_corrupt_ticket,
        "lease_lost": lambda _: metrics.leases_lost.inc(),
        "deployment_released": lambda _: metrics.leases_released.inc(),
        "claim_failed": lambda _: metrics.internal_errors["claim"].inc(),
        "attempt_error": lambda _: metrics.internal_errors["attempt"].inc(),
        "settle_failed": lambda _: metrics.internal_errors["settle"].inc(),
    }


def reconcile_counters(metrics: Metrics) -> dict[str, EventCounter]:
    """Give what the facts of reconciling add to."""

    def count_finished_run(fields: LogFields) -> None:
        metrics.reconcile_runs["ended"].inc()
        metrics.missed_deployments.inc(fields["missed"])

    return {
        "deployments_reconciled": count_finished_run,
        "reconcile_failed": lambda _: metrics.reconcile_runs["failed"].inc(),
        "reconcile_lease_lost": lambda _: metrics.reconcile_runs["lease_lost"].inc(),
    }


def redis_counters(metrics: Metrics) -> dict[str, EventCounter]:
    """Give what the facts about Redis add to."""
    return {"redis_disconnected": lambda _: metrics.redis_disconnects.inc()}
