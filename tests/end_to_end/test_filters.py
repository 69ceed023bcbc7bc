"""Does only what is wanted get out, in the form that is wanted?"""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from service.cli.tail import follow_stream, render_entry_json, render_record_row
from service.client.stream import EnrichedStream
from service.console.timeline import view_from_record
from service.simulate.world import NewDeployment
from tests.end_to_end.harness import ServiceHarness

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
Json = dict[str, Any]


def add_deployment(
    story: ServiceHarness, application: str, *, started_at: int | None = None
) -> str:
    """Add a deployment of an application."""
    new = NewDeployment(application=application, version="1.0", started_at=started_at)
    return story.simulator.add_deployment(new)


def filter_message(application: str) -> str:
    """Say why an application is not sent."""
    return f"the application {application} is not among ENRICHER_INCLUDE_APPLICATIONS"


async def test_what_nobody_wants_costs_no_call_where_the_webhook_says_enough(
    story: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """At the receiver where it names the application, else once LaunchDarkly has told it."""
    await story.open(include_applications="payments-*", include_outcomes="succeeded")
    wanted, other = add_deployment(story, "payments-api"), add_deployment(story, "shop")
    status, answer = await story.post({**event, "applicationKey": "shop"}, delivery="d1")
    assert (status, answer["status"]) == (200, "ignored")
    assert answer["reason"] == filter_message("shop")
    assert await story.redis.exists(story.keys.backlog) == 0
    for number, name in enumerate((wanted, other)):
        told = {"deploymentId": name, "eventType": "finished"}
        assert (await story.post(told, delivery=f"w{number}"))[0] == 202
    await eventually(story.is_done)
    assert [record["subject"] for record in await story.records()] == [wanted]
    [fact] = story.log_events("deployment_filtered")
    assert (fact["deployment_id"], fact["reason"]) == (other, filter_message("shop"))
    assert await story.failed_jobs() == []
    assert await story.redis.exists(story.keys.refreshes) == 1  # of the one that is wanted


async def test_what_nobody_wants_is_not_missed(
    story: ServiceHarness, eventually: Eventually
) -> None:
    """Reconciling queues none of it, and makes no call for it."""
    begun_ms = int(time.time() * 1000) - 50 * 60_000
    wanted, _ = (
        add_deployment(story, name, started_at=begun_ms) for name in ("payments-api", "shop")
    )
    await story.open(
        include_applications="payments-api",
        reconcile_scopes="default/production",
        reconcile_interval=0.05,
        refresh_after="never",
    )
    await story.add_reconciler()

    async def is_reconciled() -> bool:
        rounds = story.log_events("deployments_reconciled")
        return len(rounds) > 1 and len(await story.records()) == 1

    await eventually(is_reconciled)
    first = story.log_events("deployments_reconciled")[0]
    assert (first["listed"], first["missed"]) == (2, 1)
    assert [record["subject"] for record in await story.records()] == [wanted]
    assert story.log_events("deployment_filtered") == []


async def test_a_record_reads_alike_in_client_tail_and_console(
    story: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """The client, the command `tail` and the console show the same data."""
    name = add_deployment(story, "shop")
    await story.open()
    await story.post({**event, "deploymentId": name})
    await eventually(story.is_done)
    stream = EnrichedStream(
        str(story.settings.redis_url.reveal()), namespace=story.keys.namespace, group="readers"
    )
    record = await anext(stream)
    await stream.aclose()
    assert record.deployment.application_key == "shop"
    assert record.raw["deployment"]["id"] == name

    shown = await anext(follow_stream(story.redis, story.keys.enriched, since="0"))
    assert json.loads(render_entry_json(shown))["data"] == record.raw
    assert "is no enriched deployment" not in render_record_row(shown, columns=200)
    sighting = view_from_record(record.position, record.fields)
    assert sighting.record is not None
    assert sighting.record.pull_requests == record.data.summary.pull_requests
