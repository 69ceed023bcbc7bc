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
from service.enrich.enricher import Caps, Enricher
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.verdict import Found, Later, Never, Patience, Verdict
from service.operate.listening import listen
from service.simulate.answers import Planted
from service.simulate.deployment import Shape
from service.simulate.faults import Rates
from service.simulate.options import Options
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from service.store.keys import Keys

ROOT = "/api/v2/engineering-insights/deployments"
LIST = "engineering-insights/deployments"
EXPAND = {"expand": "pullRequests,flagReferences"}
APPLICATIONS = [f"application-{n}" for n in range(10)]


class Desk:
    """An enricher before a simulated LaunchDarkly, and tickets claimed together."""

    def __init__(self, simulator: Simulator, origin: str, enricher: Enricher) -> None:
        self.simulator = simulator
        self.origin = origin
        self.enricher = enricher
        self.asked: list[str] = []

    @property
    def calls(self) -> int:
        """How often the simulator was called."""
        return sum(self.simulator.stats.calls.values())

    def deploy(self, count: int, **facts: Any) -> list[str]:
        """Have deployments of ten applications end, one a second; gives their ids."""
        now = int(time.time() * 1000)
        return [
            self.simulator.add_deployment(
                NewDeployment(
                    application=APPLICATIONS[n % 10],
                    version=f"v{n}",
                    started_at=now - 1000 * (count - n),
                    **facts,
                )
            )
            for n in range(count)
        ]

    def plant(self, suffix: str, told: object, status: int = 200) -> None:
        """Have a path answered with this."""
        self.simulator.plant_answer(suffix, Planted(status=status, body=json.dumps(told).encode()))

    async def enrich(self, party: Sequence[Lease]) -> list[Verdict]:
        """Enrich tickets that were claimed together."""
        self.enricher.expect(party)
        return await asyncio.gather(*map(self.enricher.enrich, party))

    async def get(self, name: str) -> bytes:
        """Ask the simulator for one deployment, as anybody would."""
        async with (
            open_session("api-simulator", connections=1) as session,
            session.get(f"{self.origin}{ROOT}/{name}", params=EXPAND) as response,
        ):
            return await response.read()


def make_party(count: int, ids: Sequence[str] = (), **ticket: Any) -> list[Lease]:
    """Make the leases of tickets that share the call of the first."""
    now = int(time.time() * 1000)
    leases = []
    for n in range(count):
        told: dict[str, Any] = {
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
                    source="native", delivery="d", outcome="succeeded", **{**told, **ticket}
                ),
                lead="job-0" if n else None,
            )
        )
    return leases


@pytest.fixture
async def desk(budget: Budget, redis: Redis, keys: Keys) -> AsyncIterator[Desk]:
    """Give a desk whose answers may have a million bytes."""
    await redis.hset(keys.budget, "probe", "1000")
    simulator = Simulator(Options(conjure=False), clock=time.time, chance=random.Random(1))
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(listen(simulator.app(), host="127.0.0.1", port=0))
        session = await stack.enter_async_context(open_session("api-simulator", connections=8))
        enricher = Enricher(
            LaunchDarkly(session, origin=origin, max_bytes=1_000_000, clock=time.time),
            budget,
            patience=Patience(),
            caps=Caps(),
            chance=lambda: 0.5,
        )
        yield Desk(simulator, origin, enricher)
    await redis.delete(keys.calls, keys.callers)


@pytest.mark.parametrize("known", [False, True])
async def test_many_records_for_few_calls_and_the_same_to_the_byte(
    desk: Desk, *, known: bool
) -> None:
    """As asking for each would have given; with an id or without, in pages or in one."""
    desk.simulator.options = Options(conjure=False, nested_page_size=3)
    ids = desk.deploy(150, pull_requests=2)
    party = make_party(150, ids if known else ())
    verdicts = await desk.enrich(party)
    calls = desk.calls
    assert calls <= 8  # some MB in portions under half a million bytes
    for name, verdict in zip(ids, verdicts, strict=True):
        assert isinstance(verdict, Found), verdict
        assert verdict.deployment.id == name
        assert bytes(verdict.body) == await desk.get(name)
    assert sum(verdict.calls for verdict in verdicts if isinstance(verdict, Found)) == calls


