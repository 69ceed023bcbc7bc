"""Tests of the log processor that counts events."""

import io

import pytest
from prometheus_client import CollectorRegistry

from service.log import build_log, count_events
from service.metrics.counters import Metrics
from service.metrics.from_log import attempt_counters, redis_counters, webhook_counters


@pytest.mark.parametrize(("level", "line_count"), [("info", 1), ("error", 0)])
def test_event_is_counted_whether_it_is_written_or_not(level: str, line_count: int) -> None:
    """A log that hides events of a low level still counts them."""
    metrics, out = Metrics(CollectorRegistry()), io.StringIO()
    log = count_events(
        build_log(stream=out, pretty=False, level=level), webhook_counters(metrics, {"native"})
    )
    log.info("webhook_queued", source="native", time_unreadable=True, metadata_dropped=True)
    assert metrics.webhooks_received == 1
    value = metrics.registry.get_sample_value
    labels = {"source": "native", "outcome": "queued"}
    assert value("enricher_webhooks_total", labels) == 1
    assert value("enricher_webhooks_time_unreadable_total") == 1
    assert value("enricher_webhooks_metadata_dropped_total") == 1
    lines = out.getvalue().splitlines()
    assert len(lines) == line_count
    assert "event_counters" not in out.getvalue()


def test_log_of_one_role_counts_only_its_events() -> None:
    """Each role has a log with its own counters; the shared log counts nothing."""
    metrics, log = Metrics(CollectorRegistry()), build_log(stream=io.StringIO(), pretty=False)
    redis_log = count_events(log, redis_counters(metrics))
    log.warning("redis_disconnected", reason="x")
    redis_log.warning("webhook_queued", source="native")
    assert metrics.registry.get_sample_value("enricher_redis_disconnects_total") == 0
    redis_log.warning("redis_disconnected", reason="x")
    assert metrics.registry.get_sample_value("enricher_redis_disconnects_total") == 1
    assert metrics.webhooks_received == 0


@pytest.mark.parametrize(
    ("fields", "dropped_count"), [({}, 0), ({"oldest_dropped": True}, 1)], ids=["kept", "dropped"]
)
def test_failed_webhook_that_drops_the_oldest_is_counted_as_dropped_too(
    fields: dict[str, bool], dropped_count: int
) -> None:
    """A full failure record loses an event: an alert on the counter tells of it."""
    metrics = Metrics(CollectorRegistry())
    log = count_events(
        build_log(stream=io.StringIO(), pretty=False, level="error"), attempt_counters(metrics)
    )
    log.info("deployment_failed", reason="not_found", took_ms=1, **fields)
    value = metrics.registry.get_sample_value
    assert value("enricher_deployments_failed_total", {"reason": "not_found"}) == 1
    assert value("enricher_deployments_failed_dropped_total") == dropped_count


def test_webhook_of_an_unknown_source_counts_as_other() -> None:
    """A sender cannot make new labels."""
    metrics = Metrics(CollectorRegistry())
    log = count_events(
        build_log(stream=io.StringIO(), pretty=False), webhook_counters(metrics, {"native"})
    )
    log.warning("webhook_rejected", source="made up")
    labels = {"source": "other", "outcome": "rejected"}
    assert metrics.registry.get_sample_value("enricher_webhooks_total", labels) == 1
