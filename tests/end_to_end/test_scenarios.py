"""Scenarios of the whole service: one test for each row of the README's table. Read this first."""

import asyncio
import json
import zlib
from typing import Any

import pytest

from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.rates import Rates
from service.simulate.responses import Canned
from service.simulate.world import NewDeployment
from service.worker import Worker
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness, read_stream
from tests.factories import deployment_id

Event = dict[str, object]

pytestmark = pytest.mark.asyncio(loop_factories=["service", "eager"])  # see conftest.py


async def test_webhook_with_id_becomes_one_record(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A signed event becomes a record with the whole deployment; no other key is left."""
    await service.open()
    status, reply = await service.post({**event, "deploymentId": deployment_id()}, delivery="d1")
    assert status == 202
    assert reply == {"status": "queued", "job": f"id:{deployment_id()}", "delivery": "d1"}
    await eventually(service.is_done)
    [record] = await service.records()
    assert (record["specversion"], record["type"]) == ("1.0", "deployment.enriched.v1")
    assert (record["id"], record["subject"]) == (f"{deployment_id()}:1", deployment_id())
    assert (record["projectkey"], record["revision"]) == ("default", "1")
    assert record["complete"] == "true"
    data = record["data"]
    assert (data["schemaVersion"], data["revision"], data["attempts"]) == (1, 1, 1)
    assert data["deployment"]["id"] == deployment_id()
    assert data["deployment"]["pullRequests"]["items"]
    assert data["summary"]["authors"]
    assert data["completeness"]["complete"] is True
    assert (data["event"]["source"], data["event"]["delivery"]) == ("native", "d1")
    [line] = service.log_events("deployment_published")
    assert (line["deployment_id"], line["attempt"], line["delivery"]) == (
        deployment_id(),
        1,
        "d1",
    )


async def test_webhook_without_id_is_matched(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Project, environment, application and a short SHA are enough to find the deployment."""
    found = service.simulator.add_deployment(
        NewDeployment(environment="production", version=str(event["version"])[:7])
    )
    await service.open()
    status, reply = await service.post(event)
    assert (status, reply["job"][:5]) == (202, "find:")
    await eventually(service.is_done)
    [record] = await service.records()
    assert record["subject"] == found


async def test_repeated_webhook_makes_one_record(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A repeated delivery is a duplicate; another delivery of the deployment changes nothing."""
    await service.open()
    webhook = {**event, "deploymentId": deployment_id()}
    replies = await asyncio.gather(*(service.post(webhook, delivery="same") for _ in range(10)))
    assert sorted(status for status, _ in replies) == [200] * 9 + [202]
    await eventually(service.is_done)
    assert (await service.post(webhook, delivery="another"))[0] == 202
    await eventually(service.is_done)
    assert len(await service.records()) == 1
    assert [line["revision"] for line in service.log_events("deployment_unchanged")] == [1]


async def test_changed_content_makes_the_next_revision(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """When LaunchDarkly knows more, a new webhook publishes revision 2."""
    await service.open()
    for revision, lines in ((1, 5), (2, 6)):
        body = json.dumps({"id": deployment_id(), "linesAdded": lines}).encode()
        service.simulator.set_response(deployment_id(), Canned(status=200, body=body))
        await service.post({**event, "deploymentId": deployment_id()})
        await eventually(service.is_done)
        assert (await service.records())[-1]["data"]["revision"] == revision
    assert [record["id"][-2:] for record in await service.records()] == [":1", ":2"]


async def test_deployment_not_found_yet_is_retried(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A 404 or an empty list directly after the event is no failure."""
    service.simulator.options = Options(visible_after_ms=400)
    await service.open()
    await service.post({**event, "deploymentId": deployment_id()})
    await eventually(service.is_done)
    assert len(await service.records()) == 1
    assert {line["reason"] for line in service.log_events("deployment_postponed")} == {
        "not_found_yet"
    }


async def test_deployment_never_found_fails(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """After the deadline the ticket fails as not found, for a person."""
    await service.open(not_found_timeout=0.3)
    await service.post({**event, "deploymentId": "04040404-9c0b-4ef8-bb6d-000000000001"})
    await service.post(event)
    await eventually(service.is_done)
    assert {job[:3] for job in await service.failed_jobs()} == {"id:", "fin"}
    assert {line["reason"] for line in service.log_events("deployment_failed")} == {"not_found"}
    assert await service.records() == []


async def test_rate_limit_pauses_all_workers_and_costs_no_attempt(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """With a small quota everything succeeds, with few refusals and no attempt counted."""
    service.simulator.options = Options(quota=Limits(global_limit=10, window_ms=500))
    await service.open(workers=2)
    replies = await asyncio.gather(
        *(service.post({**event, "deploymentId": deployment_id(n)}) for n in range(40))
    )
    assert {status for status, _ in replies} == {202}
    await eventually(service.is_done)
    records = await service.records()
    assert len({record["subject"] for record in records}) == len(records) == 40
    assert {record["data"]["attempts"] for record in records} == {1}
    assert service.simulator.stats.rate_limited <= 1
    assert service.simulator.stats.rate_limited_while_closed == 0


async def test_limit_announced_by_ietf_fields_is_kept(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A gateway's `RateLimit` field bounds the calls: after the first probe none is refused."""
    service.simulator.options = Options(
        quota=Limits(global_limit=5, window_ms=1000, ietf_fields=True)
    )
    await service.open()
    for number in range(8):
        await service.post({**event, "deploymentId": deployment_id(number)})
    await eventually(service.is_done)
    assert len(await service.records()) == 8
    assert service.simulator.stats.rate_limited == 0


@pytest.mark.usefixtures("quick_repeats")
async def test_upstream_error_is_retried(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A call that answers 503 four times costs an attempt, and a wait of seconds."""
    await service.open()
    busy = Canned(status=503, body=b"<html>busy")
    service.simulator.set_response(deployment_id(), busy, times=4)
    await service.post({**event, "deploymentId": deployment_id()})
    await eventually(service.is_done)
    [record] = await service.records()
    assert record["data"]["attempts"] == 2
    [line] = service.log_events("deployment_postponed")
    assert (line["reason"], line["counted"]) == ("HTTP 503", True)
    assert line["wait_s"] <= 2.0


async def test_invalid_token_pauses_calls_and_fails_no_ticket(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """After a 401 all tickets wait, none fails, and readiness names the reason."""
    service.simulator.options = Options(token="api-another")
    await service.open()
    await service.post({**event, "deploymentId": deployment_id()})

    async def is_paused() -> bool:
        return await service.redis.hget(service.keys.budget, "closed_reason") == b"token refused"

    await eventually(is_paused)
    async with service.session.get(f"{service.receiver_url}/readyz") as response:
        assert response.status == 503
        assert "token" in (await response.json())["reasons"][0]
    assert await service.redis.zcard(service.keys.backlog) == 1
    assert await service.failed_jobs() == []
    await service.redis.delete(service.keys.backlog, service.keys.tickets)


async def test_undecodable_response_fails_with_its_body(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """JSON of another shape is kept raw for a person."""
    await service.open()
    service.simulator.set_response(
        deployment_id(), Canned(status=200, body=b'{"id": 7, "pullRequests": "none"}')
    )
    await service.post({**event, "deploymentId": deployment_id()})
    await eventually(service.is_done)
    assert await service.failed_jobs() == [f"id:{deployment_id()}"]
    stored: Any = await service.redis.hget(service.keys.failed_raw, f"id:{deployment_id()}")
    assert b"pullRequests" in zlib.decompress(stored)


async def test_fields_of_another_type_are_published_and_named(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """By its id, from the list and on a further page, a deployment is published all the same."""
    pull, more = {"id": "p0", "externalId": 1234}, {"id": "p1", "createTime": "2026-01-01"}
    links = {"next": {"href": "/api/v2/engineering-insights/pull-requests?after=p0"}}
    deployment = {
        "applicationKey": event["applicationKey"],
        "applicationVersion": event["version"],
        "startedAt": "2026-01-01T00:00:00Z",
        "flagReferences": {"totalCount": 0, "items": []},
        "pullRequests": {"totalCount": 2, "items": [pull], "_links": links},
    }
    by_id, listed = ({"id": deployment_id(number), **deployment} for number in (1, 2))
    canned = {
        deployment_id(1): by_id,
        "engineering-insights/deployments": {"items": [listed]},
        "pull-requests": {"items": [more]},
    }
    for path, body in canned.items():
        service.simulator.set_response(path, Canned(status=200, body=json.dumps(body).encode()))
    await service.open()
    await service.post({**event, "deploymentId": deployment_id(1)})
    await service.post(event)
    await eventually(service.is_done)
    assert await service.failed_jobs() == []
    records = await service.records()
    assert {record["subject"] for record in records} == {deployment_id(1), deployment_id(2)}
    for record in records:
        assert record["data"]["deployment"]["startedAt"] == "2026-01-01T00:00:00Z"
        assert record["data"]["deployment"]["pullRequests"]["items"] == [pull, more]
        assert record["data"]["completeness"]["unreadableFields"] == [
            "pullRequests.items[].createTime",
            "pullRequests.items[].externalId",
            "startedAt",
        ]
        assert record["complete"] == "true"


async def test_every_page_is_fetched_and_merged(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Nested pages are followed within the budget; the record says that it is complete."""
    service.simulator.options = Options(
        nested_page_size=5, quota=Limits(global_limit=20, window_ms=400)
    )
    found = service.simulator.add_deployment(NewDeployment(version="7.0", pull_requests=230))
    await service.open()
    await service.post({**event, "deploymentId": found})
    await eventually(service.is_done)
    [record] = await service.records()
    pulls = record["data"]["deployment"]["pullRequests"]
    assert len({item["id"] for item in pulls["items"]}) == len(pulls["items"]) == 230
    assert record["data"]["completeness"]["pullRequests"] == {"expected": 230, "present": 230}
    assert record["complete"] == "true"
    assert service.simulator.stats.rate_limited <= 1


@pytest.mark.parametrize(
    "fault",
    ["foreign_link", "schemeless_link", "file_link", "loop_link", "repeated_items", "false_total"],
)
async def test_hostile_page_link_is_not_followed_and_reported(
    service: ServiceHarness, event: Event, eventually: Eventually, fault: str
) -> None:
    """The record has what could be fetched safely, and says that it is incomplete."""
    service.simulator.options = Options(nested_page_size=2, faults=Rates(**{fault: 1.0}))
    found = service.simulator.add_deployment(NewDeployment(version="7.0", pull_requests=5))
    await service.open()
    await service.post({**event, "deploymentId": found})
    await eventually(service.is_done)
    [record] = await service.records()
    assert record["subject"] == found
    if fault.endswith("_link"):
        assert record["complete"] == "false"
        assert record["data"]["completeness"]["reason"]


@pytest.mark.parametrize("fault", ["html", "truncated", "empty", "redirect", "reset", "error_html"])
async def test_unreadable_response_is_retried(
    service: ServiceHarness, event: Event, eventually: Eventually, fault: str
) -> None:
    """The call is repeated until the record is published; that costs no attempt."""
    service.simulator.options = Options(faults=Rates(**{fault: 1.0}))
    await service.open()
    await service.post({**event, "deploymentId": deployment_id()})

    async def has_failed() -> bool:
        return bool(service.simulator.stats.faults)

    await eventually(has_failed)
    service.simulator.options = Options()
    await eventually(service.is_done)
    [record] = await service.records()
    assert record["data"]["attempts"] == 1
    assert not [line for line in service.log_events() if "exception" in line]


async def test_oversized_response_fails(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """No more than the byte limit is read."""
    service.simulator.options = Options(faults=Rates(oversized=1.0), oversized_bytes=3_000_000)
    await service.open(max_response_bytes=1_000_000)
    await service.post({**event, "deploymentId": deployment_id()})

    async def has_failed() -> bool:
        return bool(service.log_events("deployment_failed"))

    await eventually(has_failed)
    assert [line["reason"] for line in service.log_events("deployment_failed")] == ["too_large"]
    assert await service.is_done()


@pytest.mark.parametrize(
    "identifier", ["../../x", "%2e%2e", "x" * 10_000, ".", "a/b", "a?b", "a b", "\u0000", "ä"]
)
async def test_hostile_id_is_refused(
    service: ServiceHarness, event: Event, identifier: str
) -> None:
    """An id that could change the path of a call never becomes a ticket."""
    await service.open(workers=0)
    status, reply = await service.post({**event, "deploymentId": identifier})
    assert status == 422
    assert "deploymentId" in json.dumps(reply)
    assert await service.is_done()


async def test_full_backlog_responds_503(service: ServiceHarness, event: Event) -> None:
    """Over the limit the sender gets Retry-After, and the delivery is not marked as seen."""
    await service.open(workers=0, backlog_limit=3)
    for number in range(3):
        assert (await service.post({**event, "deploymentId": deployment_id(number)}))[0] == 202
    url = f"{service.receiver_url}/readyz"
    async with service.session.get(url) as response:
        assert response.status == 503
    status, _ = await service.post({**event, "deploymentId": deployment_id(9)}, delivery="late")
    assert status == 503
    await service.redis.delete(service.keys.backlog, service.keys.tickets)
    assert (await service.post({**event, "deploymentId": deployment_id(9)}, delivery="late"))[
        0
    ] == 202
    await service.redis.delete(service.keys.backlog, service.keys.tickets)


async def test_shutdown_releases_unfinished_tickets(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """After the grace time a ticket is due again, with no attempt or crash counted."""
    service.simulator.options = Options(latency_ms=(2_000, 2_000))
    await service.open(shutdown_timeout=0.1, lease=60.0)
    await service.post({**event, "deploymentId": deployment_id()})

    async def has_called() -> bool:
        return service.simulator.stats.max_concurrent == 1

    await eventually(has_called)
    await service.close()
    assert service.log_events("deployment_released")
    score = await service.redis.zscore(service.keys.backlog, f"id:{deployment_id()}")
    assert score is not None
    assert score % 1 == 0
    assert await service.redis.zcard(service.keys.budget_calls) == 0
    await service.redis.delete(service.keys.backlog, service.keys.tickets)


async def test_secrets_appear_nowhere(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Logs, records, failed tickets and the repr of the settings hold no secret."""
    await service.open(not_found_timeout=0.1)
    await service.post({**event, "deploymentId": deployment_id()})
    await service.post({**event, "deploymentId": "04040404-9c0b-4ef8-bb6d-000000000001"})
    await eventually(service.is_done)
    text = (
        service.log_output.getvalue() + repr(service.settings) + json.dumps(await service.records())
    )
    for value in (await service.redis.hgetall(service.keys.failed_data)).values():
        text += repr(value)
    compressed: Any = await service.redis.hvals(service.keys.failed_raw)
    text += repr([zlib.decompress(raw) for raw in compressed])
    for secret in (Options().token, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"):
        assert secret not in text


async def test_unknown_fields_are_kept(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """The record has all fields of LaunchDarkly, byte for byte."""
    body = json.dumps({"id": deployment_id(), "novel": {"deep": [1.50, None, "\u00e9"]}}).encode()
    service.simulator.set_response(deployment_id(), Canned(status=200, body=body))
    await service.open()
    await service.post({**event, "deploymentId": deployment_id()})
    await eventually(service.is_done)
    [fields] = await read_stream(service.redis, service.keys.enriched)
    assert body.decode() in fields["data"]


async def test_too_large_record_fails_instead_of_being_truncated(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """The ticket is kept for a person, with the size of the record."""
    await service.open(max_record_bytes=100)
    webhook = {**event, "deploymentId": deployment_id()}
    await service.post(webhook, delivery="d1")
    await eventually(service.is_done)
    assert (await service.records(), len(await service.failed_jobs())) == ([], 1)
    [line] = service.log_events("deployment_failed")
    assert line["reason"] == "record_too_large"
    assert line["detail"].endswith(" bytes, the limit is 100")


async def test_failed_tickets_that_are_no_longer_kept_are_deleted(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Nothing has to fail for that: a worker does so when it starts, and each minute."""
    service.simulator.options = Options(auto_create=False)
    await service.open(not_found_timeout=0.1)
    assert (await service.post(event))[0] == 202
    await eventually(service.is_done)
    (job,) = await service.failed_jobs()
    await service.close()
    await service.redis.zadd(service.keys.failed, {job: 1})
    await service.open()

    async def is_deleted() -> bool:
        return not await service.redis.exists(service.keys.failed, service.keys.failed_data)

    await eventually(is_deleted)
    (line,) = service.log_events("failed_tickets_expired")
    assert line["tickets"] == 1


async def test_worker_that_ends_by_itself_is_logged(
    service: ServiceHarness, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its health check fails from then on, and the log says why."""

    async def raise_error(_: Worker) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(Worker, "run", raise_error)
    await service.open()

    async def is_logged() -> bool:
        return bool(service.log_events("worker_failed"))

    await eventually(is_logged)
