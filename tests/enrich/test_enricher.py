"""Tests of the enricher: the right deployment, with every page, within the budget."""

import asyncio
import json
import time

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.ticket import RefreshState
from service.enrich.budget import Budget
from service.enrich.client import LaunchDarkly, open_session
from service.enrich.enricher import Enricher, EnrichLimits
from service.enrich.verdict import Fail, Found, RepeatPolicy, Retry, RetryPolicy
from service.simulate.options import Options, Shape
from service.simulate.quota import Limits
from service.simulate.rates import Rates
from service.simulate.world import NewDeployment
from service.store.keys import Keys
from tests.enrich.enricher_harness import LIST_PATH, EnricherHarness, make_current_lease
from tests.factories import deployment_id

DEPLOYMENT_ID = deployment_id()
PULL_REQUESTS_PATH = "engineering-insights/pull-requests"
NEXT = {"next": {"href": "/api/v2/engineering-insights/pull-requests?after=p0"}}


BY_ID = {"deployment_id": DEPLOYMENT_ID}
BY_VERSION = {
    "project": "default",
    "environment": "production",
    "application": "billing-service",
    "version": "a90a8a2",
}


FAILING_RESPONSES = pytest.mark.parametrize(
    ("content", "status"),
    [
        ({}, 503),
        (b"<html>", 502),
        (b"<html>", 200),
        (b"", 200),
        (b'{"totalCount": 4, "items": [{"id": "', 200),
        (b"", 204),
    ],
)


@pytest.fixture
def enrich_limits() -> EnrichLimits:
    """Return limits under which a deployment may cost five calls."""
    return EnrichLimits(max_calls=5)


def add_deployment_of_two_pages(harness: EnricherHarness) -> str:
    """Add a deployment with a further page of pull requests; return its id."""
    harness.simulator.options = Options(nested_page_size=2, shape=Shape(deployments=(1, 1)))
    return harness.simulator.add_deployment(NewDeployment(version="7.0", pull_requests=3))


def set_first_page(harness: EnricherHarness) -> None:
    """Set the first response to a deployment with a further page of pull requests."""
    pulls = {"totalCount": 3, "items": [{"id": "p0"}], "_links": NEXT}
    harness.set_response(DEPLOYMENT_ID, {"id": DEPLOYMENT_ID, "pullRequests": pulls})


async def test_enrich_by_id_makes_one_call_and_keeps_the_bytes(
    enricher_harness: EnricherHarness,
) -> None:
    """The JSON is returned as LaunchDarkly sent it."""
    body = b'{"id": "' + DEPLOYMENT_ID.encode() + b'", "n": 1.50}'
    enricher_harness.set_response(DEPLOYMENT_ID, body)
    found = await enricher_harness.enrich(make_current_lease(**BY_ID))
    assert isinstance(found, Found)
    assert (found.body, found.calls) == (body, 1)


async def test_enrich_reads_json_with_a_byte_order_mark_and_half_an_emoji(
    enricher_harness: EnricherHarness,
) -> None:
    """The record holds JSON that every reader accepts."""
    body = b'{"id": "' + DEPLOYMENT_ID.encode() + rb'", "title": "fix \ud83d"}'
    enricher_harness.set_response(DEPLOYMENT_ID, b"\xef\xbb\xbf" + body)
    found = await enricher_harness.enrich(make_current_lease(**BY_ID))
    assert isinstance(found, Found)
    assert found.body == body.replace(rb"\ud83d", rb"\ufffd")
    assert enricher_harness.calls == 1


async def test_enrich_when_another_deployment_is_returned_retries(
    enricher_harness: EnricherHarness,
) -> None:
    """A response with another id is never published."""
    enricher_harness.set_response(DEPLOYMENT_ID, {"id": deployment_id(2)})
    verdict = await enricher_harness.enrich(make_current_lease(**BY_ID))
    assert isinstance(verdict, Retry)
    assert verdict.reason == "garbled"


async def test_enrich_by_version_follows_the_list_to_its_page(
    enricher_harness: EnricherHarness,
) -> None:
    """The list of a busy application has several pages, each with the same filter."""
    expected_id = enricher_harness.simulator.add_deployment(
        NewDeployment(version="a90a8a2", started_at=int(time.time() * 1000) - 600_000)
    )
    for number in range(250):
        enricher_harness.simulator.add_deployment(
            NewDeployment(version=f"v{number}", pull_requests=0)
        )
    found = await enricher_harness.enrich(make_current_lease(**BY_VERSION))
    assert isinstance(found, Found)
    assert (found.deployment.id, found.calls) == (expected_id, 3)  # the third page held it


