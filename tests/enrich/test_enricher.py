"""Is the right deployment asked for, whole, within the budget, and never more than that?"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.ticket import Lease, Ticket
from service.enrich.budget import Budget
from service.enrich.enricher import Caps, Enricher
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.verdict import Found, Later, Never, Patience
from service.operate.listening import listen
from service.simulate.answers import Planted
from service.simulate.faults import Rates
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from service.store.keys import Keys

NAME = "a0eebc99-9c0b-4ef8-bb6d-000000000001"
LIST = "engineering-insights/deployments"
PULLS = "engineering-insights/pull-requests"
NEXT = {"next": {"href": "/api/v2/engineering-insights/pull-requests?after=p0"}}


def lease(**ticket: Any) -> Lease:
    """Make the lease of a ticket, new and not yet tried."""
    now = int(time.time() * 1000)
    written = Ticket(source="native", delivery="d", outcome="succeeded", **ticket)
    job = f"id:{ticket.get('deployment_id')}"
    return Lease(
        job=job, fence=1.5, generation=1, crashes=0, queued_at=now, now=now, ticket=written
    )


BY_ID = {"deployment_id": NAME}
BY_PARTS = {
    "project": "default",
    "environment": "production",
    "application": "billing-service",
    "version": "a90a8a2",
}


class Desk:
    """An enricher before a simulated LaunchDarkly."""

    def __init__(self, simulator: Simulator, enricher: Enricher) -> None:
        self.simulator = simulator
        self.enricher = enricher

    def plant(self, suffix: str, told: object, status: int = 200) -> None:
        """Have a path answered with this."""
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.simulator.plant_answer(suffix, Planted(status=status, body=body))

    def plant_first_page(self) -> None:
        """Have the deployment say that there is more."""
        pulls = {"totalCount": 3, "items": [{"id": "p0"}], "_links": NEXT}
        self.plant(NAME, {"id": NAME, "pullRequests": pulls})


@pytest.fixture
async def desk(budget: Budget, redis: Redis, keys: Keys) -> AsyncIterator[Desk]:
    """Give a desk whose deployment may cost five pages."""
    simulator = Simulator(Options(), clock=time.time, chance=random.Random(1))
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(listen(simulator.app(), host="127.0.0.1", port=0))
        session = await stack.enter_async_context(open_session("api-simulator", connections=4))
        enricher = Enricher(
            LaunchDarkly(session, origin=origin, max_bytes=1_000_000, clock=time.time),
            budget,
            patience=Patience(),
            caps=Caps(pages=5),
            chance=lambda: 0.5,
        )
        yield Desk(simulator, enricher)
    await redis.delete(keys.calls, keys.callers)


async def test_an_id_costs_one_call(desk: Desk) -> None:
    """The answer is passed on as bytes."""
    body = b'{"id": "' + NAME.encode() + b'", "n": 1.50}'
    desk.plant(NAME, body)
    found = await desk.enricher.enrich(lease(**BY_ID))
    assert isinstance(found, Found)
    assert (found.body, found.calls) == (body, 1)


async def test_another_deployment_than_asked_for_is_not_ours(desk: Desk) -> None:
    """A mixed-up answer may heal; it is never published."""
    desk.plant(NAME, {"id": "a0eebc99-9c0b-4ef8-bb6d-000000000002"})
    verdict = await desk.enricher.enrich(lease(**BY_ID))
    assert isinstance(verdict, Later)
    assert verdict.reason == "garbled"


async def test_the_list_is_followed_to_the_version_sought(desk: Desk) -> None:
    """A busy application's page is not the whole list; the filter goes with every page."""
    sought = desk.simulator.add_deployment(
        NewDeployment(version="a90a8a2", started_at=int(time.time() * 1000) - 600_000)
    )
    for number in range(250):
        desk.simulator.add_deployment(NewDeployment(version=f"v{number}", pull_requests=0))
    found = await desk.enricher.enrich(lease(**BY_PARTS))
    assert isinstance(found, Found)
    assert (found.deployment.id, found.calls) == (sought, 3)  # the third page held it whole


async def test_what_is_not_listed_yet_is_waited_for(desk: Desk) -> None:
    """Until its deadline."""
    verdict = await desk.enricher.enrich(lease(**BY_PARTS))
    assert isinstance(verdict, Later)
    old = replace(lease(**BY_PARTS), queued_at=0)
    verdict = await desk.enricher.enrich(old)
    assert isinstance(verdict, Never)
    assert verdict.reason == "not_found"


