"""Do the numbers tell what was done, from the webhook to the record?"""

import asyncio
import json
from collections.abc import Awaitable, Callable

from prometheus_client.openmetrics import parser

from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.responses import Canned
from tests.end_to_end.harness import SECRET, ServiceHarness
from tests.factories import deployment_id
from tests.metrics.prometheus_text import MetricsPage, scrape

Event = dict[str, object]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


def webhook_outcomes(page: MetricsPage, source: str) -> dict[str, float]:
    """Give what became of a source's webhooks, without what never happened."""
    samples = page.samples["enricher_webhooks_total"]
    return {outcome: v for (outcome, name), v in samples.items() if name == source and v}


async def set_deployment_response(
    story: ServiceHarness, number: int, body: object, *, status: int = 200
) -> None:
    """Let LaunchDarkly say this of one deployment."""
    canned = Canned(status=status, body=json.dumps(body).encode())
    story.simulator.set_response(deployment_id(number), canned)


async def test_the_receiver_counts_webhooks_by_source_and_fate(
    story: ServiceHarness, event: Event
) -> None:
    """Every fate that a sender can meet; who names no source makes no label."""
    await story.open(workers=0, backlog_limit=1)
    told = {**event, "deploymentId": deployment_id()}
    for _ in range(3):
        await story.post(told, delivery="same")
    await story.post({**event, "eventType": "started"})
    await story.post(b"{")
    odd = {**event, "deploymentId": deployment_id(), "eventTime": "yesterday evening"}
    await story.post(odd)
    await story.post({**event, "version": "another"})  # the backlog is full
    for path in ("native", "nobody", "somebody"):
        async with story.session.post(f"{story.receiver_url}/webhooks/{path}", data=b"{}"):
            pass
    numbers = await scrape(story.receiver_url)
    assert webhook_outcomes(numbers, "native") == {
        "queued": 2,
        "duplicate": 2,
        "ignored": 1,
        "rejected": 2,
        "unavailable": 1,
    }
    assert webhook_outcomes(numbers, "other") == {"rejected": 2}
    assert {name for _, name in numbers.samples["enricher_webhooks_total"]} == {"native", "other"}
    assert numbers.value("webhooks_time_unreadable_total") == 1
    assert numbers.value("backlog_tickets") == numbers.value("backlog_limit_tickets") == 1
    asked = 6  # five webhooks came to the store, and this scrape
    assert numbers.value("redis_round_trip_seconds_count") >= asked
    assert numbers.value("redis_batch_size_sum") >= asked
    assert "enricher_worker_tickets_in_progress" not in numbers.samples
    await story.redis.delete(story.keys.backlog, story.keys.tickets)