async def test_enrich_of_an_unlisted_version_retries_until_the_timeout(
    enricher_harness: EnricherHarness,
) -> None:
    """After the timeout the ticket fails as not_found."""
    verdict = await enricher_harness.enrich(make_current_lease(**BY_VERSION))
    assert isinstance(verdict, Retry)
    old = replace(make_current_lease(**BY_VERSION), queued_at=0)
    verdict = await enricher_harness.enrich(old)
    assert isinstance(verdict, Fail)
    assert verdict.reason == "not_found"


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        ({"items": 7}, 200, "undecodable"),
        (b"<html>", 200, "garbled"),
        ({"message": "bad"}, 400, "rejected"),
        ({}, 503, "HTTP 503"),
    ],
)
async def test_enrich_when_the_list_fails_decides_as_for_any_response(
    enricher_harness: EnricherHarness, content: object, status: int, reason: str
) -> None:
    """The list follows the rules of verdict.py, as every response does."""
    enricher_harness.set_response(LIST_PATH, content, status)
    verdict = await enricher_harness.enrich(make_current_lease(**BY_VERSION))
    assert isinstance(verdict, Retry | Fail)
    assert verdict.reason == reason


async def test_enrich_when_the_list_links_to_another_host_stops_there(
    enricher_harness: EnricherHarness,
) -> None:
    """The token is not sent to another host; the pages before the link still count."""
    enricher_harness.simulator.options = Options(faults=Rates(foreign_link=1.0))
    for number in range(150):
        enricher_harness.simulator.add_deployment(NewDeployment(version=f"v{number}"))
    verdict = await enricher_harness.enrich(make_current_lease(**BY_VERSION))
    assert isinstance(verdict, Retry)


async def test_enrich_when_a_page_is_rejected_returns_an_incomplete_deployment(
    enricher_harness: EnricherHarness,
) -> None:
    """A 400 or 404 for a documented link says nothing about the deployment."""
    for status in (400, 404):
        set_first_page(enricher_harness)
        enricher_harness.set_response(PULL_REQUESTS_PATH, {}, status)
        found = await enricher_harness.enrich(make_current_lease(**BY_ID))
        assert isinstance(found, Found)
        assert found.stop_reason == "a page was refused: rejected"


@FAILING_RESPONSES
async def test_enrich_when_a_page_fails_repeats_that_page(
    enricher_harness: EnricherHarness, content: object, status: int
) -> None:
    """What was fetched before is kept: only the page that failed is fetched again."""
    name = add_deployment_of_two_pages(enricher_harness)
    enricher_harness.set_response(PULL_REQUESTS_PATH, content, status, times=9)
    found = await enricher_harness.enrich(make_current_lease(deployment_id=name, project="default"))
    assert isinstance(found, Found)
    assert found.stop_reason is None
    assert len(json.loads(found.body)["pullRequests"]["items"]) == 3
    assert found.calls == enricher_harness.calls == 1 + 9 + 1


@FAILING_RESPONSES
async def test_enrich_when_a_page_fails_ten_times_is_incomplete_only_after_the_timeout(
    enricher_harness: EnricherHarness, content: object, status: int
) -> None:
    """A passing fault must not lead to an incomplete record; a fault of a day does."""
    name = add_deployment_of_two_pages(enricher_harness)
    enricher_harness.set_response(PULL_REQUESTS_PATH, content, status)
    lease = make_current_lease(deployment_id=name, project="default")
    verdict = await enricher_harness.enrich(lease)
    assert isinstance(verdict, Retry)
    assert verdict.counts_as_attempt
    assert enricher_harness.calls == 1 + 10
    found = await enricher_harness.enrich(replace(lease, queued_at=0))
    assert isinstance(found, Found)
    assert found.stop_reason == "a page was refused: upstream_failing"


async def test_enrich_when_a_page_of_a_refresh_fails_fails_the_refresh(
    enricher_harness: EnricherHarness,
) -> None:
    """The record that was published before stays the newest one."""
    name = add_deployment_of_two_pages(enricher_harness)
    enricher_harness.set_response(PULL_REQUESTS_PATH, b"", 502)
    refresh = RefreshState(done=0, since=0)
    lease = make_current_lease(deployment_id=name, project="default", attempts=7, refresh=refresh)
    verdict = await enricher_harness.enrich(lease)
    assert verdict == Fail(reason="upstream_failing", detail="HTTP 502")


@FAILING_RESPONSES
async def test_enrich_when_the_first_call_fails_repeats_it(
    enricher_harness: EnricherHarness, content: object, status: int
) -> None:
    """Three failures cost no attempt. After four the ticket waits for seconds."""
    name = enricher_harness.simulator.add_deployment(NewDeployment(version="7.0"))
    lease = make_current_lease(deployment_id=name)
    enricher_harness.set_response(name, content, status, times=3)
    found = await enricher_harness.enrich(lease)
    assert isinstance(found, Found)
    assert found.calls == 4
    enricher_harness.set_response(name, content, status, times=4)
    verdict = await enricher_harness.enrich(lease)
    assert isinstance(verdict, Retry)
    assert verdict.wait_s <= 2.0