async def test_pages_inside_a_listed_deployment_are_followed(desk: Desk) -> None:
    """What is short by a page is completed as it would be alone."""
    desk.simulator.options = Options(conjure=False, nested_page_size=2)
    ids = desk.deploy(2, pull_requests=5)
    for name, verdict in zip(ids, await desk.enrich(make_party(2)), strict=True):
        (alone,) = await desk.enrich(make_party(1, [name]))
        assert isinstance(verdict, Found)
        assert isinstance(alone, Found)
        assert verdict.body == alone.body
        assert verdict.deployment.pull_requests is not None
        assert len(verdict.deployment.pull_requests.items or ()) == 5


async def test_a_single_ticket_without_an_id_costs_one_call(desk: Desk) -> None:
    """The list is asked to expand what it lists."""
    desk.deploy(1)
    (found,) = await desk.enrich(make_party(1))
    assert isinstance(found, Found)
    assert (found.calls, desk.calls) == (1, 1)


async def test_what_the_list_is_short_of_is_asked_for(desk: Desk) -> None:
    """A collection left out, or one that counts more than it holds and goes no further."""
    ids = desk.deploy(3)
    whole = json.loads(await desk.get(ids[0]))
    short = dict(whole)
    del short["flagReferences"]
    cut = json.loads(await desk.get(ids[1]))
    cut["pullRequests"]["totalCount"] += 1
    odd = {"id": ids[2], "applicationKey": APPLICATIONS[2], "applicationVersion": "v2"} | {
        "environmentKey": "production",
        "pullRequests": 7,
    }
    desk.plant(LIST, {"totalCount": 3, "items": [short, cut, odd]})
    before = desk.calls
    for name, verdict in zip(ids, await desk.enrich(make_party(3)), strict=True):
        assert isinstance(verdict, Found)
        assert verdict.body == await desk.get(name)
    assert desk.calls == before + 1 + 3 + 3


async def test_who_is_not_listed_waits_or_asks_by_its_id(desk: Desk) -> None:
    """One that knows no id is not there yet; one that does is asked for, and has no deadline."""
    ids = desk.deploy(2)
    absent = make_party(3)
    first, second, third = await desk.enrich(absent)
    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert isinstance(third, Later)
    assert third.reason == "not_found_yet"
    desk.plant(LIST, {"totalCount": 0, "items": []})
    verdicts = await desk.enrich(make_party(2, ids))
    assert [isinstance(verdict, Found) for verdict in verdicts] == [True, True]


async def test_a_list_in_trouble_is_judged_by_each_tickets_history(desk: Desk) -> None:
    """Tried often, it waits longer; older than a day, it is given up."""
    desk.plant(LIST, {}, 503)
    young, old = make_party(2)
    first, second = await desk.enrich([young, replace(old, queued_at=0)])
    assert isinstance(first, Later)
    assert first.reason == "HTTP 503"
    assert isinstance(second, Never)
    assert second.reason == "upstream_failing"
    assert desk.calls == 1


async def test_a_rate_limit_costs_none_of_them_an_attempt(desk: Desk) -> None:
    """Nobody asks on: the budget is closed for all."""
    desk.plant(LIST, {}, 429)
    verdicts = await desk.enrich(make_party(20))
    assert verdicts == [Later(reason="rate_limited", counts=False, repeatable=True)] * 20
    assert desk.calls == 1


async def test_a_list_that_is_refused_costs_those_with_an_id_nothing(desk: Desk) -> None:
    """A project that it does not know is no reason to give up what has an id."""
    ids = desk.deploy(3)
    desk.plant(LIST, {"message": "no such project"}, 400)
    verdicts = await desk.enrich(make_party(3, ids))
    assert all(isinstance(verdict, Found) for verdict in verdicts)
    without = await desk.enrich(make_party(2))
    assert [verdict.reason for verdict in without if isinstance(verdict, Never)] == ["rejected"] * 2