async def test_a_worker_counts_records_by_what_they_are(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Published, revised, incomplete, unchanged: as the stream has them, with the calls made."""
    await story.open()
    short = {"pullRequests": {"totalCount": 3, "items": []}}
    for number, lines, more in ((1, 5, {}), (1, 6, {}), (1, 6, {}), (2, 7, short)):
        await set_deployment_response(
            story, number, {"id": deployment_id(number), "linesAdded": lines} | more
        )
        await story.post({**event, "deploymentId": deployment_id(number)})
        await eventually(story.is_done)
    told = await scrape(story.receiver_url)
    assert told.value("records_published_total") == len(await story.records()) == 3
    assert told.value("records_revised_total") == 1
    assert told.value("deployments_unchanged_total") == 1
    assert told.value("records_incomplete_total") == 1
    assert told.value("webhook_to_record_seconds_count") == 3
    assert told.value("attempt_seconds_count") == 4
    calls = told.value("launchdarkly_calls_total", "ok", "get")
    assert calls == sum(story.simulator.stats.calls.values()) == 4
    assert told.value("launchdarkly_call_seconds_count", "get") == 4
    assert (told.value("stream_records"), told.value("worker_tickets_in_progress")) == (3, 0)


async def test_what_goes_wrong_is_counted_by_its_reason(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Whatever LaunchDarkly says, the reason is one of a closed set."""
    await story.open(not_found_timeout=0.3)
    for number, status, body in ((1, 200, {"id": 7}), (2, 404, {}), (3, 418, {}), (4, 502, {})):
        await set_deployment_response(story, number, body, status=status)
        await story.post({**event, "deploymentId": deployment_id(number)})

    async def settled() -> bool:
        told = await scrape(story.receiver_url)
        postponed = told.value("deployments_postponed_total", "http_error")
        return sum(told.nonzero("deployments_failed_total").values()) == 3 and postponed > 0

    await eventually(settled)
    told = await scrape(story.receiver_url)
    ends = {"undecodable": 1, "not_found": 1, "rejected": 1}
    assert told.nonzero("deployments_failed_total") == told.nonzero("failed_tickets") == ends
    assert told.nonzero("deployments_postponed_total").keys() == {"http_error", "not_found_yet"}
    assert told.value("launchdarkly_schema_mismatches_total") == 1
    outcomes = {
        outcome
        for (outcome, _), v in told.samples["enricher_launchdarkly_calls_total"].items()
        if v
    }
    assert outcomes == {"ok", "not_found", "client_error", "server_error"}
    await set_deployment_response(story, 4, {"id": deployment_id(4)})
    await eventually(story.is_done)


async def test_a_429_is_counted_and_says_that_nobody_may_call(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """The call, the tickets that it put back, and for how long the budget is closed."""
    limits = Limits(global_limit=2, window_ms=30_000)
    story.simulator.options = Options(quota=limits)
    for number in range(2):  # others use the quota up
        path = f"/api/v2/engineering-insights/deployments/{deployment_id(number)}"
        url = f"{story.settings.launchdarkly_url}{path}"
        headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
        async with story.session.get(url, headers=headers):
            pass
    await story.open()
    await story.post({**event, "deploymentId": deployment_id()})

    async def put_back() -> bool:
        return (await scrape(story.receiver_url)).value(
            "deployments_postponed_total", "rate_limited"
        ) == 1

    await eventually(put_back)
    told = await scrape(story.receiver_url)
    assert told.value("launchdarkly_calls_total", "rate_limited", "get") == 1
    assert told.value("budget_closed_seconds", "rate_limited") > 0
    assert told.nonzero("budget_closed_seconds").keys() == {"rate_limited"}
    assert (told.nonzero("budget_calls_left"), told.value("token_refused")) == ({}, 0)
    await story.redis.delete(story.keys.backlog, story.keys.tickets)


async def test_a_refused_token_is_told(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """By the receiver too, though a worker met it."""
    story.simulator.options = Options(token="api-another")
    await story.open()
    await story.post({**event, "deploymentId": deployment_id()})

    async def refused() -> bool:
        return (await scrape(story.receiver_url)).value("token_refused") == 1

    await eventually(refused)
    await story.redis.delete(story.keys.backlog, story.keys.tickets)


async def test_what_was_counted_is_what_was_logged(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """The log of a busy minute and the counters give the same sums."""
    story.simulator.options = Options(visible_after_ms=200)
    await story.open()
    posts = (
        story.post({**event, "deploymentId": deployment_id(number % 20)}) for number in range(40)
    )
    await asyncio.gather(*posts)
    await eventually(story.is_done)
    told = await scrape(story.receiver_url)
    assert told.value("records_published_total") == len(story.log_events("deployment_published"))
    assert told.value("deployments_unchanged_total") == len(
        story.log_events("deployment_unchanged")
    )
    postponed = sum(told.nonzero("deployments_postponed_total").values())
    assert postponed == len(story.log_events("deployment_postponed"))
    assert (
        webhook_outcomes(told, "native")["queued"] == len(story.log_events("webhook_queued")) == 40
    )


async def test_openmetrics_is_spoken_to_who_asks_for_it(story: ServiceHarness) -> None:
    """With its own type, and readable by its own parser; no secret is in it."""
    await story.open()
    wanted = "application/openmetrics-text; version=1.0.0"
    async with story.session.get(
        f"{story.receiver_url}/metrics", headers={"Accept": wanted}
    ) as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith(wanted)
    families = parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    assert "enricher_build" in {family.name for family in families}
    assert SECRET not in text
    assert Options().token not in text
    assert (await scrape(story.receiver_url)).content_type.startswith("text/plain; version=0.0.4")
