"""Tests of flag events: the list call with its parameters, and the control call that adds one."""

from typing import Any

import pytest

from service.simulate.flag_events import NewFlagEvent
from service.simulate.options import Options, Shape

from .conftest import BASE, HttpReply, ManualClock, SimulatedApi, StartSimulator

SCOPE = {"projectKey": "default", "environmentKey": "production"}
CONTROL = "/simulator/flag-events"
MINUTE = 60_000
REQUIRED = {
    *("id", "projectId", "projectKey", "flagKey"),
    *("eventType", "eventTime", "description", "impact"),
}


async def add(api: SimulatedApi, flag_key: str = "dark-mode", **fields: Any) -> HttpReply:
    """Add a flag event by the control call."""
    return await api.call(CONTROL, method="POST", headers={}, json={"flagKey": flag_key} | fields)


async def list_events(api: SimulatedApi, **query: object) -> list[dict[str, Any]]:
    """Return the listed events of the project and environment that most tests use."""
    reply = await api.get("/flag-events", **SCOPE | query)
    assert reply.status == 200, reply.json
    items: list[dict[str, Any]] = reply.json["items"]
    return items


async def list_flags(api: SimulatedApi, **query: object) -> list[str]:
    """Return the flags of the listed events."""
    return [event["flagKey"] for event in await list_events(api, **query)]


async def test_added_event_is_listed_with_the_documented_fields(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """The control call returns the id; what it does not name is generated."""
    added = await add(simulated_api)
    assert added.status == 201
    (event,) = await list_events(simulated_api)
    assert event.keys() >= REQUIRED
    assert event["id"] == added.json["id"]
    assert (event["flagKey"], event["eventTime"]) == ("dark-mode", clock.ms)
    assert event["eventType"] == "enabled_targeting"
    assert event["member"]["email"] == "test@launchdarkly.com"
    assert "experiments" not in event
    (expanded,) = await list_events(simulated_api, expand="experiments")
    assert expanded["experiments"] == {"totalCount": 0, "items": []}


async def test_impact_waits_and_is_computed_later(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """Ten minutes after the event its impact is known, and stays the same."""
    await add(simulated_api)
    (event,) = await list_events(simulated_api)
    assert event["impact"] == {"reason": "waiting"}
    assert await list_events(simulated_api, impactSize="large") == []
    clock.now += 600
    (event,) = await list_events(simulated_api)
    impact = event["impact"]
    assert impact["reason"] == "evaluations"
    assert 0 < impact["percentage"] <= 100
    assert await list_events(simulated_api) == [event]
    assert await list_events(simulated_api, impactSize=impact["size"]) == [event]
    sizes = {"small", "medium", "large"} - {impact["size"]}
    assert [await list_events(simulated_api, impactSize=size) for size in sizes] == [[], []]


async def test_control_call_sets_time_scope_member_and_impact(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """Each field of the event may be named."""
    await add(
        simulated_api,
        projectKey="other",
        environmentKey="staging",
        eventType="disabled_targeting",
        eventTime=clock.ms - MINUTE,
        description="Turned off targeting",
        memberEmail="grace.hopper@example.com",
        impactAfterMs=0,
        isGlobal=True,
    )
    assert await list_events(simulated_api) == []
    scope = {"projectKey": "other", "environmentKey": "staging"}
    (event,) = await list_events(simulated_api, **scope)
    assert event["eventType"] == "disabled_targeting"
    assert event["eventTime"] == clock.ms - MINUTE
    assert event["description"] == "Turned off targeting"
    assert event["member"]["firstName"] == "Grace"
    assert event["impact"]["reason"] == "global"
    assert await list_events(simulated_api, **scope, **{"global": "exclude"}) == []


@pytest.mark.parametrize(
    "fields", [{"flagKey": ""}, {"flag": "x"}, {"eventTime": "now"}, {"impactAfterMs": -1}]
)
async def test_invalid_event_is_refused(
    simulated_api: SimulatedApi, fields: dict[str, Any]
) -> None:
    """The message names what is wrong, and nothing is added."""
    reply = await add(simulated_api, **fields)
    assert reply.status == 400
    assert reply.json["message"]
    assert await list_events(simulated_api) == []


async def test_list_is_bounded_by_time_flag_and_application(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """The default range is seven days; `query` is a part of the flag key."""
    day = 24 * 60 * MINUTE
    for days_ago, flag, applications in (
        (8, "old", []),
        (2, "dark-mode", ["checkout"]),
        (1, "fast-search", ["search"]),
    ):
        event_time = clock.ms - days_ago * day
        await add(simulated_api, flag, eventTime=event_time, applicationKeys=applications)
    assert await list_flags(simulated_api) == ["fast-search", "dark-mode"]
    assert await list_flags(simulated_api, from_=clock.ms - 9 * day, to=clock.ms - 3 * day) == [
        "old"
    ]
    assert await list_flags(simulated_api, query="DARK") == ["dark-mode"]
    assert await list_flags(simulated_api, applicationKey="checkout,mobile") == ["dark-mode"]


async def test_missing_scope_is_named(simulated_api: SimulatedApi) -> None:
    """Project and environment are required."""
    reply = await simulated_api.get("/flag-events", projectKey="default")
    assert reply.status == 400
    assert [error["attribute"] for error in reply.json["errors"]] == ["environmentKey"]


async def test_next_link_carries_only_the_cursor(
    simulated_api: SimulatedApi, clock: ManualClock
) -> None:
    """A page has 20 events, at most 100; the caller adds the other parameters to the link."""
    for number in range(120):
        simulated_api.simulator.add_flag_event(
            NewFlagEvent(flag_key=f"flag-{number}", event_time=clock.ms - number)
        )
    assert len(await list_events(simulated_api)) == 20
    first = (await simulated_api.get("/flag-events", **SCOPE, limit=100)).json
    assert (first["totalCount"], len(first["items"])) == (120, 100)
    path, _, cursor = first["_links"]["next"]["href"].partition("?after=")
    assert path == f"{BASE}/flag-events"
    second = (await simulated_api.get("/flag-events", **SCOPE, limit=100, after=cursor)).json
    flags = [event["flagKey"] for event in (*first["items"], *second["items"])]
    assert flags == [f"flag-{number}" for number in range(120)]
    assert "next" not in second["_links"]


async def test_event_is_listed_when_it_is_visible(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """As with deployments, a change is listed later; a new field may appear."""
    options = Options(visible_after_ms=1000, shape=Shape(novelties=True))
    api = await start_simulator(options)
    await add(api)
    assert await list_events(api) == []
    clock.now += 1
    (event,) = await list_events(api)
    assert "rollbackRisk" in event


async def test_list_of_a_forbidden_project_is_forbidden(start_simulator: StartSimulator) -> None:
    """The token may not read it."""
    api = await start_simulator(Options(forbidden_projects=("default/production",)))
    reply = await api.get("/flag-events", **SCOPE)
    assert (reply.status, reply.json["code"]) == (403, "forbidden")


async def test_oldest_event_is_forgotten(simulated_api: SimulatedApi, clock: ManualClock) -> None:
    """The simulator keeps the last 20,000 events."""
    log = simulated_api.simulator._flag_events
    for number in range(20_001):
        log.add(NewFlagEvent(flag_key=f"flag-{number}"), clock.ms)
    assert await list_events(simulated_api, query="flag-0") == []
    assert len(await list_events(simulated_api, query="flag-20000")) == 1
