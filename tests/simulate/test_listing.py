"""Tests of the list calls: filters, order and pages."""

from typing import Any

import pytest

from service.simulate.options import Options
from service.simulate.world import NewDeployment

from .conftest import BASE, ManualClock, SimulatedApi, StartSimulator

PROJECT_AND_ENVIRONMENT = {"projectKey": "default", "environmentKey": "production"}
HOUR = 3_600_000


def add_deployment(api: SimulatedApi, clock: ManualClock, hours_ago: int, **fields: Any) -> str:
    """Add a deployment that started the given number of hours ago."""
    return api.simulator.add_deployment(
        NewDeployment(started_at=clock.ms - hours_ago * HOUR, **fields)
    )


async def list_ids(api: SimulatedApi, **query: object) -> list[str]:
    """Return the ids of the listed deployments."""
    return [
        item["id"]
        for item in (await api.get("/deployments", **PROJECT_AND_ENVIRONMENT | query)).json["items"]
    ]


async def test_deployments_are_listed_newest_start_first(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """The order is by start, whatever the order of creation."""
    ids = {hours: add_deployment(simulated_api, clock, hours) for hours in (5, 1, 3)}
    assert await list_ids(simulated_api) == [ids[1], ids[3], ids[5]]


async def test_missing_keys_are_named(simulated_api: SimulatedApi) -> None:
    """Project and environment are required, and the documented body names the missing one."""
    reply = await simulated_api.get("/deployments")
    assert reply.status == 400
    assert reply.json == {
        "code": "invalid_request",
        "message": "validation failed",
        "errors": [
            {"attribute": "projectKey", "reason": "must be present"},
            {"attribute": "environmentKey", "reason": "must be present"},
        ],
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "101"),
        ("limit", "0"),
        ("limit", "many"),
        ("from_", "2024-01-01"),
        ("to", "9" * 30),
        ("after", "2c5c9b8e-90fb-4b54-8a4e-5f4e1d7f6f4e"),
        ("before", "x"),
    ],
)
async def test_invalid_parameters_are_named(
    simulated_api: SimulatedApi, name: str, value: str
) -> None:
    """A limit over 100, an invalid number and an unknown cursor get 400."""
    reply = await simulated_api.get("/deployments", **PROJECT_AND_ENVIRONMENT, **{name: value})
    assert reply.status == 400
    assert [error["attribute"] for error in reply.json["errors"]] == [name.rstrip("_")]


