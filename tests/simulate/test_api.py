"""Does every route answer as LaunchDarkly documents it?"""

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
async def test_a_token_must_come_bare(
    simulated_api: SimulatedApi, headers: Mapping[str, str]
) -> None:
    """No token, a wrong one, or one behind `Bearer` is 401 with the documented body."""
    reply = await simulated_api.call(f"{BASE}/deployments/{ID}", headers=headers)
    assert reply.status == 401
    assert reply.json == {"code": "unauthorized", "message": "Invalid access token"}


@pytest.mark.parametrize("version", [{}, {"LD-API-Version": "20240415"}])
async def test_beta_routes_demand_the_beta_header(
    simulated_api: SimulatedApi, version: Mapping[str, str]
) -> None:
    """Without `LD-API-Version: beta` the answer is 403, and its body has no code."""
    headers = {"Authorization": "api-simulator", **version}
    reply = await simulated_api.call(f"{BASE}/deployments/{ID}", headers=headers)
    assert reply.status == 403
    assert set(reply.json) == {"message"}
    assert "`LD-API-Version: beta`" in reply.json["message"]


async def test_an_event_needs_no_beta_header(simulated_api: SimulatedApi) -> None:
    """Posting events is the exception: 201 without a body."""
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


async def test_nothing_is_expanded_unasked(simulated_api: SimulatedApi) -> None:
    """A deployment comes without pull requests and flags, as JSON."""
    reply = await simulated_api.get(f"/deployments/{ID}")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json["id"] == ID
    assert not {"pullRequests", "flagReferences"} & set(reply.json)


@pytest.mark.parametrize(
    "expand", ["pullRequests", "flagReferences", "pullRequests,flagReferences"]
)
async def test_a_comma_list_says_what_to_expand(simulated_api: SimulatedApi, expand: str) -> None:
    """Exactly the named collections are there, and the same call gets the same bytes."""
    reply = await simulated_api.get(f"/deployments/{ID}", expand=expand)
    assert {"pullRequests", "flagReferences"} & set(reply.json) == set(expand.split(","))
    assert (await simulated_api.get(f"/deployments/{ID}", expand=expand)).body == reply.body


@pytest.mark.parametrize(
    "path", ["/deployments/04040404-904d-47e3-bd00-025c6874b0d4", "/deployments/x", "/elsewhere"]
)
async def test_what_does_not_exist_is_not_found(simulated_api: SimulatedApi, path: str) -> None:
    """The forbidden prefix, an id that is none, and an unknown path are 404."""
    reply = await simulated_api.get(path)
    assert reply.status == 404
    assert reply.json == {"code": "not_found", "message": "Invalid resource identifier"}


async def test_without_conjuring_only_known_ids_exist(start_simulator: StartSimulator) -> None:
    """A UUID that nobody made is 404."""
    table = await start_simulator(Options(auto_create=False))
    assert (await table.get(f"/deployments/{ID}")).status == 404


async def test_a_verb_that_a_path_does_not_know_is_refused(simulated_api: SimulatedApi) -> None:
    """DELETE on a deployment is 405."""
    reply = await simulated_api.call(f"{BASE}/deployments/{ID}", method="DELETE")
    assert (reply.status, reply.json["code"]) == (405, "method_not_allowed")


