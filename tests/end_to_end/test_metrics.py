"""Tests of the metrics of a running service, from the webhook to the record."""

import asyncio
import json

from prometheus_client.openmetrics import parser

from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.responses import Canned
from tests.conftest import Eventually
from tests.end_to_end.harness import SECRET, ServiceHarness
from tests.factories import deployment_id
from tests.metrics.prometheus_text import MetricsPage, scrape

Event = dict[str, object]


def webhook_outcomes(page: MetricsPage, source: str) -> dict[str, float]:
    """Return the webhooks of a source by outcome, without those that are 0."""
    samples = page.samples["enricher_webhooks_total"]
    return {outcome: v for (outcome, name), v in samples.items() if name == source and v}


async def set_deployment_response(
    service: ServiceHarness, number: int, body: object, *, status: int = 200
) -> None:
    """Set the simulator's response for one deployment."""
    canned = Canned(status=status, body=json.dumps(body).encode())
    service.simulator.set_response(deployment_id(number), canned)


async def test_receiver_counts_webhooks_by_source_and_outcome(
    service: ServiceHarness, event: Event
) -> None:
    """Every outcome is counted; an unknown source does not make a label."""
    await service.open(workers=0, backlog_limit=1)
    valid_event = {**event, "deploymentId": deployment_id()}
    for _ in range(3):
        await service.post(valid_event, delivery="same")
    await service.post({**event, "eventType": "started"})
    await service.post(b"{")
    untimed_event = {**event, "deploymentId": deployment_id(), "eventTime": "yesterday evening"}
    await service.post(untimed_event)
    await service.post({**event, "version": "another"})  # the backlog is full
    for path in ("native", "nobody", "somebody"):
        async with service.session.post(f"{service.receiver_url}/webhooks/{path}", data=b"{}"):
            pass
    page = await scrape(service.receiver_url)
    assert webhook_outcomes(page, "native") == {
        "queued": 2,
        "duplicate": 2,
        "ignored": 1,
        "rejected": 2,
        "unavailable": 1,
    }
    assert webhook_outcomes(page, "other") == {"rejected": 2}
    assert {name for _, name in page.samples["enricher_webhooks_total"]} == {"native", "other"}
    assert page.value("webhooks_time_unreadable_total") == 1
    assert page.value("backlog_tickets") == page.value("backlog_limit_tickets") == 1
    min_calls = 6  # five webhooks that reached Redis, and this scrape
    assert page.value("redis_round_trip_seconds_count") >= min_calls
    assert page.value("redis_batch_size_sum") >= min_calls
    assert "enricher_worker_tickets_in_progress" not in page.samples
    await service.redis.delete(service.keys.backlog, service.keys.tickets)


