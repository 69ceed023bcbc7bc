"""Tests of the routes: every route responds as LaunchDarkly documents it."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from service.simulate.options import Options, Shape
from service.simulate.world import NewDeployment

from .conftest import BASE, BETA_HEADERS, VALID_HEADERS, ManualClock, SimulatedApi, StartSimulator

ID = "11d9906c-904d-47e3-bd00-025c6874b0d4"
PROJECT_AND_ENVIRONMENT = {"projectKey": "default", "environmentKey": "production"}
ALL_DETAILS = "deployments,flagReferences,leadTime"


@pytest.mark.parametrize(
    "headers",
    [
        BETA_HEADERS,
        {**VALID_HEADERS, "Authorization": "Bearer api-simulator"},
        {**VALID_HEADERS, "Authorization": "api-other"},
        {**VALID_HEADERS, "Authorization": ""},
    ],
)
async def test_call_without_bare_token_is_unauthorized(
    simulated_api: SimulatedApi, headers: Mapping[str, str]
) -> None:
    """A missing token, a wrong one and one after `Bearer` get 401 with the documented body."""
    reply = await simulated_api.call(f"{BASE}/deployments/{ID}", headers=headers)
    assert reply.status == 401
    assert reply.json == {"code": "unauthorized", "message": "Invalid access token"}


@pytest.mark.parametrize("version", [{}, {"LD-API-Version": "20240415"}])
async def test_call_without_beta_header_is_forbidden(
    simulated_api: SimulatedApi, version: Mapping[str, str]
) -> None:
    """Without `LD-API-Version: beta` the response is 403, and its body has no code."""
    headers = {"Authorization": "api-simulator", **version}
    reply = await simulated_api.call(f"{BASE}/deployments/{ID}", headers=headers)
    assert reply.status == 403
    assert set(reply.json) == {"message"}
    assert "`LD-API-Version: beta`" in reply.json["message"]


async def test_call_of_a_forbidden_project_is_forbidden(start_simulator: StartSimulator) -> None:
    """A list or a deployment of it gets 403 with a code; other projects answer."""
    api = await start_simulator(Options(forbidden_projects=("locked", "half/production")))
    message = "Forbidden. Access to the requested resource was denied."
    deployment = api.simulator.add_deployment(NewDeployment(project="locked"))
    for reply in (
        await api.get(f"/deployments/{deployment}"),
        await api.get("/deployments", projectKey="locked", environmentKey="staging"),
        await api.get("/deployments", projectKey="half", environmentKey="production"),
        await api.get("/pull-requests", projectKey="locked"),
    ):
        assert (reply.status, reply.json) == (403, {"code": "forbidden", "message": message})
    for project, environment in (("half", "staging"), ("default", "production")):
        reply = await api.get("/deployments", projectKey=project, environmentKey=environment)
        assert reply.status == 200


async def test_event_without_beta_header_is_accepted(simulated_api: SimulatedApi) -> None:
    """Posting events needs no beta header: 201 without a body."""
    event = {
        **PROJECT_AND_ENVIRONMENT,
        "applicationKey": "a",
        "version": "1",
        "eventType": "finished",
    }
    headers = {"Authorization": "api-simulator"}
    path = f"{BASE}/deployment-events"
    reply = await simulated_api.call(path, method="POST", headers=headers, json=event)
    assert (reply.status, reply.body) == (201, b"")


async def test_deployment_without_expand_has_no_collections(simulated_api: SimulatedApi) -> None:
    """The JSON of a deployment has no pull requests and no flags by default."""
    reply = await simulated_api.get(f"/deployments/{ID}")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json["id"] == ID
    assert not {"pullRequests", "flagReferences"} & set(reply.json)


@pytest.mark.parametrize(
    "expand", ["pullRequests", "flagReferences", "pullRequests,flagReferences"]
)
async def test_expand_with_comma_list_adds_exactly_the_named_collections(
    simulated_api: SimulatedApi, expand: str
) -> None:
    """Only the named collections appear, and equal calls get equal bytes."""
    reply = await simulated_api.get(f"/deployments/{ID}", expand=expand)
    assert {"pullRequests", "flagReferences"} & set(reply.json) == set(expand.split(","))
    assert (await simulated_api.get(f"/deployments/{ID}", expand=expand)).body == reply.body


@pytest.mark.parametrize(
    "path", ["/deployments/04040404-904d-47e3-bd00-025c6874b0d4", "/deployments/x", "/elsewhere"]
)
async def test_unknown_path_or_id_is_not_found(simulated_api: SimulatedApi, path: str) -> None:
    """An id with the reserved prefix, an invalid id and an unknown path get 404."""
    reply = await simulated_api.get(path)
    assert reply.status == 404
    assert reply.json == {"code": "not_found", "message": "Invalid resource identifier"}


async def test_unknown_id_without_auto_create_is_not_found(start_simulator: StartSimulator) -> None:
    """Without `auto_create`, a UUID that nobody added gets 404."""
    api = await start_simulator(Options(auto_create=False))
    assert (await api.get(f"/deployments/{ID}")).status == 404


async def test_unsupported_method_is_not_allowed(simulated_api: SimulatedApi) -> None:
    """DELETE on a deployment gets 405."""
    reply = await simulated_api.call(f"{BASE}/deployments/{ID}", method="DELETE")
    assert (reply.status, reply.json["code"]) == (405, "method_not_allowed")


async def test_auto_created_deployment_is_visible_after_delay(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """The deployment is 404 from the first call until the delay is over."""
    api = await start_simulator(Options(visible_after_ms=3_000))
    statuses = []
    for _ in range(3):
        statuses.append((await api.get(f"/deployments/{ID}")).status)
        clock.now += 1.5
    assert statuses == [404, 404, 200]


async def test_nested_pages_are_followed_by_cursor_alone(
    start_simulator: StartSimulator,
) -> None:
    """`next` is exactly the documented path, and the pages contain each pull request once."""
    api = await start_simulator(Options(nested_page_size=3, shape=Shape(pull_requests=(8, 8))))
    page = (await api.get(f"/deployments/{ID}", expand="pullRequests")).json["pullRequests"]
    seen = [item["id"] for item in page["items"]]
    while link := page["_links"].get("next"):
        path, _, cursor = link["href"].partition("?after=")
        assert (path, len(cursor)) == (f"{BASE}/pull-requests", 36)
        assert link["type"] == "application/json"
        page = (await api.call(f"{link['href']}&projectKey=default&expand={ALL_DETAILS}")).json
        assert page["totalCount"] == 8
        assert all({"deployments", "leadTime"} <= set(item) for item in page["items"])
        seen += [item["id"] for item in page["items"]]
    assert len(seen) == len(set(seen)) == 8


async def test_nested_page_expands_only_what_the_call_asks(start_simulator: StartSimulator) -> None:
    """The link alone lacks its project. With the project, its items are not expanded."""
    api = await start_simulator(Options(nested_page_size=1, shape=Shape(pull_requests=(2, 2))))
    page = (await api.get(f"/deployments/{ID}", expand="pullRequests")).json["pullRequests"]
    href = page["_links"]["next"]["href"]
    assert (await api.call(href)).json["errors"] == [
        {"attribute": "projectKey", "reason": "must be present"}
    ]
    (item,) = (await api.call(f"{href}&projectKey=default")).json["items"]
    assert not set(ALL_DETAILS.split(",")) & set(item)


async def test_deployments_in_a_pull_request_are_paginated(
    start_simulator: StartSimulator,
) -> None:
    """Their `next` needs project and environment, and each deployment exists by its id."""
    shape = Shape(pull_requests=(1, 1), deployments=(3, 3))
    api = await start_simulator(Options(nested_page_size=2, shape=shape))
    deployment = (await api.get(f"/deployments/{ID}", expand="pullRequests")).json
    page = deployment["pullRequests"]["items"][0]["deployments"]
    href = page["_links"]["next"]["href"]
    assert href.startswith(f"{BASE}/deployments?after=")
    wrong = await api.call(href)
    assert {error["attribute"] for error in wrong.json["errors"]} == set(PROJECT_AND_ENVIRONMENT)
    rest = (await api.call(f"{href}&projectKey=default&environmentKey=production")).json
    ids = [item["id"] for item in page["items"] + rest["items"]]
    assert ids[0] == ID
    assert len(set(ids)) == 3
    (last,) = rest["items"]
    assert (await api.get(f"/deployments/{last['id']}")).json == last


async def test_nested_details_disabled_leaves_pull_requests_plain(
    start_simulator: StartSimulator,
) -> None:
    """Without `nested_details`, nested pull requests are not expanded."""
    api = await start_simulator(Options(nested_details=False))
    page = (await api.get(f"/deployments/{ID}", expand="pullRequests")).json["pullRequests"]
    assert not any(set(ALL_DETAILS.split(",")) & set(item) for item in page["items"])


async def list_deployments(api: SimulatedApi, **query: object) -> Any:
    """Return the deployments of the default environment."""
    reply = await api.get("/deployments", **PROJECT_AND_ENVIRONMENT, **query)
    assert reply.status == 200
    return reply.json


async def test_deployment_is_visible_after_event_and_delay(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """Neither the list nor the call by id shows it before the delay is over."""
    api = await start_simulator(Options(visible_after_ms=2_000))
    await api.post_event("started", deploymentMetadata={"buildNumber": "7"})
    assert (await list_deployments(api))["items"] == []
    clock.now += 2
    (item,) = (await list_deployments(api))["items"]
    assert (item["status"], item["applicationVersion"]) == ("started", "a90a8a2")
    assert item["metadata"] == {"buildNumber": "7"}
    assert not {"endedAt", "durationMs"} & set(item)
    assert (await api.get(f"/deployments/{item['id']}")).json == item


@pytest.mark.parametrize("event_type", ["finished", "failed"])
async def test_end_event_changes_the_same_deployment_after_delay(
    start_simulator: StartSimulator, clock: ManualClock, event_type: str
) -> None:
    """Directly after the end the deployment is still started; later it has a duration."""
    api = await start_simulator(Options(visible_after_ms=2_000))
    await api.post_event("started", eventTime=clock.ms)
    clock.now += 60
    before = (await list_deployments(api))["items"]
    await api.post_event(event_type, eventTime=clock.ms)
    assert (await list_deployments(api))["items"] == before
    clock.now += 2
    (after,) = (await list_deployments(api))["items"]
    assert after["id"] == before[0]["id"]
    assert (after["status"], after["durationMs"]) == (event_type, 60_000)


async def test_end_event_without_start_is_accepted(simulated_api: SimulatedApi) -> None:
    """Start and end are equal, and a second end is another deployment."""
    await simulated_api.post_event("finished")
    await simulated_api.post_event("finished")
    items = (await list_deployments(simulated_api))["items"]
    assert [item["durationMs"] for item in items] == [0, 0]
    assert len({item["id"] for item in items}) == 2


async def test_call_by_id_after_end_shows_the_end(simulated_api: SimulatedApi) -> None:
    """The cached response of a running deployment is not sent after its end."""
    await simulated_api.post_event("started")
    (running,) = (await list_deployments(simulated_api))["items"]
    path = f"/deployments/{running['id']}"
    assert (await simulated_api.get(path)).json["status"] == "started"
    await simulated_api.post_event("finished")
    assert (await simulated_api.get(path)).json["status"] == "finished"


async def test_second_end_event_creates_another_deployment(simulated_api: SimulatedApi) -> None:
    """A deployment ends once. The next end belongs to another deployment of the same version."""
    for event_type in ("started", "finished", "failed"):
        await simulated_api.post_event(event_type)
    items = (await list_deployments(simulated_api))["items"]
    assert sorted(item["status"] for item in items) == ["failed", "finished"]


async def test_custom_event_changes_nothing(simulated_api: SimulatedApi) -> None:
    """The event is accepted and creates no deployment."""
    assert (await simulated_api.post_event("custom")).status == 201
    assert (await list_deployments(simulated_api))["items"] == []


@pytest.mark.parametrize(
    ("change", "attribute"),
    [
        ({"projectKey": ""}, "projectKey"),
        ({"version": "not a version"}, "version"),
        ({"eventType": "begun"}, "eventType"),
        ({"eventTime": "yesterday"}, "eventTime"),
    ],
)
async def test_invalid_event_names_the_wrong_field(
    simulated_api: SimulatedApi, change: Mapping[str, object], attribute: str
) -> None:
    """A missing field, an invalid version, an unknown type and an invalid time get 400."""
    reply = await simulated_api.post_event(str(change.get("eventType", "finished")), **change)
    assert reply.status == 400
    assert [error["attribute"] for error in reply.json["errors"]] == [attribute]


async def test_event_that_is_no_json_object_is_invalid(simulated_api: SimulatedApi) -> None:
    """A list gets 400 without a field name."""
    reply = await simulated_api.call(f"{BASE}/deployment-events", method="POST", json=[])
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")


async def test_added_deployment_can_be_running(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """Added as started it has no end. Its id is returned and its count is the given one."""
    new = NewDeployment(status="started", started_at=clock.ms - 5, pull_requests=2)
    identifier = simulated_api.simulator.add_deployment(new)
    item = (await simulated_api.get(f"/deployments/{identifier}", expand="pullRequests")).json
    assert "endedAt" not in item
    assert (item["startedAt"], item["pullRequests"]["totalCount"]) == (clock.ms - 5, 2)


async def test_raw_deployment_is_returned_unchanged(simulated_api: SimulatedApi) -> None:
    """The call by id and the list return its fields and types unchanged."""
    given = {"id": str(uuid4()), "environmentKey": "production", "startedAt": "1799999999000"}
    simulated_api.simulator.add_raw_deployment(given)
    assert (await simulated_api.get(f"/deployments/{given['id']}")).json == given
    assert (await list_deployments(simulated_api))["items"] == [given]


async def count_reported_twice(api: SimulatedApi) -> int:
    """Return how many events were told twice, as any program can ask for it."""
    stats = await api.call("/simulator/stats", headers={})
    return int(stats.json["reported_twice"])


async def test_empty_simulator_knows_only_what_it_was_told(start_simulator: StartSimulator) -> None:
    """Without automatic creation the list is empty, and no id exists, until an event is posted."""
    api = await start_simulator(Options(auto_create=False))
    assert (await list_deployments(api))["items"] == []
    assert (await api.get(f"/deployments/{ID}")).status == 404
    await api.post_event("failed")
    (item,) = (await list_deployments(api))["items"]
    assert item["status"] == "failed"
    assert (await api.get(f"/deployments/{item['id']}")).status == 200


@pytest.mark.parametrize("second", ["finished", "failed"])
async def test_end_of_one_time_that_is_posted_again_is_reported_twice(
    simulated_api: SimulatedApi, clock: ManualClock, second: str
) -> None:
    """Either word counts; a start, another time, another version and a reset do not."""
    await simulated_api.post_event("started", eventTime=clock.ms)
    await simulated_api.post_event("finished", eventTime=clock.ms)
    await simulated_api.post_event(second, eventTime=clock.ms + 1)
    await simulated_api.post_event(second, eventTime=clock.ms, version="b90a8a2")
    assert await count_reported_twice(simulated_api) == 0
    await simulated_api.post_event(second, eventTime=clock.ms)
    assert await count_reported_twice(simulated_api) == 1
    await simulated_api.post_event("started", eventTime=clock.ms)
    assert await count_reported_twice(simulated_api) == 2
    await simulated_api.call("/simulator/reset", method="POST", headers={})
    assert await count_reported_twice(simulated_api) == 0


async def test_reader_may_read_and_not_post(start_simulator: StartSimulator) -> None:
    """A token with the role Reader gets 403 for an event, even for one that is invalid."""
    options = Options(token="api-writer api-reader", reader_tokens=("api-reader",))
    api = await start_simulator(options)
    headers = {**BETA_HEADERS, "Authorization": "api-reader"}
    path = f"{BASE}/deployment-events"
    for body in ({}, {**PROJECT_AND_ENVIRONMENT, "applicationKey": "a", "version": "1"}):
        reply = await api.call(path, method="POST", headers=headers, json=body)
        assert (reply.status, reply.json["code"]) == (403, "forbidden")
    assert (await api.call(f"{BASE}/deployments/{ID}", headers=headers)).status == 200
    writer = {**BETA_HEADERS, "Authorization": "api-writer"}
    assert (await api.call(path, method="POST", headers=writer, json={})).status == 400