async def test_an_item_that_cannot_be_read_is_shown_in_the_end(desk: Desk) -> None:
    """It may be the one; after the deadline a person sees it."""
    desk.plant(LIST, {"items": [{"id": 7}]})
    (young,) = await desk.enrich(make_party(1))
    assert isinstance(young, Later)
    (old,) = await desk.enrich([replace(make_party(1)[0], queued_at=0)])
    assert isinstance(old, Never)
    assert (old.reason, old.raw) == ("undecodable", b'{"id": 7}')


async def test_answers_over_the_cap_are_asked_for_in_smaller_portions(desk: Desk) -> None:
    """Nothing larger is read, everything is found, and the next list begins small."""
    shape = Shape(deployments=(1, 1))
    desk.simulator.options = Options(conjure=False, nested_page_size=200, shape=shape)
    ids = desk.deploy(30, pull_requests=60)
    size = len(await desk.get(ids[0]))
    assert 1_000_000 / 30 < size < 500_000
    verdicts = await desk.enrich(make_party(30))
    assert [verdict.deployment.id for verdict in verdicts if isinstance(verdict, Found)] == ids
    assert 400_000 < desk.enricher._portion.items * size <= 500_000


async def test_a_deployment_over_the_cap_costs_only_itself(desk: Desk) -> None:
    """The list is read without what makes it large, and each asks for its own."""
    desk.simulator.options = Options(conjure=False, nested_page_size=2000)
    ids = desk.deploy(2)
    now = int(time.time() * 1000)
    giant = desk.simulator.add_deployment(
        NewDeployment(
            application=APPLICATIONS[2],
            version="v2",
            started_at=now - 10,
            pull_requests=1500,
        )
    )
    assert len(await desk.get(giant)) > 1_000_000
    *small, large = await desk.enrich(make_party(3))
    assert [verdict.deployment.id for verdict in small if isinstance(verdict, Found)] == ids
    assert isinstance(large, Never)
    assert large.reason == "too_large"


async def test_a_list_that_leads_away_or_in_circles_ends_there(desk: Desk) -> None:
    """What was listed until then counts."""
    desk.deploy(150)
    for rates in (Rates(foreign_link=1.0), Rates(loop_link=1.0)):
        desk.simulator.options = Options(conjure=False, faults=rates)
        verdicts = await desk.enrich(make_party(150))
        assert {type(verdict) for verdict in verdicts} == {Found, Later}


async def test_who_leaves_does_not_hold_up_the_others(desk: Desk) -> None:
    """The lead's lease may be lost: the list is still there for its company."""
    desk.deploy(3)
    desk.simulator.options = Options(conjure=False, latency_ms=(50, 50))
    party = make_party(3)
    desk.enricher.expect(party)
    lead, *company = [asyncio.create_task(desk.enricher.enrich(lease)) for lease in party]
    await asyncio.sleep(0)
    lead.cancel()
    verdicts = await asyncio.gather(*company)
    assert all(isinstance(verdict, Found) for verdict in verdicts)
    assert desk.calls == 1


async def test_when_all_have_left_nobody_asks_on(desk: Desk) -> None:
    """No call is made for nobody, and who comes later begins anew."""
    desk.deploy(3)
    desk.simulator.options = Options(conjure=False, latency_ms=(50, 50))
    party = make_party(3)
    desk.enricher.expect(party)
    tasks = [asyncio.create_task(desk.enricher.enrich(lease)) for lease in party[:2]]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "errand"]
    assert isinstance(await desk.enricher.enrich(party[2]), Found)


async def test_a_mistake_of_ours_is_told_to_each(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever on a list that came to nothing."""
    desk.deploy(3)

    def stumble(_: bytes) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("service.enrich.errand.read_deployment_page", stumble)
    party = make_party(3)
    desk.enricher.expect(party)
    ends = await asyncio.gather(*map(desk.enricher.enrich, party), return_exceptions=True)
    assert [type(end) for end in ends] == [KeyError] * 3
