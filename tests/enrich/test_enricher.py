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
from service.enrich.client import LaunchDarkly, open_session
from service.enrich.enricher import Enricher, EnrichLimits
from service.enrich.verdict import Fail, Found, Retry, RetryPolicy
from service.metrics.http import serve_app
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.rates import Rates
from service.simulate.responses import Canned
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from service.store.keys import Keys

DEPLOYMENT_ID = "a0eebc99-9c0b-4ef8-bb6d-000000000001"
LIST = "engineering-insights/deployments"
PULLS = "engineering-insights/pull-requests"
NEXT = {"next": {"href": "/api/v2/engineering-insights/pull-requests?after=p0"}}


def make_lease(**ticket_fields: Any) -> Lease:
    """Make the lease of a ticket, new and not yet tried."""
    now = int(time.time() * 1000)
    made_ticket = Ticket(source="native", delivery="d", outcome="succeeded", **ticket_fields)
    job = f"id:{ticket_fields.get('deployment_id')}"
    return Lease(
        job=job, fence=1.5, generation=1, crashes=0, queued_at=now, now=now, ticket=made_ticket
    )


BY_ID = {"deployment_id": DEPLOYMENT_ID}
BY_PARTS = {
    "project": "default",
    "environment": "production",
    "application": "billing-service",
    "version": "a90a8a2",
}


class EnricherHarness:
    """An enricher before a simulated LaunchDarkly."""

    def __init__(self, simulator: Simulator, enricher: Enricher) -> None:
        self.simulator = simulator
        self.enricher = enricher

    def set_response(self, suffix: str, content: object, status: int = 200) -> None:
        """Have a path answered with this."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.simulator.set_response(suffix, Canned(status=status, body=body))

    def set_first_page(self) -> None:
        """Have the deployment say that there is more."""
        pulls = {"totalCount": 3, "items": [{"id": "p0"}], "_links": NEXT}
        self.set_response(DEPLOYMENT_ID, {"id": DEPLOYMENT_ID, "pullRequests": pulls})


@pytest.fixture
async def enricher_harness(
    budget: Budget, redis: Redis, keys: Keys
) -> AsyncIterator[EnricherHarness]:
    """Give a desk whose deployment may cost five pages."""
    simulator = Simulator(Options(), clock=time.time, rng=random.Random(1))
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(
            serve_app(simulator.app(), host="127.0.0.1", port=0)
        )
        session = await stack.enter_async_context(open_session("api-simulator", max_connections=4))
        enricher = Enricher(
            LaunchDarkly(session, origin=origin, max_bytes=1_000_000, clock=time.time),
            budget,
            retry_policy=RetryPolicy(),
            limits=EnrichLimits(max_calls=5),
            rng=lambda: 0.5,
        )
        yield EnricherHarness(simulator, enricher)
    await redis.delete(keys.budget_calls, keys.budget_waiting)


async def test_an_id_costs_one_call(enricher_harness: EnricherHarness) -> None:
    """The answer is passed on as bytes."""
    body = b'{"id": "' + DEPLOYMENT_ID.encode() + b'", "n": 1.50}'
    enricher_harness.set_response(DEPLOYMENT_ID, body)
    found = await enricher_harness.enricher.enrich(make_lease(**BY_ID))
    assert isinstance(found, Found)
    assert (found.body, found.calls) == (body, 1)


async def test_another_deployment_than_asked_for_is_not_ours(
    enricher_harness: EnricherHarness,
) -> None:
    """A mixed-up answer may heal; it is never published."""
    enricher_harness.set_response(DEPLOYMENT_ID, {"id": "a0eebc99-9c0b-4ef8-bb6d-000000000002"})
    verdict = await enricher_harness.enricher.enrich(make_lease(**BY_ID))
    assert isinstance(verdict, Retry)
    assert verdict.reason == "garbled"


async def test_the_list_is_followed_to_the_version_sought(
    enricher_harness: EnricherHarness,
) -> None:
    """A busy application's page is not the whole list; the filter goes with every page."""
    sought = enricher_harness.simulator.add_deployment(
        NewDeployment(version="a90a8a2", started_at=int(time.time() * 1000) - 600_000)
    )
    for number in range(250):
        enricher_harness.simulator.add_deployment(
            NewDeployment(version=f"v{number}", pull_requests=0)
        )
    found = await enricher_harness.enricher.enrich(make_lease(**BY_PARTS))
    assert isinstance(found, Found)
    assert (found.deployment.id, found.calls) == (sought, 3)  # the third page held it whole


async def test_what_is_not_listed_yet_is_waited_for(enricher_harness: EnricherHarness) -> None:
    """Until its deadline."""
    verdict = await enricher_harness.enricher.enrich(make_lease(**BY_PARTS))
    assert isinstance(verdict, Retry)
    old = replace(make_lease(**BY_PARTS), queued_at=0)
    verdict = await enricher_harness.enricher.enrich(old)
    assert isinstance(verdict, Fail)
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
    enricher_harness: EnricherHarness, told: object, status: int, reason: str
) -> None:
    """Resolving has no rules of its own."""
    enricher_harness.set_response(LIST, told, status)
    verdict = await enricher_harness.enricher.enrich(make_lease(**BY_PARTS))
    assert isinstance(verdict, Retry | Fail)
    assert verdict.reason == reason


