"""Tests of the shared list: many tickets, few calls, and the result of a fetch of their own."""

import asyncio
import json
import time

import pytest
from msgspec import Raw
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.ticket import Lease
from service.enrich.budget import Budget
from service.enrich.enricher import EnrichLimits
from service.enrich.models import parse_list_item
from service.enrich.verdict import Fail, Found, Retry
from service.simulate.options import Options, Shape
from service.simulate.rates import Rates
from service.simulate.world import NewDeployment
from service.store.keys import Keys
from tests.conftest import Eventually
from tests.enrich.enricher_harness import APPLICATIONS, LIST_PATH, EnricherHarness, make_batch


@pytest.fixture(autouse=True)
async def large_probe(redis: Redis, keys: Keys) -> None:
    """Let an unknown rate-limit window be opened with a thousand calls."""
    await redis.hset(keys.budget, "probe", "1000")
    await redis.pexpire(keys.budget, 60_000)


@pytest.mark.parametrize("with_ids", [False, True])
async def test_shared_list_of_150_tickets_makes_few_calls_and_returns_the_same_bytes(
    enricher_harness: EnricherHarness, *, with_ids: bool
) -> None:
    """The bytes equal those of a fetch by id, for tickets with and without an id."""
    enricher_harness.simulator.options = Options(auto_create=False, nested_page_size=3)
    ids = enricher_harness.add_deployments(150, pull_requests=2)
    leases = make_batch(150, ids if with_ids else ())
    verdicts = await enricher_harness.enrich_together(leases)
    calls = enricher_harness.calls
    assert calls <= 8  # some MB in pages under half a million bytes
    for name, verdict in zip(ids, verdicts, strict=True):
        assert isinstance(verdict, Found), verdict
        assert verdict.deployment.id == name
        assert bytes(verdict.body) == await enricher_harness.get_deployment(name)
    assert sum(verdict.calls for verdict in verdicts if isinstance(verdict, Found)) == calls


@pytest.mark.parametrize("with_ids", [False, True])
async def test_shared_list_of_several_pages_returns_deployments_in_the_order_of_their_ends(
    enricher_harness: EnricherHarness, *, with_ids: bool
) -> None:
    """A record says what changed since the one before it, so that one has to come first."""
    ids = enricher_harness.add_deployments(150)
    ends = []

    async def enrich(lease: Lease) -> None:
        verdict = await enricher_harness.enricher.enrich(lease)
        assert isinstance(verdict, Found), verdict
        ends.append(verdict.deployment.ended_at)

    leases = make_batch(150, ids if with_ids else ())
    enricher_harness.enricher.share_lists(leases)
    await asyncio.gather(*map(enrich, leases))
    assert enricher_harness.calls > 1
    assert len(ends) == len(leases)
    assert ends == sorted(ends, key=lambda end: end or 0)


@pytest.mark.parametrize("enrich_limits", [EnrichLimits(max_order_delay_s=0.05)])
async def test_shared_list_whose_next_page_has_to_wait_returns_the_deployments_that_it_has(
    enricher_harness: EnricherHarness,
) -> None:
    """A closed budget delays only the tickets whose page is still missing."""
    ids = enricher_harness.add_deployments(2)
    listed_id = ids[0]
    listed = json.loads(await enricher_harness.get_deployment(listed_id))
    page = {
        "totalCount": 2,
        "items": [listed],
        "_links": {"next": {"href": f"/api/v2/{LIST_PATH}?after={listed_id}"}},
    }
    used_up = {
        "X-Ratelimit-Global-Remaining": "0",
        "X-Ratelimit-Reset": str(int(time.time() * 1000) + 60_000),
    }
    enricher_harness.set_response(LIST_PATH, page, headers=used_up)
    listed_lease, other_lease = make_batch(2, ids)
    enricher_harness.enricher.share_lists([listed_lease, other_lease])
    waiting = asyncio.create_task(enricher_harness.enrich(other_lease))
    verdict = await enricher_harness.enrich(listed_lease)
    assert isinstance(verdict, Found), verdict
    assert verdict.deployment.id == listed_id
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_shared_list_with_nested_pages_completes_each_deployment(
    enricher_harness: EnricherHarness,
) -> None:
    """The pages of a listed deployment are fetched as for a ticket of its own."""
    enricher_harness.simulator.options = Options(auto_create=False, nested_page_size=2)
    ids = enricher_harness.add_deployments(2, pull_requests=5)
    for name, verdict in zip(
        ids, await enricher_harness.enrich_together(make_batch(2)), strict=True
    ):
        (alone,) = await enricher_harness.enrich_together(make_batch(1, [name]))
        assert isinstance(verdict, Found)
        assert isinstance(alone, Found)
        assert verdict.body == alone.body
        assert verdict.deployment.pull_requests is not None
        assert len(verdict.deployment.pull_requests.items or ()) == 5


