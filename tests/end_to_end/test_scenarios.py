"""What happens when? One test for each row of the README's table: read this first."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.rates import Rates
from service.simulate.responses import Canned
from service.simulate.world import NewDeployment
from tests.end_to_end.harness import ServiceHarness, deployment_id, read_stream

Event = dict[str, object]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


async def test_a_webhook_becomes_one_enriched_record(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """From a signed event to a record with the whole deployment, and nothing is left behind."""
    await story.open()
    status, answer = await story.post({**event, "deploymentId": deployment_id()}, delivery="d1")
    assert status == 202
    assert answer == {"status": "queued", "job": f"id:{deployment_id()}", "delivery": "d1"}
    await eventually(story.is_done)
    [record] = await story.records()
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
    [fact] = story.log_events("deployment_published")
    assert (fact["deployment_id"], fact["attempt"], fact["delivery"]) == (
        deployment_id(),
        1,
        "d1",
    )


async def test_a_webhook_without_an_id_is_resolved(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Project, environment, application and a short SHA suffice to find the deployment."""
    found = story.simulator.add_deployment(
        NewDeployment(environment="production", version=str(event["version"])[:7])
    )
    await story.open()
    status, answer = await story.post(event)
    assert (status, answer["job"][:5]) == (202, "find:")
    await eventually(story.is_done)
    [record] = await story.records()
    assert record["subject"] == found


