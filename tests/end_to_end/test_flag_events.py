"""Tests of flag events, from LaunchDarkly's list to a revision of the record."""

import time
from typing import Any

import pytest

from service.backlog.ticket import RefreshState, new_ticket_bytes
from service.simulate.api import Route
from service.simulate.flag_events import NewFlagEvent
from service.simulate.options import Options, Shape
from service.simulate.responses import Canned
from service.simulate.world import NewDeployment
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness
from tests.factories import deployment_id, make_ticket

Json = dict[str, Any]

MINUTE_MS = 60_000
PATH = "engineering-insights/flag-events"
EMAIL = "grace.hopper@secret-team.example"
FLAGS = Shape(flag_references=(1, 1), pull_requests=(1, 1))


class FlagEventStory:
    """One service, the deployments that it publishes, and what happens to their flags."""

    def __init__(self, service: ServiceHarness, event: Json, eventually: Eventually) -> None:
        self.service = service
        self._event = event
        self._eventually = eventually
        service.simulator.options = Options(shape=FLAGS, flag_impact_after_ms=0)

    async def open(self, *, refresh_after: str = "0.3 0.8 1.5 3 6 12", **changes: Any) -> None:
        """Start the service with flag events."""
        await self.service.open(refresh_after=refresh_after, flag_events="on", **changes)

    async def publish(self, application: str = "billing-service") -> Json:
        """Publish a deployment that ended half an hour ago; return the data of its record."""
        version = f"1.{time.monotonic_ns()}"
        name = self.service.simulator.add_deployment(
            NewDeployment(
                application=application,
                version=version,
                started_at=int(time.time() * 1000) - 70 * MINUTE_MS,
            )
        )
        event = {**self._event, "applicationKey": application, "deploymentId": name}
        assert (await self.service.post(event))[0] == 202
        return (await self.wait_for(name, 1))[0]

    async def wait_for(self, name: str, count: int) -> list[Json]:
        """Wait for this many records of a deployment; return their data."""
        found: list[Json] = []

        async def has_records() -> bool:
            records = await self.service.records()
            found[:] = [record["data"] for record in records if record["subject"] == name]
            return len(found) >= count

        await self._eventually(has_records)
        return found

    async def wait_for_calls(self, count: int) -> None:
        """Wait until the simulator received this many calls for flag events."""

        async def has_calls() -> bool:
            return self.calls >= count

        await self._eventually(has_calls)

    @property
    def calls(self) -> int:
        """The calls for flag events that the simulator received."""
        return self.service.simulator.stats.calls.get(Route.LIST_FLAG_EVENTS, 0)

    def turn_on(self, data: Json, *, minutes_after: float = 5, **fields: Any) -> int:
        """Turn on the flag of a published deployment after its end; return the time (ms)."""
        event_time = int(data["deployment"]["endedAt"] + minutes_after * MINUTE_MS)
        self.service.simulator.add_flag_event(
            NewFlagEvent(
                flag_key=data["summary"]["flags"][0]["key"],
                event_time=event_time,
                member_email=EMAIL,
                description=f"{EMAIL} turned on targeting",
                **fields,
            )
        )
        return event_time


@pytest.fixture
def story(service: ServiceHarness, event: Json, eventually: Eventually) -> FlagEventStory:
    """Return the story of one test."""
    return FlagEventStory(service, event, eventually)


async def test_flag_turned_on_after_the_deployment_is_in_the_next_revision(
    story: FlagEventStory,
) -> None:
    """First revisions say nothing of flags. Events before the end or elsewhere are left out."""
    await story.open()
    first = await story.publish()
    assert first["flagEvents"] is None
    story.turn_on(first, minutes_after=-1)
    story.turn_on(first, environment_key="staging")
    event_time = story.turn_on(first)
    _, second = await story.wait_for(first["deployment"]["id"], 2)
    (event,) = second["flagEvents"]
    assert event["flagKey"] == first["summary"]["flags"][0]["key"]
    assert (event["eventType"], event["eventTime"]) == ("enabled_targeting", event_time)
    assert event["impact"]["reason"] == "evaluations"
    assert event["auditLogEntryId"]
    assert second["completeness"]["flagEvents"] == {"complete": True}
    assert second["deployment"] == first["deployment"]


async def test_waiting_impact_makes_a_revision_when_it_is_computed(
    story: FlagEventStory,
) -> None:
    """The same event says more at a later refresh."""
    service = story.service
    service.simulator.options = Options(shape=FLAGS, flag_impact_after_ms=10**12)
    await story.open()
    first = await story.publish()
    story.turn_on(first)
    _, second = await story.wait_for(first["deployment"]["id"], 2)
    assert second["flagEvents"][0]["impact"] == {"reason": "waiting"}
    service.simulator.options = Options(shape=FLAGS, flag_impact_after_ms=0)
    _, _, third = await story.wait_for(first["deployment"]["id"], 3)
    assert third["flagEvents"][0]["impact"]["reason"] == "evaluations"


async def test_waiting_impact_of_the_last_refresh_is_asked_for_once_more(
    story: FlagEventStory, eventually: Eventually
) -> None:
    """The record says so; that refresh plans no other one."""
    await story.open(refresh_after="0.5")
    first = await story.publish()
    name = first["deployment"]["id"]
    story.turn_on(first, impact_after_ms=10**12)
    _, second = await story.wait_for(name, 2)
    assert second["refreshes"]["until"] > int(time.time() * 1000) + 10 * MINUTE_MS
    service = story.service
    assert await service.redis.zcard(service.keys.refreshes) == 1
    await service.redis.zadd(service.keys.refreshes, {name: 1})
    await service.redis.lpush(service.keys.wakeup, "1")
    await service.redis.pexpire(service.keys.wakeup, 60_000)

    async def is_over() -> bool:
        return bool(service.log_events("deployment_unchanged"))

    await eventually(is_over)
    (line,) = service.log_events("deployment_unchanged")
    assert line["refresh"] == 2
    assert await service.redis.zcard(service.keys.refreshes) == 0