async def test_a_conjured_deployment_shows_itself_late(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """It is 404 from the first question on until the delay is over."""
    table = await start_simulator(Options(visible_after_ms=3_000))
    statuses = []
    for _ in range(3):
        statuses.append((await table.get(f"/deployments/{ID}")).status)
        clock.now += 1.5
    assert statuses == [404, 404, 200]


async def test_pages_inside_a_deployment_lead_on_by_the_cursor_alone(
    start_simulator: StartSimulator,
) -> None:
    """`next` is exactly the documented path, and leads through every pull request once."""
    table = await start_simulator(Options(nested_page_size=3, shape=Shape(pull_requests=(8, 8))))
    page = (await table.get(f"/deployments/{ID}", expand="pullRequests")).json["pullRequests"]
    seen = [item["id"] for item in page["items"]]
    while link := page["_links"].get("next"):
        path, _, cursor = link["href"].partition("?after=")
        assert (path, len(cursor)) == (f"{BASE}/pull-requests", 36)
        assert link["type"] == "application/json"
        page = (await table.call(f"{link['href']}&projectKey=default&expand={ALL_DETAILS}")).json
        assert page["totalCount"] == 8
        assert all({"deployments", "leadTime"} <= set(item) for item in page["items"])
        seen += [item["id"] for item in page["items"]]
    assert len(seen) == len(set(seen)) == 8


async def test_a_followed_page_expands_only_what_is_asked(start_simulator: StartSimulator) -> None:
    """A link that is followed as it stands lacks its project; with it, its items are plain."""
    table = await start_simulator(Options(nested_page_size=1, shape=Shape(pull_requests=(2, 2))))
    page = (await table.get(f"/deployments/{ID}", expand="pullRequests")).json["pullRequests"]
    href = page["_links"]["next"]["href"]
    assert (await table.call(href)).json["errors"] == [
        {"attribute": "projectKey", "reason": "must be present"}
    ]
    (item,) = (await table.call(f"{href}&projectKey=default")).json["items"]
    assert not set(ALL_DETAILS.split(",")) & set(item)


async def test_deployments_inside_a_pull_request_have_pages_too(
    start_simulator: StartSimulator,
) -> None:
    """Their `next` needs project and environment when followed, and each one exists by its id."""
    shape = Shape(pull_requests=(1, 1), deployments=(3, 3))
    table = await start_simulator(Options(nested_page_size=2, shape=shape))
    deployment = (await table.get(f"/deployments/{ID}", expand="pullRequests")).json
    page = deployment["pullRequests"]["items"][0]["deployments"]
    href = page["_links"]["next"]["href"]
    assert href.startswith(f"{BASE}/deployments?after=")
    wrong = await table.call(href)
    assert {each["attribute"] for each in wrong.json["errors"]} == set(PROJECT_AND_ENVIRONMENT)
    rest = (await table.call(f"{href}&projectKey=default&environmentKey=production")).json
    ids = [item["id"] for item in page["items"] + rest["items"]]
    assert ids[0] == ID
    assert len(set(ids)) == 3
    (last,) = rest["items"]
    assert (await table.get(f"/deployments/{last['id']}")).json == last


async def test_details_inside_a_deployment_can_be_left_out(start_simulator: StartSimulator) -> None:
    """With `nested_details` off, nested pull requests are plain."""
    table = await start_simulator(Options(nested_details=False))
    page = (await table.get(f"/deployments/{ID}", expand="pullRequests")).json["pullRequests"]
    assert not any(set(ALL_DETAILS.split(",")) & set(item) for item in page["items"])


async def list_deployments(api: SimulatedApi, **query: object) -> Any:
    """List the deployments of the usual environment."""
    reply = await api.get("/deployments", **PROJECT_AND_ENVIRONMENT, **query)
    assert reply.status == 200
    return reply.json


async def test_a_deployment_appears_after_its_event(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """Neither list nor id knows it before the delay is over."""
    table = await start_simulator(Options(visible_after_ms=2_000))
    await table.post_event("started", deploymentMetadata={"buildNumber": "7"})
    assert (await list_deployments(table))["items"] == []
    clock.now += 2
    (item,) = (await list_deployments(table))["items"]
    assert (item["status"], item["applicationVersion"]) == ("started", "a90a8a2")
    assert item["metadata"] == {"buildNumber": "7"}
    assert not {"endedAt", "durationMs"} & set(item)
    assert (await table.get(f"/deployments/{item['id']}")).json == item


@pytest.mark.parametrize("event_type", ["finished", "failed"])
async def test_an_end_is_seen_later_on_the_same_deployment(
    start_simulator: StartSimulator, clock: ManualClock, event_type: str
) -> None:
    """Right after its end the deployment still says started, then it has a duration."""
    table = await start_simulator(Options(visible_after_ms=2_000))
    await table.post_event("started", eventTime=clock.ms)
    clock.now += 60
    before = (await list_deployments(table))["items"]
    await table.post_event(event_type, eventTime=clock.ms)
    assert (await list_deployments(table))["items"] == before
    clock.now += 2
    (after,) = (await list_deployments(table))["items"]
    assert after["id"] == before[0]["id"]
    assert (after["status"], after["durationMs"]) == (event_type, 60_000)


async def test_an_end_without_a_beginning_is_allowed(simulated_api: SimulatedApi) -> None:
    """Start and end are then the same moment; a second end is another deployment."""
    await simulated_api.post_event("finished")
    await simulated_api.post_event("finished")
    items = (await list_deployments(simulated_api))["items"]
    assert [item["durationMs"] for item in items] == [0, 0]
    assert len({item["id"] for item in items}) == 2


async def test_a_call_by_id_sees_the_end_as_well(simulated_api: SimulatedApi) -> None:
    """What was told of a running deployment is not told again once it has ended."""
    await simulated_api.post_event("started")
    (running,) = (await list_deployments(simulated_api))["items"]
    path = f"/deployments/{running['id']}"
    assert (await simulated_api.get(path)).json["status"] == "started"
    await simulated_api.post_event("finished")
    assert (await simulated_api.get(path)).json["status"] == "finished"


async def test_a_deployment_ends_once(simulated_api: SimulatedApi) -> None:
    """An end after the end belongs to another deployment of the same version."""
    for event_type in ("started", "finished", "failed"):
        await simulated_api.post_event(event_type)
    items = (await list_deployments(simulated_api))["items"]
    assert sorted(item["status"] for item in items) == ["failed", "finished"]


async def test_a_custom_event_changes_nothing(simulated_api: SimulatedApi) -> None:
    """It is accepted, and no deployment comes of it."""
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
async def test_a_wrong_event_is_told_which_field(
    simulated_api: SimulatedApi, change: Mapping[str, object], attribute: str
) -> None:
    """A missing field, an odd version, an unknown type or time is 400 and named."""
    reply = await simulated_api.post_event(str(change.get("eventType", "finished")), **change)
    assert reply.status == 400
    assert [each["attribute"] for each in reply.json["errors"]] == [attribute]


async def test_an_event_that_is_no_json_object_is_invalid(simulated_api: SimulatedApi) -> None:
    """A list is 400 without a field to blame."""
    reply = await simulated_api.call(f"{BASE}/deployment-events", method="POST", json=[])
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")


async def test_an_added_deployment_can_still_be_running(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """Added as started it has no end; its id is told at once and its count is as asked."""
    new = NewDeployment(status="started", started_at=clock.ms - 5, pull_requests=2)
    identifier = simulated_api.simulator.add_deployment(new)
    item = (await simulated_api.get(f"/deployments/{identifier}", expand="pullRequests")).json
    assert "endedAt" not in item
    assert (item["startedAt"], item["pullRequests"]["totalCount"]) == (clock.ms - 5, 2)


async def test_a_planted_deployment_is_told_word_by_word(simulated_api: SimulatedApi) -> None:
    """By id and in the list, with whatever fields and types it was given."""
    given = {"id": str(uuid4()), "environmentKey": "production", "startedAt": "1799999999000"}
    simulated_api.simulator.add_raw_deployment(given)
    assert (await simulated_api.get(f"/deployments/{given['id']}")).json == given
    assert (await list_deployments(simulated_api))["items"] == [given]