async def test_worker_counts_records_by_kind(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Published, revised, incomplete and unchanged records, and the calls made for them."""
    await service.open()
    incomplete = {"pullRequests": {"totalCount": 3, "items": []}, "leadTime": "long"}
    for number, lines_added, fields in ((1, 5, {}), (1, 6, {}), (1, 6, {}), (2, 7, incomplete)):
        await set_deployment_response(
            service, number, {"id": deployment_id(number), "linesAdded": lines_added} | fields
        )
        await service.post({**event, "deploymentId": deployment_id(number)})
        await eventually(service.is_done)
    page = await scrape(service.receiver_url)
    assert page.value("records_published_total") == len(await service.records()) == 3
    assert page.value("records_revised_total") == 1
    assert page.value("deployments_unchanged_total") == 1
    assert page.value("records_incomplete_total") == 1
    assert page.value("records_partly_unreadable_total") == 1
    assert service.log_events("deployment_published")[-1]["unreadable_fields"] == ["leadTime"]
    assert page.value("webhook_to_record_seconds_count") == 3
    assert page.value("attempt_seconds_count") == 4
    calls = page.value("launchdarkly_calls_total", "ok", "get")
    assert calls == sum(service.simulator.stats.calls.values()) == 4
    assert page.value("launchdarkly_call_seconds_count", "get") == 4
    assert (page.value("stream_records"), page.value("worker_tickets_in_progress")) == (3, 0)


async def test_failures_are_counted_by_reason(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Whatever LaunchDarkly answers, the reason is one of a closed set."""
    await service.open(not_found_timeout=0.3)
    for number, status, body in ((1, 200, {"id": 7}), (2, 404, {}), (3, 418, {}), (4, 502, {})):
        await set_deployment_response(service, number, body, status=status)
        await service.post({**event, "deploymentId": deployment_id(number)})

    async def is_settled() -> bool:
        page = await scrape(service.receiver_url)
        postponed = page.value("deployments_postponed_total", "http_error")
        return sum(page.nonzero("deployments_failed_total").values()) == 3 and postponed > 0

    await eventually(is_settled)
    page = await scrape(service.receiver_url)
    reasons = {"undecodable": 1, "not_found": 1, "rejected": 1}
    assert page.nonzero("deployments_failed_total") == page.nonzero("failed_tickets") == reasons
    assert page.nonzero("deployments_postponed_total").keys() == {"http_error", "not_found_yet"}
    assert page.value("launchdarkly_schema_mismatches_total") == 1
    outcomes = {
        outcome
        for (outcome, _), v in page.samples["enricher_launchdarkly_calls_total"].items()
        if v
    }
    assert outcomes == {"ok", "not_found", "client_error", "server_error"}
    await set_deployment_response(service, 4, {"id": deployment_id(4)})
    await eventually(service.is_done)


async def test_429_is_counted_and_closes_the_budget(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """The call and the postponed ticket are counted, and for how long the budget is closed."""
    limits = Limits(global_limit=2, window_ms=30_000)
    service.simulator.options = Options(quota=limits)
    for number in range(2):  # another client uses the quota up
        path = f"/api/v2/engineering-insights/deployments/{deployment_id(number)}"
        url = f"{service.settings.launchdarkly_url}{path}"
        headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
        async with service.session.get(url, headers=headers):
            pass
    await service.open()
    await service.post({**event, "deploymentId": deployment_id()})

    async def is_postponed() -> bool:
        return (await scrape(service.receiver_url)).value(
            "deployments_postponed_total", "rate_limited"
        ) == 1

    await eventually(is_postponed)
    page = await scrape(service.receiver_url)
    assert page.value("launchdarkly_calls_total", "rate_limited", "get") == 1
    assert page.value("budget_closed_seconds", "rate_limited") > 0
    assert page.nonzero("budget_closed_seconds").keys() == {"rate_limited"}
    assert (page.nonzero("budget_calls_left"), page.value("token_refused")) == ({}, 0)
    await service.redis.delete(service.keys.backlog, service.keys.tickets)


async def test_refused_token_is_exposed_by_the_receiver(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """The receiver exposes it, although a worker made the call."""
    service.simulator.options = Options(token="api-another")
    await service.open()
    await service.post({**event, "deploymentId": deployment_id()})

    async def is_refused() -> bool:
        return (await scrape(service.receiver_url)).value("token_refused") == 1

    await eventually(is_refused)
    await service.redis.delete(service.keys.backlog, service.keys.tickets)


async def test_counters_agree_with_the_log(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Log and counters have the same sums after many webhooks."""
    service.simulator.options = Options(visible_after_ms=200)
    await service.open()
    posts = (
        service.post({**event, "deploymentId": deployment_id(number % 20)}) for number in range(40)
    )
    await asyncio.gather(*posts)
    await eventually(service.is_done)
    page = await scrape(service.receiver_url)
    assert page.value("records_published_total") == len(service.log_events("deployment_published"))
    assert page.value("deployments_unchanged_total") == len(
        service.log_events("deployment_unchanged")
    )
    postponed = sum(page.nonzero("deployments_postponed_total").values())
    assert postponed == len(service.log_events("deployment_postponed"))
    assert (
        webhook_outcomes(page, "native")["queued"]
        == len(service.log_events("webhook_queued"))
        == 40
    )


async def test_metrics_in_openmetrics_format_are_valid(service: ServiceHarness) -> None:
    """A client that accepts OpenMetrics gets it; it holds no secret."""
    await service.open()
    accepted = "application/openmetrics-text; version=1.0.0"
    async with service.session.get(
        f"{service.receiver_url}/metrics", headers={"Accept": accepted}
    ) as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith(accepted)
    families = parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    assert "enricher_build" in {family.name for family in families}
    assert SECRET not in text
    assert Options().token not in text
    assert (await scrape(service.receiver_url)).content_type.startswith("text/plain; version=0.0.4")