async def test_enrich_when_every_answer_is_html_closes_the_budget_and_fails_nothing(
    enricher_harness: EnricherHarness, redis: Redis, keys: Keys
) -> None:
    """The page of a proxy is an outage: the breaker opens, and tickets wait until it closes."""
    enricher_harness.set_response("", b"<html>maintenance</html>")
    leases = [
        replace(make_current_lease(deployment_id=deployment_id(n), attempts=50), job=f"id:{n}")
        for n in range(8)
    ]
    verdicts = [await enricher_harness.enrich(lease) for lease in leases]
    assert {verdict.reason for verdict in verdicts if isinstance(verdict, Retry)} == {"garbled"}
    assert not [verdict for verdict in verdicts if not isinstance(verdict, Retry)]
    assert await redis.hget(keys.budget, "closed_reason") == b"upstream failing"
    last_calls = enricher_harness.calls
    assert isinstance(await enricher_harness.enrich(leases[0]), Retry)
    assert enricher_harness.calls == last_calls + 1, "a call was repeated while most calls fail"


async def test_enrich_counts_only_answers_towards_the_call_limit(
    enricher_harness: EnricherHarness,
) -> None:
    """Failed calls of a deployment with five pages do not make its record incomplete."""
    enricher_harness.simulator.options = Options(nested_page_size=1)
    name = enricher_harness.simulator.add_deployment(NewDeployment(version="7.0", pull_requests=3))
    first = await enricher_harness.enrich(make_current_lease(deployment_id=name, project="default"))
    assert isinstance(first, Found)
    enricher_harness.set_response(PULL_REQUESTS_PATH, b"", 500, times=8)
    found = await enricher_harness.enrich(make_current_lease(deployment_id=name, project="default"))
    assert isinstance(found, Found)
    assert (found.stop_reason, found.body) == (first.stop_reason, first.body)


async def test_enrich_beyond_the_call_limit_stops_fetching_pages(
    enricher_harness: EnricherHarness,
) -> None:
    """The verdict says why pages are missing."""
    enricher_harness.simulator.options = Options(nested_page_size=1)
    name = enricher_harness.simulator.add_deployment(
        NewDeployment(version="big", pull_requests=900)
    )
    found = await enricher_harness.enrich(make_current_lease(deployment_id=name, project="default"))
    assert isinstance(found, Found)
    assert (found.stop_reason, found.calls) == ("page cap reached", 5)


async def test_enrich_when_a_page_is_rate_limited_keeps_the_first_response(
    enricher_harness: EnricherHarness,
) -> None:
    """The page is fetched again when the next window opens."""
    set_first_page(enricher_harness)
    enricher_harness.set_response(PULL_REQUESTS_PATH, {}, 429)
    enrich_task = asyncio.create_task(enricher_harness.enrich(make_current_lease(**BY_ID)))
    async with asyncio.timeout(10):
        while not enricher_harness.simulator.stats.statuses.get("429"):
            await asyncio.sleep(0.01)
    enricher_harness.set_response(PULL_REQUESTS_PATH, {"items": [{"id": "p1"}, {"id": "p2"}]})
    async with asyncio.timeout(20):
        found = await enrich_task
    assert isinstance(found, Found)
    pulls = json.loads(found.body)["pullRequests"]["items"]
    assert [pull["id"] for pull in pulls] == ["p0", "p1", "p2"]


async def test_enrich_of_many_pages_waits_for_the_budget(enricher_harness: EnricherHarness) -> None:
    """With two calls per window, six pages take three windows without being refused."""
    limits = Limits(global_limit=2, window_ms=300)
    enricher_harness.simulator.options = Options(nested_page_size=1, quota=limits)
    name = enricher_harness.simulator.add_deployment(NewDeployment(version="big", pull_requests=3))
    found = await enricher_harness.enrich(make_current_lease(deployment_id=name, project="default"))
    assert isinstance(found, Found)
    assert enricher_harness.simulator.stats.rate_limited <= 1


async def test_enrich_of_an_oversized_response_fails_as_too_large(
    enricher_harness: EnricherHarness,
) -> None:
    """The body is not read beyond the cap."""
    enricher_harness.set_response(DEPLOYMENT_ID, b'{"id":"' + b"x" * 2_000_000 + b'"}')
    verdict = await enricher_harness.enrich(make_current_lease(**BY_ID))
    assert isinstance(verdict, Fail)
    assert verdict.reason == "too_large"


async def test_enrich_without_a_server_retries(budget: Budget) -> None:
    """A refused connection is treated as an outage."""
    async with open_session("t", max_connections=1) as session:
        unreachable = LaunchDarkly(
            session, origin="http://127.0.0.1:1", max_bytes=9, clock=time.time
        )
        enricher = Enricher(
            unreachable,
            budget,
            retry_policy=RetryPolicy(repeats=RepeatPolicy(max_first_tries=1)),
            limits=EnrichLimits(),
            rng=lambda: 0.5,
        )
        verdict = await enricher.enrich(make_current_lease(**BY_ID))
    assert isinstance(verdict, Retry)
    assert verdict.reason.startswith("no answer: ")


def test_on_internal_error_after_many_attempts_fails_with_the_error_name(
    enricher_harness: EnricherHarness,
) -> None:
    """The person who inspects the failed ticket sees the name of the error."""
    verdict = enricher_harness.enricher.on_internal_error(
        make_current_lease(**BY_ID, attempts=20), KeyError("bug")
    )
    assert verdict == Fail(reason="internal_error", detail="KeyError: 'bug'")
