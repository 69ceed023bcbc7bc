"""Tests of filters: only wanted deployments are published, in the configured form."""

import json
import time
from typing import Any

from service.cli.tail import follow_stream, render_entry_json, render_record_row
from service.client.stream import EnrichedStream
from service.console.timeline import view_from_record
from service.simulate.world import NewDeployment
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness

Json = dict[str, Any]


def add_deployment(
    service: ServiceHarness, application: str, *, started_at: int | None = None
) -> str:
    """Add a deployment of an application."""
    new = NewDeployment(application=application, version="1.0", started_at=started_at)
    return service.simulator.add_deployment(new)


def filter_message(application: str) -> str:
    """Return why an application is filtered."""
    return f"the application {application} is not among ENRICHER_INCLUDE_APPLICATIONS"


async def test_unwanted_deployment_costs_no_call_when_the_webhook_names_it(
    service: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """The receiver filters by the application of the webhook; otherwise the worker filters."""
    await service.open(include_applications="payments-*", include_outcomes="succeeded")
    wanted, other = add_deployment(service, "payments-api"), add_deployment(service, "shop")
    status, reply = await service.post({**event, "applicationKey": "shop"}, delivery="d1")
    assert (status, reply["status"]) == (200, "ignored")
    assert reply["reason"] == filter_message("shop")
    assert await service.redis.exists(service.keys.backlog) == 0
    for number, name in enumerate((wanted, other)):
        webhook = {"deploymentId": name, "eventType": "finished"}
        assert (await service.post(webhook, delivery=f"w{number}"))[0] == 202
    await eventually(service.is_done)
    assert [record["subject"] for record in await service.records()] == [wanted]
    [line] = service.log_events("deployment_filtered")
    assert (line["deployment_id"], line["reason"]) == (other, filter_message("shop"))
    assert await service.failed_jobs() == []
    assert await service.redis.exists(service.keys.refreshes) == 1  # for the wanted deployment


async def test_unwanted_deployment_is_not_missed(
    service: ServiceHarness, eventually: Eventually
) -> None:
    """Reconciliation queues no unwanted deployment and makes no call for it."""
    started_at = int(time.time() * 1000) - 50 * 60_000
    wanted, _ = (
        add_deployment(service, name, started_at=started_at) for name in ("payments-api", "shop")
    )
    await service.open(
        include_applications="payments-api",
        reconcile_scopes="default/production",
        reconcile_interval=0.05,
        refresh_after="never",
    )
    await service.add_reconciler()

    async def is_reconciled() -> bool:
        runs = service.log_events("deployments_reconciled")
        return len(runs) > 1 and len(await service.records()) == 1

    await eventually(is_reconciled)
    first = service.log_events("deployments_reconciled")[0]
    assert (first["listed"], first["missed"]) == (2, 1)
    assert [record["subject"] for record in await service.records()] == [wanted]
    assert service.log_events("deployment_filtered") == []


async def test_record_is_equal_in_client_tail_and_console(
    service: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """The client, the command `tail` and the console show the same data."""
    name = add_deployment(service, "shop")
    await service.open()
    await service.post({**event, "deploymentId": name})
    await eventually(service.is_done)
    stream = EnrichedStream(
        str(service.settings.redis_url.reveal()), namespace=service.keys.namespace, group="readers"
    )
    record = await anext(stream)
    await stream.aclose()
    assert record.deployment.application_key == "shop"
    assert record.raw["deployment"]["id"] == name

    entry = await anext(follow_stream(service.redis, service.keys.enriched, since="0"))
    assert json.loads(render_entry_json(entry))["data"] == record.raw
    assert "is no enriched deployment" not in render_record_row(entry, columns=200)
    view = view_from_record(record.position, record.fields)
    assert view.record is not None
    assert view.record.pull_requests == record.data.summary.pull_requests