async def test_list_of_a_single_ticket_makes_one_call(
    enricher_harness: EnricherHarness,
) -> None:
    """The list call expands the deployments, so no second call is needed."""
    enricher_harness.add_deployments(1)
    (found,) = await enricher_harness.enrich_together(make_batch(1))
    assert isinstance(found, Found)
    assert (found.calls, enricher_harness.calls) == (1, 1)


async def test_shared_list_with_missing_details_fetches_the_deployments_by_id(
    enricher_harness: EnricherHarness,
) -> None:
    """Details are missing if a collection is absent, or lacks items without a further page."""
    ids = enricher_harness.add_deployments(3)
    whole = json.loads(await enricher_harness.get_deployment(ids[0]))
    short = dict(whole)
    del short["flagReferences"]
    cut = json.loads(await enricher_harness.get_deployment(ids[1]))
    cut["pullRequests"]["totalCount"] += 1
    odd = {"id": ids[2], "applicationKey": APPLICATIONS[2], "applicationVersion": "v2"} | {
        "environmentKey": "production",
        "pullRequests": 7,
    }
    enricher_harness.set_response(LIST_PATH, {"totalCount": 3, "items": [short, cut, odd]})
    before = enricher_harness.calls
    for name, verdict in zip(
        ids, await enricher_harness.enrich_together(make_batch(3)), strict=True
    ):
        assert isinstance(verdict, Found)
        assert verdict.body == await enricher_harness.get_deployment(name)
    assert enricher_harness.calls == before + 1 + 3 + 3


async def test_shared_list_without_a_ticket_retries_it_or_fetches_it_by_id(
    enricher_harness: EnricherHarness,
) -> None:
    """A ticket without an id is retried; a ticket with an id is fetched."""
    ids = enricher_harness.add_deployments(2)
    first, second, third = await enricher_harness.enrich_together(make_batch(3))
    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert isinstance(third, Retry)
    assert third.reason == "not_found_yet"
    enricher_harness.set_response(LIST_PATH, {"totalCount": 0, "items": []})
    verdicts = await enricher_harness.enrich_together(make_batch(2, ids))
    assert [isinstance(verdict, Found) for verdict in verdicts] == [True, True]


async def test_shared_list_that_fails_decides_by_the_history_of_each_ticket(
    enricher_harness: EnricherHarness,
) -> None:
    """A young ticket is retried; a ticket older than a day fails. The list is tried four times."""
    enricher_harness.set_response(LIST_PATH, {}, 503)
    young, old = make_batch(2)
    first, second = await enricher_harness.enrich_together([young, replace(old, queued_at=0)])
    assert isinstance(first, Retry)
    assert first.reason == "HTTP 503"
    assert isinstance(second, Fail)
    assert second.reason == "upstream_failing"
    assert enricher_harness.calls == 4


@pytest.mark.parametrize(
    ("content", "status"), [({}, 503), (b"<html>", 200), (b"", 200), (b'{"items":[{"id":"', 200)]
)
async def test_shared_list_repeats_the_page_that_failed(
    enricher_harness: EnricherHarness, content: object, status: int
) -> None:
    """The pages before it are not fetched again, and no ticket waits for another attempt."""
    enricher_harness.add_deployments(150, pull_requests=2)
    enricher_harness.simulator.options = Options(auto_create=False, nested_page_size=3)
    leases = make_batch(150)
    enricher_harness.enricher.share_lists(leases)
    tasks = [asyncio.create_task(enricher_harness.enrich(lease)) for lease in leases]
    async with asyncio.timeout(10):
        while not enricher_harness.calls:
            await asyncio.sleep(0)
    enricher_harness.set_response(LIST_PATH, content, status, times=3)
    verdicts = await asyncio.gather(*tasks)
    assert {type(verdict) for verdict in verdicts} == {Found}
    pages = enricher_harness.calls - 3
    assert sum(verdict.calls for verdict in verdicts if isinstance(verdict, Found)) == pages + 3
    assert pages <= 8