@pytest.mark.parametrize(
    ("told", "status", "reason"),
    [
        ({"items": 7}, 200, "undecodable"),
        (b"<html>", 200, "garbled"),
        ({"message": "bad"}, 400, "rejected"),
        ({}, 503, "HTTP 503"),
    ],
)
async def test_a_list_that_cannot_be_had_is_judged_like_any_answer(
    desk: Desk, told: object, status: int, reason: str
) -> None:
    """Resolving has no rules of its own."""
    desk.plant(LIST, told, status)
    verdict = await desk.enricher.enrich(lease(**BY_PARTS))
    assert isinstance(verdict, Later | Never)
    assert verdict.reason == reason


async def test_a_list_that_leads_elsewhere_ends_there(desk: Desk) -> None:
    """The token is not sent to another host; what was listed until then counts."""
    desk.simulator.options = Options(faults=Rates(foreign_link=1.0))
    for number in range(150):
        desk.simulator.add_deployment(NewDeployment(version=f"v{number}"))
    verdict = await desk.enricher.enrich(lease(**BY_PARTS))
    assert isinstance(verdict, Later)


async def test_a_page_that_is_refused_leaves_the_record_incomplete(desk: Desk) -> None:
    """400 or 404 for the documented link is not the deployment's fault."""
    for status in (400, 404):
        desk.plant_first_page()
        desk.plant(PULLS, {}, status)
        found = await desk.enricher.enrich(lease(**BY_ID))
        assert isinstance(found, Found)
        assert found.stopped == "a page was refused: rejected"


async def test_a_page_in_trouble_postpones_the_whole(desk: Desk) -> None:
    """A record must not be published short because of a passing 503."""
    desk.plant_first_page()
    desk.plant(PULLS, {}, 503)
    verdict = await desk.enricher.enrich(lease(**BY_ID))
    assert isinstance(verdict, Later)
    assert (verdict.reason, verdict.counts) == ("HTTP 503", True)


async def test_pages_beyond_the_cap_are_not_fetched(desk: Desk) -> None:
    """A deployment costs at most so many calls; the record says that it was cut."""
    desk.simulator.options = Options(nested_page_size=1)
    name = desk.simulator.add_deployment(NewDeployment(version="big", pull_requests=900))
    found = await desk.enricher.enrich(lease(deployment_id=name, project="default"))
    assert isinstance(found, Found)
    assert (found.stopped, found.calls) == ("page cap reached", 5)


async def test_a_rate_limit_between_pages_throws_nothing_away(desk: Desk) -> None:
    """The page is asked for again when the window opens; the first answer is kept."""
    desk.plant_first_page()
    desk.plant(PULLS, {}, 429)
    enriching = asyncio.create_task(desk.enricher.enrich(lease(**BY_ID)))
    async with asyncio.timeout(10):
        while not desk.simulator.stats.statuses.get("429"):
            await asyncio.sleep(0.01)
    desk.plant(PULLS, {"items": [{"id": "p1"}, {"id": "p2"}]})
    async with asyncio.timeout(20):
        found = await enriching
    assert isinstance(found, Found)
    pulls = json.loads(found.body)["pullRequests"]["items"]
    assert [pull["id"] for pull in pulls] == ["p0", "p1", "p2"]


async def test_pages_wait_for_the_budget(desk: Desk) -> None:
    """With two calls in a window, six pages take three windows and no refusal."""
    limits = Limits(global_limit=2, window_ms=300)
    desk.simulator.options = Options(nested_page_size=1, quota=limits)
    name = desk.simulator.add_deployment(NewDeployment(version="big", pull_requests=3))
    found = await desk.enricher.enrich(lease(deployment_id=name, project="default"))
    assert isinstance(found, Found)
    assert desk.simulator.stats.rate_limited <= 1


async def test_an_oversized_answer_is_not_read(desk: Desk) -> None:
    """Whether it says its length or not."""
    desk.plant(NAME, b'{"id":"' + b"x" * 2_000_000 + b'"}')
    verdict = await desk.enricher.enrich(lease(**BY_ID))
    assert isinstance(verdict, Never)
    assert verdict.reason == "too_large"


async def test_nobody_there_is_silence(budget: Budget) -> None:
    """A refused connection is waited out like an outage."""
    async with open_session("t", connections=1) as session:
        nobody = LaunchDarkly(session, origin="http://127.0.0.1:1", max_bytes=9, clock=time.time)
        enricher = Enricher(nobody, budget, patience=Patience(), caps=Caps(), chance=lambda: 0.5)
        verdict = await enricher.enrich(lease(**BY_ID))
    assert isinstance(verdict, Later)
    assert verdict.reason.startswith("no answer: ")


def test_an_accident_is_judged_by_the_tickets_history(desk: Desk) -> None:
    """The error's name is kept for the person who will look."""
    verdict = desk.enricher.judge_accident(lease(**BY_ID, attempts=20), KeyError("bug"))
    assert verdict == Never(reason="internal_error", detail="KeyError: 'bug'")
