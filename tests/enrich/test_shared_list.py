"""Do many tickets share one list, and does each get what it would have got alone?"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.ticket import Lease, Ticket
from service.enrich.budget import Budget
from service.enrich.client import LaunchDarkly, open_session
from service.enrich.enricher import Enricher, EnrichLimits
from service.enrich.verdict import Fail, Found, Retry, RetryPolicy, Verdict
from service.metrics.http import serve_app
from service.simulate.options import Options, Shape
from service.simulate.rates import Rates
from service.simulate.responses import Canned
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from service.store.keys import Keys

ROOT = "/api/v2/engineering-insights/deployments"
LIST = "engineering-insights/deployments"
EXPAND = {"expand": "pullRequests,flagReferences"}
APPLICATIONS = [f"application-{n}" for n in range(10)]


class SharedListHarness:
    """An enricher before a simulated LaunchDarkly, and tickets claimed together."""

    def __init__(self, simulator: Simulator, origin: str, enricher: Enricher) -> None:
        self.simulator = simulator
        self.origin = origin
        self.enricher = enricher
        self.requests: list[str] = []

    @property
    def calls(self) -> int:
        """How often the simulator was called."""
        return sum(self.simulator.stats.calls.values())

    def add_deployments(self, count: int, **fields: Any) -> list[str]:
        """Have deployments of ten applications end, one a second; gives their ids."""
        now = int(time.time() * 1000)
        return [
            self.simulator.add_deployment(
                NewDeployment(
                    application=APPLICATIONS[n % 10],
                    version=f"v{n}",
                    started_at=now - 1000 * (count - n),
                    **fields,
                )
            )
            for n in range(count)
        ]

    def set_response(self, suffix: str, content: object, status: int = 200) -> None:
        """Have a path answered with this."""
        self.simulator.set_response(
            suffix, Canned(status=status, body=json.dumps(content).encode())
        )

    async def enrich(self, leases: Sequence[Lease]) -> list[Verdict]:
        """Enrich tickets that were claimed together."""
        self.enricher.share_lists(leases)
        return await asyncio.gather(*map(self.enricher.enrich, leases))

    async def get_deployment(self, name: str) -> bytes:
        """Ask the simulator for one deployment, as anybody would."""
        async with (
            open_session("api-simulator", max_connections=1) as session,
            session.get(f"{self.origin}{ROOT}/{name}", params=EXPAND) as response,
        ):
            return await response.read()


def make_batch(count: int, ids: Sequence[str] = (), **ticket: Any) -> list[Lease]:
    """Make the leases of tickets that share the call of the first."""
    now = int(time.time() * 1000)
    leases = []
    for n in range(count):
        fields: dict[str, Any] = {
            "project": "default",
            "environment": "production",
            "application": APPLICATIONS[n % 10],
            "version": f"v{n}",
            "deployment_id": ids[n] if ids else None,
        }
        leases.append(
            Lease(
                job=f"job-{n}",
                fence=1.5,
                generation=1,
                crashes=0,
                queued_at=now,
                now=now,
                ticket=Ticket(
                    source="native", delivery="d", outcome="succeeded", **{**fields, **ticket}
                ),
                leader="job-0" if n else None,
            )
        )
    return leases


@pytest.fixture
async def shared_list_harness(
    budget: Budget, redis: Redis, keys: Keys
) -> AsyncIterator[SharedListHarness]:
    """Give a desk whose answers may have a million bytes."""
    await redis.hset(keys.budget, "probe", "1000")
    simulator = Simulator(Options(auto_create=False), clock=time.time, rng=random.Random(1))
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(
            serve_app(simulator.app(), host="127.0.0.1", port=0)
        )
        session = await stack.enter_async_context(open_session("api-simulator", max_connections=8))
        enricher = Enricher(
            LaunchDarkly(session, origin=origin, max_bytes=1_000_000, clock=time.time),
            budget,
            retry_policy=RetryPolicy(),
            limits=EnrichLimits(),
            rng=lambda: 0.5,
        )
        yield SharedListHarness(simulator, origin, enricher)
    await redis.delete(keys.budget_calls, keys.budget_waiting)


@pytest.mark.parametrize("known", [False, True])
async def test_many_records_for_few_calls_and_the_same_to_the_byte(
    shared_list_harness: SharedListHarness, *, known: bool
) -> None:
    """As asking for each would have given; with an id or without, in pages or in one."""
    shared_list_harness.simulator.options = Options(auto_create=False, nested_page_size=3)
    ids = shared_list_harness.add_deployments(150, pull_requests=2)
    party = make_batch(150, ids if known else ())
    verdicts = await shared_list_harness.enrich(party)
    calls = shared_list_harness.calls
    assert calls <= 8  # some MB in portions under half a million bytes
    for name, verdict in zip(ids, verdicts, strict=True):
        assert isinstance(verdict, Found), verdict
        assert verdict.deployment.id == name
        assert bytes(verdict.body) == await shared_list_harness.get_deployment(name)
    assert sum(verdict.calls for verdict in verdicts if isinstance(verdict, Found)) == calls


async def test_pages_inside_a_listed_deployment_are_followed(
    shared_list_harness: SharedListHarness,
) -> None:
    """What is short by a page is completed as it would be alone."""
    shared_list_harness.simulator.options = Options(auto_create=False, nested_page_size=2)
    ids = shared_list_harness.add_deployments(2, pull_requests=5)
    for name, verdict in zip(ids, await shared_list_harness.enrich(make_batch(2)), strict=True):
        (alone,) = await shared_list_harness.enrich(make_batch(1, [name]))
        assert isinstance(verdict, Found)
        assert isinstance(alone, Found)
        assert verdict.body == alone.body
        assert verdict.deployment.pull_requests is not None
        assert len(verdict.deployment.pull_requests.items or ()) == 5


async def test_a_single_ticket_without_an_id_costs_one_call(
    shared_list_harness: SharedListHarness,
) -> None:
    """The list is asked to expand what it lists."""
    shared_list_harness.add_deployments(1)
    (found,) = await shared_list_harness.enrich(make_batch(1))
    assert isinstance(found, Found)
    assert (found.calls, shared_list_harness.calls) == (1, 1)


async def test_what_the_list_is_short_of_is_asked_for(
    shared_list_harness: SharedListHarness,
) -> None:
    """A collection left out, or one that counts more than it holds and goes no further."""
    ids = shared_list_harness.add_deployments(3)
    whole = json.loads(await shared_list_harness.get_deployment(ids[0]))
    short = dict(whole)
    del short["flagReferences"]
    cut = json.loads(await shared_list_harness.get_deployment(ids[1]))
    cut["pullRequests"]["totalCount"] += 1
    odd = {"id": ids[2], "applicationKey": APPLICATIONS[2], "applicationVersion": "v2"} | {
        "environmentKey": "production",
        "pullRequests": 7,
    }
    shared_list_harness.set_response(LIST, {"totalCount": 3, "items": [short, cut, odd]})
    before = shared_list_harness.calls
    for name, verdict in zip(ids, await shared_list_harness.enrich(make_batch(3)), strict=True):
        assert isinstance(verdict, Found)
        assert verdict.body == await shared_list_harness.get_deployment(name)
    assert shared_list_harness.calls == before + 1 + 3 + 3


async def test_who_is_not_listed_waits_or_asks_by_its_id(
    shared_list_harness: SharedListHarness,
) -> None:
    """One that knows no id is not there yet; one that does is asked for, and has no deadline."""
    ids = shared_list_harness.add_deployments(2)
    absent = make_batch(3)
    first, second, third = await shared_list_harness.enrich(absent)
    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert isinstance(third, Retry)
    assert third.reason == "not_found_yet"
    shared_list_harness.set_response(LIST, {"totalCount": 0, "items": []})
    verdicts = await shared_list_harness.enrich(make_batch(2, ids))
    assert [isinstance(verdict, Found) for verdict in verdicts] == [True, True]


async def test_a_list_in_trouble_is_judged_by_each_tickets_history(
    shared_list_harness: SharedListHarness,
) -> None:
    """Tried often, it waits longer; older than a day, it is given up."""
    shared_list_harness.set_response(LIST, {}, 503)
    young, old = make_batch(2)
    first, second = await shared_list_harness.enrich([young, replace(old, queued_at=0)])
    assert isinstance(first, Retry)
    assert first.reason == "HTTP 503"
    assert isinstance(second, Fail)
    assert second.reason == "upstream_failing"
    assert shared_list_harness.calls == 1


async def test_a_rate_limit_costs_none_of_them_an_attempt(
    shared_list_harness: SharedListHarness,
) -> None:
    """Nobody asks on: the budget is closed for all."""
    shared_list_harness.set_response(LIST, {}, 429)
    verdicts = await shared_list_harness.enrich(make_batch(20))
    assert verdicts == [Retry(reason="rate_limited", counts_as_attempt=False)] * 20
    assert shared_list_harness.calls == 1


async def test_a_list_that_is_refused_costs_those_with_an_id_nothing(
    shared_list_harness: SharedListHarness,
) -> None:
    """A project that it does not know is no reason to give up what has an id."""
    ids = shared_list_harness.add_deployments(3)
    shared_list_harness.set_response(LIST, {"message": "no such project"}, 400)
    verdicts = await shared_list_harness.enrich(make_batch(3, ids))
    assert all(isinstance(verdict, Found) for verdict in verdicts)
    without = await shared_list_harness.enrich(make_batch(2))
    assert [verdict.reason for verdict in without if isinstance(verdict, Fail)] == ["rejected"] * 2


async def test_an_item_that_cannot_be_read_is_shown_in_the_end(
    shared_list_harness: SharedListHarness,
) -> None:
    """It may be the one; after the deadline a person sees it."""
    shared_list_harness.set_response(LIST, {"items": [{"id": 7}]})
    (young,) = await shared_list_harness.enrich(make_batch(1))
    assert isinstance(young, Retry)
    (old,) = await shared_list_harness.enrich([replace(make_batch(1)[0], queued_at=0)])
    assert isinstance(old, Fail)
    assert (old.reason, old.raw) == ("undecodable", b'{"id": 7}')


async def test_answers_over_the_cap_are_asked_for_in_smaller_portions(
    shared_list_harness: SharedListHarness,
) -> None:
    """Nothing larger is read, everything is found, and the next list begins small."""
    shape = Shape(deployments=(1, 1))
    shared_list_harness.simulator.options = Options(
        auto_create=False, nested_page_size=200, shape=shape
    )
    ids = shared_list_harness.add_deployments(30, pull_requests=60)
    size = len(await shared_list_harness.get_deployment(ids[0]))
    assert 1_000_000 / 30 < size < 500_000
    verdicts = await shared_list_harness.enrich(make_batch(30))
    assert [verdict.deployment.id for verdict in verdicts if isinstance(verdict, Found)] == ids
    assert 400_000 < shared_list_harness.enricher._page_sizer.page_size * size <= 500_000


async def test_a_deployment_over_the_cap_costs_only_itself(
    shared_list_harness: SharedListHarness,
) -> None:
    """The list is read without what makes it large, and each asks for its own."""
    shared_list_harness.simulator.options = Options(auto_create=False, nested_page_size=2000)
    ids = shared_list_harness.add_deployments(2)
    now = int(time.time() * 1000)
    giant = shared_list_harness.simulator.add_deployment(
        NewDeployment(
            application=APPLICATIONS[2],
            version="v2",
            started_at=now - 10,
            pull_requests=1500,
        )
    )
    assert len(await shared_list_harness.get_deployment(giant)) > 1_000_000
    *small, large = await shared_list_harness.enrich(make_batch(3))
    assert [verdict.deployment.id for verdict in small if isinstance(verdict, Found)] == ids
    assert isinstance(large, Fail)
    assert large.reason == "too_large"


async def test_a_list_that_leads_away_or_in_circles_ends_there(
    shared_list_harness: SharedListHarness,
) -> None:
    """What was listed until then counts."""
    shared_list_harness.add_deployments(150)
    for rates in (Rates(foreign_link=1.0), Rates(loop_link=1.0)):
        shared_list_harness.simulator.options = Options(auto_create=False, faults=rates)
        verdicts = await shared_list_harness.enrich(make_batch(150))
        assert {type(verdict) for verdict in verdicts} == {Found, Retry}


async def test_who_leaves_does_not_hold_up_the_others(
    shared_list_harness: SharedListHarness,
) -> None:
    """The lead's lease may be lost: the list is still there for its company."""
    shared_list_harness.add_deployments(3)
    shared_list_harness.simulator.options = Options(auto_create=False, latency_ms=(50, 50))
    party = make_batch(3)
    shared_list_harness.enricher.share_lists(party)
    lead, *company = [
        asyncio.create_task(shared_list_harness.enricher.enrich(lease)) for lease in party
    ]
    await asyncio.sleep(0)
    lead.cancel()
    verdicts = await asyncio.gather(*company)
    assert all(isinstance(verdict, Found) for verdict in verdicts)
    assert shared_list_harness.calls == 1


async def test_when_all_have_left_nobody_asks_on(shared_list_harness: SharedListHarness) -> None:
    """No call is made for nobody, and who comes later begins anew."""
    shared_list_harness.add_deployments(3)
    shared_list_harness.simulator.options = Options(auto_create=False, latency_ms=(50, 50))
    party = make_batch(3)
    shared_list_harness.enricher.share_lists(party)
    tasks = [asyncio.create_task(shared_list_harness.enricher.enrich(lease)) for lease in party[:2]]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "shared-list"]
    assert isinstance(await shared_list_harness.enricher.enrich(party[2]), Found)


async def test_a_mistake_of_ours_is_told_to_each(
    shared_list_harness: SharedListHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever on a list that came to nothing."""
    shared_list_harness.add_deployments(3)

    def stumble(_: bytes) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("service.enrich.shared_list.parse_deployment_page", stumble)
    party = make_batch(3)
    shared_list_harness.enricher.share_lists(party)
    ends = await asyncio.gather(
        *map(shared_list_harness.enricher.enrich, party), return_exceptions=True
    )
    assert [type(end) for end in ends] == [KeyError] * 3