async def test_default_time_range_is_seven_days(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """Older deployments need `from`; `to` is a bound as well."""
    old, new = (
        add_deployment(simulated_api, clock, 8 * 24),
        add_deployment(simulated_api, clock, 6 * 24),
    )
    start = clock.ms - 9 * 24 * HOUR
    assert await list_ids(simulated_api) == [new]
    assert await list_ids(simulated_api, from_=start) == [new, old]
    assert await list_ids(simulated_api, from_=start, to=clock.ms - 7 * 24 * HOUR) == [old]


async def test_application_filter_accepts_a_comma_list(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """One list call can ask for several applications."""
    a, b, _ = (
        add_deployment(simulated_api, clock, hours, application=f"app-{hours}")
        for hours in (1, 2, 3)
    )
    assert await list_ids(simulated_api, applicationKey="app-1,app-2") == [a, b]


async def test_version_parameter_is_ignored(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """The API has no filter by version."""
    ids = [
        add_deployment(simulated_api, clock, 1, version="v1"),
        add_deployment(simulated_api, clock, 2, version="v2"),
    ]
    assert await list_ids(simulated_api, applicationVersion="v2", version="v2") == ids


async def test_list_contains_only_its_project_and_environment(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """Other projects and environments are not listed."""
    add_deployment(simulated_api, clock, 1, project="other")
    staging = add_deployment(simulated_api, clock, 1, environment="staging")
    assert await list_ids(simulated_api) == []
    assert await list_ids(simulated_api, environmentKey="staging") == [staging]


async def test_status_and_kind_filter_exactly(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """Both parameters must equal the value of the deployment."""
    running = add_deployment(simulated_api, clock, 1, status="started")
    done = add_deployment(simulated_api, clock, 2)
    assert await list_ids(simulated_api, status="started") == [running]
    assert await list_ids(simulated_api, kind="redeployment") == [running, done]
    assert await list_ids(simulated_api, kind="other") == []


async def test_list_with_expand_matches_call_by_id(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """With expand, each item equals the response to the call by id."""
    identifier = add_deployment(simulated_api, clock, 1, pull_requests=2)
    expand = "pullRequests,flagReferences"
    (item,) = (
        await simulated_api.get("/deployments", **PROJECT_AND_ENVIRONMENT, expand=expand)
    ).json["items"]
    assert item == (await simulated_api.get(f"/deployments/{identifier}", expand=expand)).json


async def test_page_size_is_twenty_by_default(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """The default is 20, the maximum is 100, and the total counts all."""
    for hours in range(101):
        add_deployment(simulated_api, clock, hours)
    page = (await simulated_api.get("/deployments", **PROJECT_AND_ENVIRONMENT)).json
    assert (len(page["items"]), page["totalCount"]) == (20, 101)
    assert len(await list_ids(simulated_api, limit=100)) == 100


@pytest.mark.parametrize("links", ["bare", "full"])
async def test_next_and_prev_links_lead_through_every_page(
    start_simulator: StartSimulator, clock: ManualClock, links: str
) -> None:
    """Bare links contain the cursor alone, full ones all parameters; both are root-relative."""
    api = await start_simulator(Options(list_links="full" if links == "full" else "bare"))
    ids = [add_deployment(api, clock, hours) for hours in range(5)]
    same = "&projectKey=default&environmentKey=production&limit=2"
    pages = [(await api.get("/deployments", **PROJECT_AND_ENVIRONMENT, limit=2)).json]
    while link := pages[-1]["_links"].get("next"):
        assert link["type"] == "application/json"
        assert link["href"].startswith(f"{BASE}/deployments?")
        assert ("limit=2" in link["href"]) == (links == "full")
        path = link["href"] if links == "full" else link["href"] + same
        pages.append((await api.call(path)).json)
    assert [item["id"] for page in pages for item in page["items"]] == ids
    back = await api.call(pages[-1]["_links"]["prev"]["href"] + (same if links == "bare" else ""))
    assert back.json["items"] == pages[-2]["items"]


async def test_new_deployment_does_not_shift_the_next_page(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """The cursor identifies an item, not an offset."""
    first, second = add_deployment(simulated_api, clock, 2), add_deployment(simulated_api, clock, 3)
    page = (await simulated_api.get("/deployments", **PROJECT_AND_ENVIRONMENT, limit=1)).json
    assert page["items"][0]["id"] == first
    add_deployment(simulated_api, clock, 1)
    cursor = page["_links"]["next"]["href"].partition("after=")[2]
    assert await list_ids(simulated_api, limit=1, after=cursor) == [second]


async def list_pull_requests(api: SimulatedApi, **query: object) -> Any:
    """Return the pull requests of the default project."""
    reply = await api.get("/pull-requests", projectKey="default", from_=0, **query)
    assert reply.status == 200
    return reply.json


async def test_pull_requests_are_listed_newest_merge_first(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """The list covers all deployments of the project, each pull request once, page by page."""
    for hours in (1, 2):
        add_deployment(simulated_api, clock, hours, pull_requests=3)
    whole = await list_pull_requests(simulated_api)
    merges = [item["mergeTime"] for item in whole["items"]]
    assert (whole["totalCount"], len(merges)) == (6, 6)
    assert merges == sorted(merges, reverse=True)
    page = await list_pull_requests(simulated_api, limit=4)
    cursor = page["_links"]["next"]["href"].partition("after=")[2]
    rest = await list_pull_requests(simulated_api, limit=4, after=cursor)
    assert page["items"] + rest["items"] == whole["items"]


async def test_pull_request_list_requires_project(simulated_api: SimulatedApi) -> None:
    """The project is required; the environment only when sorting by lead time."""
    assert (await simulated_api.get("/pull-requests")).json["errors"][0][
        "attribute"
    ] == "projectKey"
    reply = await simulated_api.get("/pull-requests", projectKey="default", sort="leadTime")
    assert reply.json["errors"][0]["attribute"] == "environmentKey"


async def test_pull_requests_sort_by_lead_time(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """Shortest first, or longest first with a minus."""
    add_deployment(simulated_api, clock, 1, pull_requests=5)
    query = {"environmentKey": "production", "expand": "leadTime"}
    for sort, longest_first in (("leadTime", False), ("-leadTime", True)):
        items = (await list_pull_requests(simulated_api, **query, sort=sort))["items"]
        times = [item["leadTime"]["maxTotalLeadTimeMs"] for item in items]
        assert times == sorted(times, reverse=longest_first)


async def test_pull_requests_filter_by_each_parameter(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """The filters are application, environment, status, and text of title or author."""
    add_deployment(simulated_api, clock, 1, pull_requests=2, application="one")
    add_deployment(
        simulated_api, clock, 1, pull_requests=3, environment="staging", application="two"
    )
    assert (await list_pull_requests(simulated_api, applicationKey="one"))["totalCount"] == 2
    assert (await list_pull_requests(simulated_api, environmentKey="staging"))["totalCount"] == 3
    assert (await list_pull_requests(simulated_api, status="open"))["totalCount"] == 0
    author = (await list_pull_requests(simulated_api))["items"][0]["author"]
    found = (await list_pull_requests(simulated_api, query=author.upper()))["items"]
    assert found
    assert {item["author"] for item in found} == {author}
