"""The counters behind each log event: a log processor calls them, so log and metrics agree."""

from collections.abc import Container
from functools import partial

from service.log import EventCounter, LogFields
from service.metrics.counters import (
    OTHER_SOURCE,
    Metrics,
    WebhookOutcome,
    failure_label,
    postpone_label,
)
from service.metrics.instruments import Counter


def webhook_counters(metrics: Metrics, sources: Container[str]) -> dict[str, EventCounter]:
    """Return the counters of the receiver's events.

    A name that is not a configured source counts as ``other``, so that a sender cannot make labels.
    """

    def count_outcome(outcome: WebhookOutcome, fields: LogFields) -> None:
        source = fields["source"]
        metrics.count_webhook(source if source in sources else OTHER_SOURCE, outcome)
        if "time_unreadable" in fields:
            metrics.time_unreadable.inc()
        if "metadata_dropped" in fields:
            metrics.metadata_dropped.inc()

    def count_error(fields: LogFields) -> None:
        metrics.internal_errors["webhook"].inc()
        count_outcome("unavailable", fields)

    outcomes: tuple[WebhookOutcome, ...] = (
        "queued",
        "duplicate",
        "ignored",
        "rejected",
        "parked",
        "unavailable",
    )
    return {f"webhook_{outcome}": partial(count_outcome, outcome) for outcome in outcomes} | {
        "webhook_error": count_error,
        **request_counters(metrics),
    }


def request_counters(metrics: Metrics) -> dict[str, EventCounter]:
    """Return the counter of requests that raised an error, whichever page they asked for."""
    return {"request_error": lambda _: metrics.internal_errors["request"].inc()}


def attempt_counters(metrics: Metrics) -> dict[str, EventCounter]:
    """Return the counters of a worker's events."""

    def count_finished(counter: Counter, fields: LogFields) -> None:
        counter.inc()
        _observe_attempt(metrics, fields)

    def count_postponed(fields: LogFields) -> None:
        metrics.postponed[postpone_label(fields["reason"])].inc()
        _observe_attempt(metrics, fields)

    def count_failed(fields: LogFields) -> None:
        metrics.failed[failure_label(fields["reason"])].inc()
        if "oldest_dropped" in fields:
            metrics.failed_dropped.inc()
        _observe_attempt(metrics, fields)

    return {
        "deployment_published": partial(_count_published, metrics),
        "deployment_unchanged": partial(count_finished, metrics.unchanged),
        "deployment_filtered": partial(count_finished, metrics.filtered),
        "deployment_postponed": count_postponed,
        "deployment_requeued": partial(count_finished, metrics.postponed["newer_event"]),
        "deployment_failed": count_failed,
        "deployment_reported": lambda _: metrics.reported.inc(),
        "start_reported": partial(_observe_attempt, metrics),
        "start_dropped": partial(_observe_attempt, metrics),
        "ticket_corrupt": lambda _: metrics.failed["corrupt_ticket"].inc(),
        "lease_lost": lambda _: metrics.leases_lost.inc(),
        "deployment_released": lambda _: metrics.leases_released.inc(),
        "claim_failed": lambda _: metrics.internal_errors["claim"].inc(),
        "share_lists_failed": lambda _: metrics.internal_errors["claim"].inc(),
        "attempt_error": lambda _: metrics.internal_errors["attempt"].inc(),
        "settle_failed": lambda _: metrics.internal_errors["settle"].inc(),
    }


def _count_published(metrics: Metrics, fields: LogFields) -> None:
    metrics.published.inc()
    if fields["revision"] > 1:
        metrics.revised.inc()
    if not fields["complete"]:
        metrics.incomplete.inc()
    if "unreadable_fields" in fields:
        metrics.partly_unreadable.inc()
    if "since_webhook_ms" in fields:  # a refresh has none: it runs on a schedule
        metrics.webhook_to_record_seconds.observe(fields["since_webhook_ms"] / 1000)
    _observe_attempt(metrics, fields)


def _observe_attempt(metrics: Metrics, fields: LogFields) -> None:
    metrics.attempt_seconds.observe(fields["took_ms"] / 1000)


def reconcile_counters(metrics: Metrics) -> dict[str, EventCounter]:
    """Return the counters of the reconciler's events."""

    def count_finished_run(fields: LogFields) -> None:
        metrics.reconcile_runs["ended"].inc()
        metrics.missed_deployments.inc(fields["missed"])

    return {
        "deployments_reconciled": count_finished_run,
        "reconcile_failed": lambda _: metrics.reconcile_runs["failed"].inc(),
        "reconcile_lease_lost": lambda _: metrics.reconcile_runs["lease_lost"].inc(),
    }


def redis_counters(metrics: Metrics) -> dict[str, EventCounter]:
    """Return the counters of the events about the connection with Redis."""
    return {"redis_disconnected": lambda _: metrics.redis_disconnects.inc()}