async def test_a_list_that_leads_elsewhere_ends_there(enricher_harness: EnricherHarness) -> None:
    """The token is not sent to another host; what was listed until then counts."""
    enricher_harness.simulator.options = Options(faults=Rates(foreign_link=1.0))
    for number in range(150):
        enricher_harness.simulator.add_deployment(NewDeployment(version=f"v{number}"))
    verdict = await enricher_harness.enricher.enrich(make_lease(**BY_PARTS))
    assert isinstance(verdict, Retry)


async def test_a_page_that_is_refused_leaves_the_record_incomplete(
    enricher_harness: EnricherHarness,
) -> None:
    """400 or 404 for the documented link is not the deployment's fault."""
    for status in (400, 404):
        enricher_harness.set_first_page()
        enricher_harness.set_response(PULLS, {}, status)
        found = await enricher_harness.enricher.enrich(make_lease(**BY_ID))
        assert isinstance(found, Found)
        assert found.stop_reason == "a page was refused: rejected"


async def test_a_page_in_trouble_postpones_the_whole(enricher_harness: EnricherHarness) -> None:
    """A record must not be published short because of a passing 503."""
    enricher_harness.set_first_page()
    enricher_harness.set_response(PULLS, {}, 503)
    verdict = await enricher_harness.enricher.enrich(make_lease(**BY_ID))
    assert isinstance(verdict, Retry)
    assert (verdict.reason, verdict.counts_as_attempt) == ("HTTP 503", True)


async def test_pages_beyond_the_cap_are_not_fetched(enricher_harness: EnricherHarness) -> None:
    """A deployment costs at most so many calls; the record says that it was cut."""
    enricher_harness.simulator.options = Options(nested_page_size=1)
    name = enricher_harness.simulator.add_deployment(
        NewDeployment(version="big", pull_requests=900)
    )
    found = await enricher_harness.enricher.enrich(
        make_lease(deployment_id=name, project="default")
    )
    assert isinstance(found, Found)
    assert (found.stop_reason, found.calls) == ("page cap reached", 5)


async def test_a_rate_limit_between_pages_throws_nothing_away(
    enricher_harness: EnricherHarness,
) -> None:
    """The page is asked for again when the window opens; the first answer is kept."""
    enricher_harness.set_first_page()
    enricher_harness.set_response(PULLS, {}, 429)
    enriching = asyncio.create_task(enricher_harness.enricher.enrich(make_lease(**BY_ID)))
    async with asyncio.timeout(10):
        while not enricher_harness.simulator.stats.statuses.get("429"):
            await asyncio.sleep(0.01)
    enricher_harness.set_response(PULLS, {"items": [{"id": "p1"}, {"id": "p2"}]})
    async with asyncio.timeout(20):
        found = await enriching
    assert isinstance(found, Found)
    pulls = json.loads(found.body)["pullRequests"]["items"]
    assert [pull["id"] for pull in pulls] == ["p0", "p1", "p2"]


async def test_pages_wait_for_the_budget(enricher_harness: EnricherHarness) -> None:
    """With two calls in a window, six pages take three windows and no refusal."""
    limits = Limits(global_limit=2, window_ms=300)
    enricher_harness.simulator.options = Options(nested_page_size=1, quota=limits)
    name = enricher_harness.simulator.add_deployment(NewDeployment(version="big", pull_requests=3))
    found = await enricher_harness.enricher.enrich(
        make_lease(deployment_id=name, project="default")
    )
    assert isinstance(found, Found)
    assert enricher_harness.simulator.stats.rate_limited <= 1


async def test_an_oversized_answer_is_not_read(enricher_harness: EnricherHarness) -> None:
    """Whether it says its length or not."""
    enricher_harness.set_response(DEPLOYMENT_ID, b'{"id":"' + b"x" * 2_000_000 + b'"}')
    verdict = await enricher_harness.enricher.enrich(make_lease(**BY_ID))
    assert isinstance(verdict, Fail)
    assert verdict.reason == "too_large"


async def test_nobody_there_is_silence(budget: Budget) -> None:
    """A refused connection is waited out like an outage."""
    async with open_session("t", max_connections=1) as session:
        nobody = LaunchDarkly(session, origin="http://127.0.0.1:1", max_bytes=9, clock=time.time)
        enricher = Enricher(
            nobody, budget, retry_policy=RetryPolicy(), limits=EnrichLimits(), rng=lambda: 0.5
        )
        verdict = await enricher.enrich(make_lease(**BY_ID))
    assert isinstance(verdict, Retry)
    assert verdict.reason.startswith("no answer: ")


def test_an_accident_is_judged_by_the_tickets_history(enricher_harness: EnricherHarness) -> None:
    """The error's name is kept for the person who will look."""
    verdict = enricher_harness.enricher.on_internal_error(
        make_lease(**BY_ID, attempts=20), KeyError("bug")
    )
    assert verdict == Fail(reason="internal_error", detail="KeyError: 'bug'")