async def test_the_same_webhook_twice_makes_one_record(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A delivery is known again, and other deliveries of the same deployment change nothing."""
    await story.open()
    told = {**event, "deploymentId": deployment_id()}
    answers = await asyncio.gather(*(story.post(told, delivery="same") for _ in range(10)))
    assert sorted(status for status, _ in answers) == [200] * 9 + [202]
    await eventually(story.is_done)
    assert (await story.post(told, delivery="another"))[0] == 202
    await eventually(story.is_done)
    assert len(await story.records()) == 1
    assert [fact["revision"] for fact in story.log_events("deployment_unchanged")] == [1]


async def test_content_that_changed_makes_the_next_revision(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """LaunchDarkly may know more later: a new webhook then publishes revision 2."""
    await story.open()
    for revision, lines in ((1, 5), (2, 6)):
        body = json.dumps({"id": deployment_id(), "linesAdded": lines}).encode()
        story.simulator.set_response(deployment_id(), Canned(status=200, body=body))
        await story.post({**event, "deploymentId": deployment_id()})
        await eventually(story.is_done)
        assert (await story.records())[-1]["data"]["revision"] == revision
    assert [record["id"][-2:] for record in await story.records()] == [":1", ":2"]


async def test_not_there_yet_is_waited_for(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A 404 or an empty list right after the event is no failure."""
    story.simulator.options = Options(visible_after_ms=400)
    await story.open()
    await story.post({**event, "deploymentId": deployment_id()})
    await eventually(story.is_done)
    assert len(await story.records()) == 1
    assert {fact["reason"] for fact in story.log_events("deployment_postponed")} == {
        "not_found_yet"
    }


async def test_never_there_ends_among_the_failed(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """After the deadline the ticket is given up as not found, for a person."""
    await story.open(not_found_timeout=0.3)
    await story.post({**event, "deploymentId": "04040404-9c0b-4ef8-bb6d-000000000001"})
    await story.post(event)
    await eventually(story.is_done)
    assert {job[:3] for job in await story.failed_jobs()} == {"id:", "fin"}
    assert {fact["reason"] for fact in story.log_events("deployment_failed")} == {"not_found"}
    assert await story.records() == []


async def test_a_rate_limit_pauses_everybody_and_costs_no_attempt(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """With a small quota everything comes through, with few refusals and no attempt counted."""
    story.simulator.options = Options(quota=Limits(global_limit=10, window_ms=500))
    await story.open(workers=2)
    answers = await asyncio.gather(
        *(story.post({**event, "deploymentId": deployment_id(n)}) for n in range(40))
    )
    assert {status for status, _ in answers} == {202}
    await eventually(story.is_done)
    records = await story.records()
    assert len({record["subject"] for record in records}) == len(records) == 40
    assert {record["data"]["attempts"] for record in records} == {1}
    assert story.simulator.stats.rate_limited <= 1
    assert story.simulator.stats.rate_limited_while_closed == 0


async def test_an_upstream_in_trouble_is_tried_again(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A 503 and a cut answer are waited out with backoff."""
    await story.open()
    story.simulator.set_response(deployment_id(), Canned(status=503, body=b"<html>busy"))
    await story.post({**event, "deploymentId": deployment_id()})

    async def postponed() -> bool:
        return bool(story.log_events("deployment_postponed"))

    await eventually(postponed)
    story.simulator.set_response(
        deployment_id(), Canned(status=200, body=b'{"id":"' + deployment_id().encode() + b'"}')
    )
    await eventually(story.is_done)
    [record] = await story.records()
    assert record["data"]["attempts"] == 2
    assert story.log_events("deployment_postponed")[0]["reason"] == "HTTP 503"


async def test_a_bad_token_pauses_and_fails_nothing(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A 401 is not the ticket's fault: it waits, nothing fails, and readiness says why."""
    story.simulator.options = Options(token="api-another")
    await story.open()
    await story.post({**event, "deploymentId": deployment_id()})

    async def paused() -> bool:
        return await story.redis.hget(story.keys.budget, "closed_reason") == b"token refused"

    await eventually(paused)
    async with story.session.get(f"{story.receiver_url}/readyz") as response:
        assert response.status == 503
        assert "token" in (await response.json())["reasons"][0]
    assert await story.redis.zcard(story.keys.backlog) == 1
    assert await story.failed_jobs() == []
    await story.redis.delete(story.keys.backlog, story.keys.tickets)


async def test_an_undecodable_answer_ends_among_the_failed_with_its_bytes(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """JSON of another shape is kept raw for a person."""
    await story.open()
    story.simulator.set_response(
        deployment_id(), Canned(status=200, body=b'{"id": 7, "pullRequests": "none"}')
    )
    await story.post({**event, "deploymentId": deployment_id()})
    await eventually(story.is_done)
    assert await story.failed_jobs() == [f"id:{deployment_id()}"]
    kept = await story.redis.hget(story.keys.failed_data, f"id:{deployment_id()}")
    assert b"pullRequests" in kept  # type: ignore[operator] # bytes, as this client decodes nothing


async def test_every_page_is_fetched(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Nested pages are followed within the budget and merged; the record says it is complete."""
    story.simulator.options = Options(
        nested_page_size=5, quota=Limits(global_limit=20, window_ms=400)
    )
    found = story.simulator.add_deployment(NewDeployment(version="7.0", pull_requests=230))
    await story.open()
    await story.post({**event, "deploymentId": found})
    await eventually(story.is_done)
    [record] = await story.records()
    pulls = record["data"]["deployment"]["pullRequests"]
    assert len({item["id"] for item in pulls["items"]}) == len(pulls["items"]) == 230
    assert record["data"]["completeness"]["pullRequests"] == {"expected": 230, "present": 230}
    assert record["complete"] == "true"
    assert story.simulator.stats.rate_limited <= 1


@pytest.mark.parametrize(
    "fault",
    ["foreign_link", "schemeless_link", "file_link", "loop_link", "repeated_items", "false_total"],
)
async def test_a_hostile_page_link_is_not_followed_and_said(
    story: ServiceHarness, event: Event, eventually: Eventually, fault: str
) -> None:
    """The record is published as far as it could be had safely, and says so."""
    story.simulator.options = Options(nested_page_size=2, faults=Rates(**{fault: 1.0}))
    found = story.simulator.add_deployment(NewDeployment(version="7.0", pull_requests=5))
    await story.open()
    await story.post({**event, "deploymentId": found})
    await eventually(story.is_done)
    [record] = await story.records()
    assert record["subject"] == found
    if fault.endswith("_link"):
        assert record["complete"] == "false"
        assert record["data"]["completeness"]["reason"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("html", "garbled"),
        ("truncated", "garbled"),
        ("empty", "garbled"),
        ("redirect", "HTTP 302"),
        ("reset", "no answer: ServerDisconnectedError"),
        ("error_html", "HTTP 5"),
    ],
)
async def test_garbage_from_upstream_is_tried_again(
    story: ServiceHarness, event: Event, eventually: Eventually, fault: str, reason: str
) -> None:
    """What may heal is tried again, and once it healed the record comes."""
    story.simulator.options = Options(faults=Rates(**{fault: 1.0}))
    await story.open()
    await story.post({**event, "deploymentId": deployment_id()})

    async def postponed() -> bool:
        return bool(story.log_events("deployment_postponed"))

    await eventually(postponed)
    assert story.log_events("deployment_postponed")[0]["reason"].startswith(reason)
    story.simulator.options = Options()
    await eventually(story.is_done)
    assert len(await story.records()) == 1
    assert not [line for line in story.log_events() if "exception" in line]


async def test_a_gigantic_answer_ends_among_the_failed(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """More than the byte cap is not read."""
    story.simulator.options = Options(faults=Rates(oversized=1.0), oversized_bytes=3_000_000)
    await story.open(max_answer_bytes=1_000_000)
    await story.post({**event, "deploymentId": deployment_id()})
    await eventually(story.is_done)
    assert [fact["reason"] for fact in story.log_events("deployment_failed")] == ["too_large"]


@pytest.mark.parametrize(
    "given", ["../../x", "%2e%2e", "x" * 10_000, ".", "a/b", "a?b", "a b", "\u0000", "ä"]
)
async def test_a_hostile_id_is_refused_by_name(
    story: ServiceHarness, event: Event, given: str
) -> None:
    """An id that could lead the call elsewhere never becomes a ticket."""
    await story.open(workers=0)
    status, answer = await story.post({**event, "deploymentId": given})
    assert status == 422
    assert "deploymentId" in json.dumps(answer)
    assert await story.is_done()


async def test_a_full_backlog_answers_503(story: ServiceHarness, event: Event) -> None:
    """Over the limit senders are told when to come back, and nothing is marked as seen."""
    await story.open(workers=0, backlog_limit=3)
    for number in range(3):
        assert (await story.post({**event, "deploymentId": deployment_id(number)}))[0] == 202
    url = f"{story.receiver_url}/readyz"
    async with story.session.get(url) as response:
        assert response.status == 503
    status, _ = await story.post({**event, "deploymentId": deployment_id(9)}, delivery="late")
    assert status == 503
    await story.redis.delete(story.keys.backlog, story.keys.tickets)
    assert (await story.post({**event, "deploymentId": deployment_id(9)}, delivery="late"))[
        0
    ] == 202
    await story.redis.delete(story.keys.backlog, story.keys.tickets)


async def test_stopping_hands_back_at_once_what_cannot_be_finished(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """At the end of the grace time the ticket is due again, with no attempt or crash counted."""
    story.simulator.options = Options(latency_ms=(2_000, 2_000))
    await story.open(shutdown_timeout=0.1, lease=60.0)
    await story.post({**event, "deploymentId": deployment_id()})

    async def asked() -> bool:
        return story.simulator.stats.max_concurrent == 1

    await eventually(asked)
    await story.close()
    assert story.log_events("deployment_released")
    score = await story.redis.zscore(story.keys.backlog, f"id:{deployment_id()}")
    assert score is not None
    assert score % 1 == 0
    assert await story.redis.zcard(story.keys.budget_calls) == 0
    await story.redis.delete(story.keys.backlog, story.keys.tickets)


async def test_secrets_are_nowhere(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Neither token nor webhook secret shows in logs, records, failures or settings' repr."""
    await story.open(not_found_timeout=0.1)
    await story.post({**event, "deploymentId": deployment_id()})
    await story.post({**event, "deploymentId": "04040404-9c0b-4ef8-bb6d-000000000001"})
    await eventually(story.is_done)
    seen = story.log_output.getvalue() + repr(story.settings) + json.dumps(await story.records())
    for value in (await story.redis.hgetall(story.keys.failed_data)).values():
        seen += repr(value)
    for secret in (Options().token, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"):
        assert secret not in seen


async def test_unknown_fields_are_passed_on(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """What LaunchDarkly sends and we do not know is in the record, byte for byte."""
    body = json.dumps({"id": deployment_id(), "novel": {"deep": [1.50, None, "\u00e9"]}}).encode()
    story.simulator.set_response(deployment_id(), Canned(status=200, body=body))
    await story.open()
    await story.post({**event, "deploymentId": deployment_id()})
    await eventually(story.is_done)
    [fields] = await read_stream(story.redis, story.keys.enriched)
    assert body.decode() in fields["data"]


async def test_a_record_that_is_too_large_is_failed_and_never_cut(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """It is kept for a person, who is told how large it is."""
    await story.open(max_record_bytes=100)
    told = {**event, "deploymentId": deployment_id()}
    await story.post(told, delivery="d1")
    await eventually(story.is_done)
    assert (await story.records(), len(await story.failed_jobs())) == ([], 1)
    [fact] = story.log_events("deployment_failed")
    assert fact["reason"] == "record_too_large"
    assert fact["detail"].endswith(" bytes, the limit is 100")