async def test_shared_list_that_is_rate_limited_counts_no_attempt(
    enricher_harness: EnricherHarness,
) -> None:
    """The budget is closed, so no ticket makes a further call."""
    enricher_harness.set_response(LIST_PATH, {}, 429)
    verdicts = await enricher_harness.enrich_together(make_batch(20))
    assert verdicts == [Retry(reason="rate_limited", counts_as_attempt=False)] * 20
    assert enricher_harness.calls == 1


async def test_shared_list_that_is_rejected_fetches_known_ids_anyway(
    enricher_harness: EnricherHarness,
) -> None:
    """A list rejected because of an unknown project does not fail a ticket with an id."""
    ids = enricher_harness.add_deployments(3)
    enricher_harness.set_response(LIST_PATH, {"message": "no such project"}, 400)
    verdicts = await enricher_harness.enrich_together(make_batch(3, ids))
    assert all(isinstance(verdict, Found) for verdict in verdicts)
    without = await enricher_harness.enrich_together(make_batch(2))
    assert [verdict.reason for verdict in without if isinstance(verdict, Fail)] == ["rejected"] * 2


async def test_shared_list_with_an_unreadable_item_fails_with_it_after_the_timeout(
    enricher_harness: EnricherHarness,
) -> None:
    """The item may be the deployment, so a person sees it after the timeout."""
    enricher_harness.set_response(LIST_PATH, {"items": [{"id": 7}]})
    (young,) = await enricher_harness.enrich_together(make_batch(1))
    assert isinstance(young, Retry)
    (old,) = await enricher_harness.enrich_together([replace(make_batch(1)[0], queued_at=0)])
    assert isinstance(old, Fail)
    assert (old.reason, old.raw) == ("undecodable", b'{"id": 7}')


async def test_shared_list_over_the_byte_cap_is_fetched_in_smaller_pages(
    enricher_harness: EnricherHarness,
) -> None:
    """Every deployment is found, and the next list begins with small pages."""
    shape = Shape(deployments=(1, 1))
    enricher_harness.simulator.options = Options(
        auto_create=False, nested_page_size=200, shape=shape
    )
    ids = enricher_harness.add_deployments(30, pull_requests=60)
    size = len(await enricher_harness.get_deployment(ids[0]))
    assert 1_000_000 / 30 < size < 500_000
    verdicts = await enricher_harness.enrich_together(make_batch(30))
    assert [verdict.deployment.id for verdict in verdicts if isinstance(verdict, Found)] == ids
    assert 400_000 < enricher_harness.enricher._page_sizer.page_size * size <= 500_000


async def test_shared_list_with_one_oversized_deployment_fails_only_its_ticket(
    enricher_harness: EnricherHarness,
) -> None:
    """The list is then read without details, and each deployment is fetched by id."""
    enricher_harness.simulator.options = Options(auto_create=False, nested_page_size=2000)
    ids = enricher_harness.add_deployments(2)
    now = int(time.time() * 1000)
    oversized_id = enricher_harness.simulator.add_deployment(
        NewDeployment(
            application=APPLICATIONS[2],
            version="v2",
            started_at=now - 10,
            pull_requests=1500,
        )
    )
    assert len(await enricher_harness.get_deployment(oversized_id)) > 1_000_000
    *others, oversized = await enricher_harness.enrich_together(make_batch(3))
    assert [verdict.deployment.id for verdict in others if isinstance(verdict, Found)] == ids
    assert isinstance(oversized, Fail)
    assert oversized.reason == "too_large"


async def test_shared_list_with_a_foreign_or_repeated_link_ends_there(
    enricher_harness: EnricherHarness,
) -> None:
    """The pages before the link still count."""
    enricher_harness.add_deployments(150)
    for rates in (Rates(foreign_link=1.0), Rates(loop_link=1.0)):
        enricher_harness.simulator.options = Options(auto_create=False, faults=rates)
        verdicts = await enricher_harness.enrich_together(make_batch(150))
        assert {type(verdict) for verdict in verdicts} == {Found, Retry}