@pytest.mark.parametrize("members", ["off", "on"])
async def test_address_of_a_member_is_published_only_if_asked_for(
    story: FlagEventStory, members: str
) -> None:
    """Without, it is nowhere: not in Redis, not in the log, not in the metrics."""
    await story.open(flag_event_members=members)
    first = await story.publish()
    story.turn_on(first)
    _, second = await story.wait_for(first["deployment"]["id"], 2)
    (event,) = second["flagEvents"]
    service = story.service
    assert EMAIL not in service.log_output.getvalue()
    async with service.session.get(f"{service.receiver_url}/metrics") as response:
        assert EMAIL not in await response.text()
    if members == "on":
        assert event["memberEmail"] == EMAIL
        return
    assert "memberEmail" not in event
    assert event["description"] == "(member) turned on targeting"
    pattern = f"{{{service.keys.namespace}}}:*"
    async for key in service.redis.scan_iter(match=pattern, count=1000):
        dumped: Any = await service.redis.dump(key)
        assert EMAIL.encode() not in (dumped or b"")


async def test_forbidden_flag_events_do_not_harm_the_refresh(story: FlagEventStory) -> None:
    """A changed deployment makes its revision, which says why flag events are missing."""
    story.service.simulator.set_response(PATH, Canned(status=403, body=b'{"code":"forbidden"}'))
    story.service.simulator.options = Options(
        shape=Shape(flag_references=(1, 1), pull_requests=(3, 3)), grow_every_ms=200
    )
    await story.open()
    first = await story.publish()
    name = first["deployment"]["id"]
    _, second, *_ = await story.wait_for(name, 2)
    assert second["flagEvents"] is None
    assert second["completeness"]["flagEvents"]["complete"] is False
    assert "may not read flag events" in second["completeness"]["flagEvents"]["reason"]
    assert second["completeness"]["complete"]
    service = story.service
    (line,) = service.log_events("flag_events_unreadable")
    assert line["scope"] == "default/production"
    assert service.log_events("refresh_skipped") == []
    assert not await service.redis.exists(service.keys.forbidden)
    async with service.session.get(f"{service.receiver_url}/readyz") as response:
        assert "warnings" not in await response.json()


@pytest.mark.usefixtures("quick_repeats")
async def test_fault_that_passes_makes_no_revision_and_loses_no_event(
    story: FlagEventStory,
) -> None:
    """While the list fails, the last revision stands; then the event makes the next one."""
    await story.open()
    first = await story.publish()
    name = first["deployment"]["id"]
    story.service.simulator.set_response(PATH, Canned(status=500, body=b"{}"), times=4)
    story.turn_on(first)
    _, second = await story.wait_for(name, 2)
    assert len(second["flagEvents"]) == 1
    assert second["completeness"]["flagEvents"] == {"complete": True}


async def test_switched_off_costs_no_call(story: FlagEventStory, eventually: Eventually) -> None:
    """By default nothing asks for flag events."""
    await story.service.open(refresh_after="0.1 0.3")
    first = await story.publish()
    service = story.service

    async def is_over() -> bool:
        return not await service.redis.exists(service.keys.refreshes, service.keys.backlog)

    await eventually(is_over)
    assert story.calls == 0
    (data,) = await story.wait_for(first["deployment"]["id"], 1)
    assert data["flagEvents"] is None


async def test_refreshes_of_two_applications_due_together_share_the_list(
    story: FlagEventStory, eventually: Eventually
) -> None:
    """Two workers refresh sixty deployments of one environment: a list for each worker."""
    service = story.service
    await story.open(workers=2, refresh_after="900 1000000")
    now = int(time.time() * 1000)
    tickets: dict[Any, Any] = {}
    for number in range(60):
        name = deployment_id(number)
        raw = {
            "id": name,
            "applicationKey": ("checkout", "search")[number % 2],
            "environmentKey": "production",
            "status": "finished",
            "startedAt": now - 60 * MINUTE_MS,
            "endedAt": now - 50 * MINUTE_MS,
            "pullRequests": {"totalCount": 0, "items": []},
            "flagReferences": {
                "totalCount": 1,
                "items": [{"projectKey": "default", "flagKey": "dark-mode"}],
            },
        }
        service.simulator.add_raw_deployment(raw)
        ticket = make_ticket(
            project="default",
            environment="production",
            application=raw["applicationKey"],
            refresh=RefreshState(0, now - 40 * MINUTE_MS),
        )
        tickets[name] = new_ticket_bytes(ticket, job=f"id:{name}", queued_at=now - 41 * MINUTE_MS)
    service.simulator.add_flag_event(
        NewFlagEvent(flag_key="dark-mode", event_time=now - 20 * MINUTE_MS)
    )
    await service.redis.hset(service.keys.refresh_tickets, mapping=tickets)
    await service.redis.zadd(service.keys.refreshes, dict.fromkeys(tickets, 1))
    await service.redis.lpush(service.keys.wakeup, "1", "1")
    for key in (service.keys.refresh_tickets, service.keys.refreshes, service.keys.wakeup):
        await service.redis.pexpire(key, 60_000)

    async def are_refreshed() -> bool:
        return len(await service.records()) == len(tickets)

    await eventually(are_refreshed)
    for record in await service.records():
        assert [event["flagKey"] for event in record["data"]["flagEvents"]] == ["dark-mode"]
    assert 1 <= story.calls <= 2