async def test_shared_list_when_the_leader_is_cancelled_serves_the_followers(
    enricher_harness: EnricherHarness,
) -> None:
    """The leader may lose its lease; the list goes on for its followers."""
    enricher_harness.add_deployments(3)
    enricher_harness.simulator.options = Options(auto_create=False, latency_ms=(50, 50))
    leases = make_batch(3)
    enricher_harness.enricher.share_lists(leases)
    leader_task, *follower_tasks = [
        asyncio.create_task(enricher_harness.enrich(lease)) for lease in leases
    ]
    await asyncio.sleep(0)
    leader_task.cancel()
    verdicts = await asyncio.gather(*follower_tasks)
    assert all(isinstance(verdict, Found) for verdict in verdicts)
    assert enricher_harness.calls == 1


async def test_shared_list_when_every_ticket_is_cancelled_stops_and_can_restart(
    enricher_harness: EnricherHarness,
) -> None:
    """No call is made without a waiting ticket; a later ticket starts the list again."""
    enricher_harness.add_deployments(3)
    enricher_harness.simulator.options = Options(auto_create=False, latency_ms=(50, 50))
    leases = make_batch(3)
    enricher_harness.enricher.share_lists(leases)
    tasks = [asyncio.create_task(enricher_harness.enrich(lease)) for lease in leases[:2]]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "shared-list"]
    assert isinstance(await enricher_harness.enrich(leases[2]), Found)


async def test_followers_without_their_shared_list_acquire_calls_of_their_own(
    enricher_harness: EnricherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim acquired one call for all. The list could not be built, so each needs its own."""
    acquired: list[str] = []
    acquire = Budget.acquire

    async def record_acquired(self: Budget, call_id: str, route: str) -> None:
        acquired.append(call_id)
        await acquire(self, call_id, route)

    monkeypatch.setattr(Budget, "acquire", record_acquired)
    enricher_harness.add_deployments(5)
    await asyncio.gather(*map(enricher_harness.enrich, make_batch(5)))
    assert (enricher_harness.calls, len(acquired)) == (5, 4)


async def test_shared_list_that_is_cancelled_returns_its_call_to_the_budget(
    enricher_harness: EnricherHarness, redis: Redis, keys: Keys, eventually: Eventually
) -> None:
    """Its second page is under way. Else the budget would count that call for 40 s more."""
    enricher_harness.add_deployments(150)
    leases = make_batch(150)
    enricher_harness.enricher.share_lists(leases)
    enricher_harness.simulator.options = Options(auto_create=False, latency_ms=(200, 200))
    tasks = [asyncio.create_task(enricher_harness.enrich(lease)) for lease in leases]

    async def is_second_call_under_way() -> bool:
        return enricher_harness.calls == 2

    await eventually(is_second_call_under_way)
    assert await redis.zcard(keys.budget_calls) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    async def is_returned() -> bool:
        return await redis.zcard(keys.budget_calls) == 0

    await eventually(is_returned)


async def test_shared_list_when_our_code_fails_raises_for_each_ticket(
    enricher_harness: EnricherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ticket waits forever for a list that raised an error."""
    enricher_harness.add_deployments(3)

    def raise_error(_: bytes) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("service.enrich.shared_list.parse_page_in_steps", raise_error)
    leases = make_batch(3)
    enricher_harness.enricher.share_lists(leases)
    results = await asyncio.gather(
        *map(enricher_harness.enricher.enrich, leases), return_exceptions=True
    )
    assert [type(result) for result in results] == [KeyError] * 3


async def test_shared_list_when_our_code_fails_in_a_page_returns_the_deployments_before(
    enricher_harness: EnricherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket with a match gets it, although the next item of its page raised an error."""
    ids = enricher_harness.add_deployments(2)
    parsed = []

    def parse_one(item: Raw) -> object:
        parsed.append(item)
        if len(parsed) > 1:
            raise KeyError("bug")
        return parse_list_item(item)

    monkeypatch.setattr("service.enrich.matching.parse_list_item", parse_one)
    leases = make_batch(2, ids)
    enricher_harness.enricher.share_lists(leases)
    results = await asyncio.gather(
        *map(enricher_harness.enricher.enrich, leases), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Found", "KeyError"]
