"""Tests of the lists of flag events: shared by refreshes, within the budget, and never harmful."""

import asyncio
import io
import json
import random
import time
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.ticket import Lease, RefreshState
from service.enrich.flag_event_lists import FlagEventLimits, FlagEventLists
from service.enrich.flag_events import FlagEventsFound
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found, Retry, Verdict
from service.log import build_log
from service.simulate.api import Route
from service.simulate.flag_events import NewFlagEvent
from service.simulate.options import Options
from service.store.keys import Keys
from tests.enrich.budget_harness import BudgetHarness
from tests.enrich.enricher_harness import EnricherHarness
from tests.factories import make_lease, make_ticket

MINUTE = 60_000
PATH = "engineering-insights/flag-events"


class FlagEventHarness:
    """Lists of flag events before a simulator; the deployments come from the test itself."""

    def __init__(self, enricher_harness: EnricherHarness) -> None:
        self.upstream = enricher_harness
        self.simulator = enricher_harness.simulator
        self.now = int(time.time() * 1000)
        self.clock = 1000.0
        self.log_output = io.StringIO()
        self.lists = self.open_lists()
        self.verdict: Verdict | None = None

    def open_lists(self, *, with_members: bool = False, **limits: Any) -> FlagEventLists:
        """Return the lists of another worker."""
        return FlagEventLists(
            self.upstream.enricher._upstream,
            name=f"{random.getrandbits(64):016x}",
            with_members=with_members,
            clock=lambda: self.clock,
            log=build_log(stream=self.log_output, pretty=False),
            limits=FlagEventLimits(**limits),
        )

    @property
    def calls(self) -> int:
        """The calls for flag events that the simulator received."""
        return self.simulator.stats.calls.get(Route.LIST_FLAG_EVENTS, 0)

    def add_event(self, flag: str = "dark-mode", *, minutes_ago: float = 1, **fields: Any) -> None:
        """Add a flag event."""
        event_time = self.now - round(minutes_ago * MINUTE)
        self.simulator.add_flag_event(NewFlagEvent(flag_key=flag, event_time=event_time, **fields))

    def make_lease(self, **fields: Any) -> Lease:
        """Return the lease of a refresh; its first record is 15 minutes old."""
        refresh = RefreshState(0, self.now - 15 * MINUTE)
        ticket = {"project": "default", "environment": "production", "refresh": refresh} | fields
        return make_lease(make_ticket(**ticket), now=self.now, queued_at=self.now - 15 * MINUTE)

    async def refresh(
        self,
        *flags: str,
        ended_minutes_ago: float = 16,
        lists: FlagEventLists | None = None,
        **fields: Any,
    ) -> Found:
        """Refresh a deployment that touches these flags."""
        ended_at = self.now - round(ended_minutes_ago * MINUTE)
        deployment = make_deployment(flags or ("dark-mode",), endedAt=ended_at)
        found = Found(deployment=deployment, chunks=(b"{}",))

        async def enrich(_: Lease) -> Verdict:
            return found

        verdict = await (lists or self.lists).wrap(enrich)(self.make_lease(**fields))
        assert isinstance(verdict, Found)
        return verdict

    def log_events(self) -> list[dict[str, Any]]:
        """Return the log lines."""
        return [json.loads(line) for line in self.log_output.getvalue().splitlines()]


def make_deployment(flags: tuple[str, ...], **fields: Any) -> Deployment:
    """Return a deployment that references flags of the default project."""
    items = [{"projectKey": "default", "flagKey": flag} for flag in flags]
    content = {"id": "a", "status": "finished", "flagReferences": {"items": items}} | fields
    deployment = parse_deployment(json.dumps(content).encode())
    assert isinstance(deployment, Deployment)
    return deployment


def events_of(found: Found) -> FlagEventsFound:
    """Return the flag events of a deployment."""
    assert found.flag_events is not None
    return found.flag_events


def flags_of(found: Found) -> list[str | None]:
    """Return the flags of the events, in order."""
    return [event.flag_key for event in events_of(found).events or ()]


@pytest.fixture(autouse=True)
async def large_probe(redis: Redis, keys: Keys) -> None:
    """Let an unknown rate-limit window be opened with a thousand calls."""
    await redis.hset(keys.budget, "probe", "1000")
    await redis.pexpire(keys.budget, 60_000)


@pytest.fixture
def harness(enricher_harness: EnricherHarness) -> FlagEventHarness:
    """Return the lists of one worker before a simulator."""
    return FlagEventHarness(enricher_harness)


async def test_refresh_gets_the_events_of_its_flags_since_its_end(
    harness: FlagEventHarness,
) -> None:
    """Earlier events, other flags and other environments are none of its own."""
    harness.add_event(minutes_ago=10)
    harness.add_event("fast-search", minutes_ago=12)
    harness.add_event(minutes_ago=17)
    harness.add_event("other-flag")
    harness.add_event(environment_key="staging")
    found = await harness.refresh("dark-mode", "fast-search")
    assert flags_of(found) == ["fast-search", "dark-mode"]
    assert events_of(found).reason is None
    assert (found.calls, harness.calls) == (2, 1)


async def test_first_attempt_asks_for_nothing(harness: FlagEventHarness) -> None:
    """Nor does a refresh that did not find its deployment."""

    async def enrich(_: Lease) -> Verdict:
        return Retry(reason="HTTP 500")

    found = Found(deployment=make_deployment(("dark-mode",)), chunks=(b"{}",))

    async def find(_: Lease) -> Verdict:
        return found

    assert await harness.lists.wrap(find)(harness.make_lease(refresh=None)) is found
    assert isinstance(await harness.lists.wrap(enrich)(harness.make_lease()), Retry)
    assert harness.calls == 0


@pytest.mark.parametrize("case", ["no flags", "not ended"])
async def test_deployment_without_flags_or_end_costs_no_call(
    harness: FlagEventHarness, case: str
) -> None:
    """It has no events, and that is known."""
    flags = () if case == "no flags" else ("dark-mode",)
    status = "started" if case == "not ended" else "finished"
    found = Found(deployment=make_deployment(flags, status=status), chunks=(b"{}",))
    completed = await harness.lists.add_to(found, harness.make_lease(), published_at=harness.now)
    assert completed.flag_events == FlagEventsFound(events=())
    assert (completed.calls, harness.calls) == (1, 0)


@pytest.mark.parametrize("unknown", ["project", "environment"])
async def test_deployment_of_an_unknown_scope_gets_no_flag_events(
    harness: FlagEventHarness, unknown: str
) -> None:
    """LaunchDarkly lists flag events by project and environment only."""
    fields: dict[str, Any] = {unknown: None}
    assert (await harness.refresh(**fields)).flag_events is None
    assert harness.calls == 0


async def test_refreshes_due_together_share_few_calls(harness: FlagEventHarness) -> None:
    """A thousand deployments of a day, of ten applications: at most 0.02 calls for each."""
    for minutes_ago in range(240):
        harness.add_event(f"flag-{minutes_ago % 10}", minutes_ago=minutes_ago)
    rng = random.Random(5)
    ages = [rng.uniform(2, 24 * 60) for _ in range(1000)]
    found = await asyncio.gather(
        *(
            harness.refresh(
                f"flag-{number % 10}", ended_minutes_ago=age, application=f"app-{number % 10}"
            )
            for number, age in enumerate(ages)
        )
    )
    for number, (verdict, age) in enumerate(zip(found, ages, strict=True)):
        expected = sum(minutes % 10 == number % 10 and minutes <= age for minutes in range(240))
        assert len(events_of(verdict).events or ()) == expected
        assert events_of(verdict).reason is None
    assert harness.calls <= 20
    assert sum(verdict.calls - 1 for verdict in found) == harness.calls


async def test_list_is_read_again_when_it_is_old_or_too_short(harness: FlagEventHarness) -> None:
    """It is used for half a minute, and for a tenth of the time since the first record."""
    await harness.refresh(ended_minutes_ago=3)
    await harness.refresh(ended_minutes_ago=2)
    assert harness.calls == 1
    await harness.refresh(ended_minutes_ago=30)
    await harness.refresh(ended_minutes_ago=20)
    assert harness.calls == 2
    harness.clock += 29
    await harness.refresh()
    assert harness.calls == 2
    harness.add_event(minutes_ago=0)
    harness.clock += 2
    assert flags_of(await harness.refresh()) == ["dark-mode"]
    assert harness.calls == 3
    harness.clock += 5
    recent = RefreshState(0, harness.now - 40_000)
    await harness.refresh(refresh=recent)
    assert harness.calls == 4


async def test_list_of_many_pages_is_read_to_its_end(harness: FlagEventHarness) -> None:
    """The next link carries only the cursor; the other parameters are added to it."""
    for number in range(250):
        harness.add_event(minutes_ago=1 + number / 1000)
    found = await harness.refresh()
    assert len(flags_of(found)) == 250
    assert events_of(found).reason is None
    assert harness.calls == 3


async def test_list_is_bounded_in_calls(harness: FlagEventHarness) -> None:
    """What is missing is said; the events that were read are there."""
    for number in range(250):
        harness.add_event(minutes_ago=1 + number / 1000)
    found = await harness.refresh(lists=harness.open_lists(max_calls=2))
    assert (len(flags_of(found)), harness.calls) == (200, 2)
    assert events_of(found).reason == "more than 200 flag events"
    assert (events_of(found).unsettled, events_of(found).may_change) == (False, True)


@pytest.mark.parametrize(
    ("href", "reason"),
    [
        ("https://lure.invalid/api/v2/engineering-insights/flag-events?after=x", "another host"),
        ("/api/v2/engineering-insights/deployments?after=x", "another route"),
        ("/api/v2/engineering-insights/flag-events?after=same", "repeat"),
        (7, "could not be read"),
    ],
)
async def test_unsafe_or_repeated_link_is_not_followed(
    harness: FlagEventHarness, href: object, reason: str
) -> None:
    """It ends the list, which says so."""
    item = {"id": "1", "flagKey": "dark-mode", "eventTime": harness.now - MINUTE}
    page = {"totalCount": 9, "items": [item], "_links": {"next": {"href": href}}}
    harness.upstream.set_response(PATH, page)
    found = await harness.refresh()
    assert flags_of(found) == ["dark-mode"]
    assert reason in (events_of(found).reason or "")
    assert harness.calls <= 2


async def test_list_with_fewer_events_than_it_counts_says_so(harness: FlagEventHarness) -> None:
    """There is no further page."""
    item = {"id": "1", "flagKey": "dark-mode", "eventTime": harness.now - MINUTE}
    harness.upstream.set_response(PATH, {"totalCount": 3, "items": [item]})
    assert events_of(await harness.refresh()).reason == "1 of 3 flag events are listed"


async def test_waiting_impact_may_change(harness: FlagEventHarness) -> None:
    """A later refresh asks again; a computed one is final."""
    harness.add_event(minutes_ago=1)
    assert events_of(await harness.refresh()).may_change
    harness.clock += 31
    harness.simulator._flag_events._events.clear()
    harness.add_event(minutes_ago=11)
    assert not events_of(await harness.refresh()).may_change


async def test_forbidden_list_harms_nothing_and_is_asked_for_rarely(
    harness: FlagEventHarness, redis: Redis, keys: Keys
) -> None:
    """The budget stays open, the project is not marked, one line is logged, and few calls made."""
    harness.simulator.options = Options(auto_create=False, forbidden_projects=("default",))
    for _ in range(4):
        await harness.refresh()
        harness.clock += 60
    events = events_of(await harness.refresh())
    assert events.events is None
    assert events.reason == "HTTP 403: the access token may not read flag events"
    assert (events.unsettled, events.may_change) == (True, False)
    assert harness.calls == 1
    assert not await redis.exists(keys.forbidden)
    assert await redis.hget(keys.budget, "closed_until") is None
    (line,) = harness.log_events()
    assert (line["event"], line["scope"]) == ("flag_events_unreadable", "default/production")
    harness.clock += 600
    await harness.refresh()
    assert harness.calls == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_route_does_not_close_the_budget(
    harness: FlagEventHarness, redis: Redis, keys: Keys, status: int
) -> None:
    """The same answer to a call for deployments would close it: here it concerns one route."""
    message = "This API is in beta. To use it, send the header `LD-API-Version: beta`."
    harness.upstream.set_response(PATH, {"message": message}, status)
    assert events_of(await harness.refresh()).events is None
    assert await redis.hget(keys.budget, "closed_until") is None
    assert harness.calls == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_failing_list_is_repeated_and_then_left_out(
    harness: FlagEventHarness, redis: Redis, keys: Keys, status: int
) -> None:
    """A passing fault costs tries only; one that stays is named, and opens no breaker."""
    harness.add_event()
    harness.upstream.set_response(PATH, {}, status, times=2)
    assert flags_of(await harness.refresh()) == ["dark-mode"]
    harness.clock += 31
    harness.upstream.set_response(PATH, {}, status)
    for number in range(6):
        found = await harness.refresh(environment=f"environment-{number}")
        assert events_of(found).reason == f"HTTP {status}"
        assert (events_of(found).unsettled, events_of(found).may_change) == (True, True)
    assert await redis.hget(keys.budget, "closed_until") is None


async def test_page_that_fails_leaves_the_events_before_it(harness: FlagEventHarness) -> None:
    """They are there, with the reason, and make no revision by themselves."""
    for number in range(150):
        harness.add_event(minutes_ago=1 + number / 1000)
    first = await harness.refresh()
    assert len(flags_of(first)) == 150
    harness.clock += 31
    oldest_listed = (events_of(first).events or ())[50].id
    harness.upstream.set_response(f"after={oldest_listed}", b"<html>down</html>", 200)
    found = await harness.refresh()
    assert len(flags_of(found)) == 100
    assert events_of(found).reason == "a page of flag events is not JSON"
    assert events_of(found).unsettled


@pytest.mark.parametrize("body", [b"[]", b'{"items": 7}', b'{"items": null, "totalCount": "x"}'])
async def test_list_of_another_shape_never_raises(harness: FlagEventHarness, body: bytes) -> None:
    """The refresh gets no events, or none that can be used."""
    harness.upstream.set_response(PATH, body)
    assert not events_of(await harness.refresh()).events


async def test_silent_list_ends_in_time(
    harness: FlagEventHarness, redis: Redis, keys: Keys
) -> None:
    """After the timeout nobody asks again for a minute, and the call is no longer in flight."""
    harness.simulator.options = Options(auto_create=False, latency_ms=(5000, 5000))
    lists = harness.open_lists(timeout_s=0.2)
    found = await harness.refresh(lists=lists)
    assert events_of(found).reason == "not read in 0.2 s"
    harness.clock += 50
    assert events_of(await harness.refresh(lists=lists)).events is None
    assert harness.calls == 1
    while await redis.zcard(keys.budget_calls):
        await asyncio.sleep(0.01)


async def set_window(redis: Redis, keys: Keys, *, remaining: int) -> None:
    """Set the window that LaunchDarkly reported last: ten calls."""
    seconds, _ = await redis.time()
    reset = seconds * 1000 + 60_000
    window = f"10 {remaining} {reset} reported {remaining} 0 {seconds}000"
    await redis.hset(keys.budget, mapping={"global": window, "other_clients_per_s": "0"})


async def test_list_waits_while_only_the_reserve_is_left(
    harness: FlagEventHarness, redis: Redis, keys: Keys
) -> None:
    """A fifth of the limit is for webhooks; with more calls left, the list is read."""
    await set_window(redis, keys, remaining=2)
    found = await harness.refresh(lists=harness.open_lists(timeout_s=0.3))
    assert events_of(found).reason == "not read in 0.3 s"
    assert harness.calls == 0
    await set_window(redis, keys, remaining=4)
    assert events_of(await harness.refresh()).reason is None
    assert harness.calls == 1


async def test_list_gives_way_to_first_attempts(
    harness: FlagEventHarness, budget_harness: BudgetHarness, redis: Redis, keys: Keys
) -> None:
    """Each first attempt that is due keeps its call; while there are more, the list is read."""
    await set_window(redis, keys, remaining=6)
    await budget_harness.add_tickets(4)
    found = await harness.refresh()
    assert events_of(found).reason == "all calls were needed for webhooks"
    assert (events_of(found).unsettled, events_of(found).may_change) == (True, True)
    assert harness.calls == 0
    assert harness.log_events() == []
    await set_window(redis, keys, remaining=9)
    harness.clock += 31
    assert events_of(await harness.refresh()).reason is None
    assert harness.calls == 1


async def test_refreshes_that_are_due_do_not_stop_the_list(
    harness: FlagEventHarness, redis: Redis, keys: Keys
) -> None:
    """They wait for the list: it would never be read while many of them are due."""
    await set_window(redis, keys, remaining=6)
    await redis.zadd(keys.backlog, {f"id:{number}": -(2**51) + number for number in range(50)})
    await redis.zadd(keys.backlog, {"id:due": 1})
    await redis.pexpire(keys.backlog, 60_000)
    assert events_of(await harness.refresh()).reason is None
    assert harness.calls == 1
    await redis.delete(keys.backlog)


async def test_lists_of_many_environments_are_bounded(harness: FlagEventHarness) -> None:
    """The oldest are forgotten."""
    lists = harness.open_lists(max_lists=3)
    for number in range(8):
        await harness.refresh(lists=lists, environment=f"environment-{number}")
    assert sum(map(len, lists._lists.values())) <= 3
    assert len(lists._locks) <= 3
    await harness.refresh(lists=lists, environment="environment-7")
    assert harness.calls == 8


async def test_members_are_named_only_if_asked_for(harness: FlagEventHarness) -> None:
    """Without, nothing that is kept holds the address."""
    harness.add_event(member_email="grace@example.com", description="by grace@example.com")
    assert "grace@example.com" not in repr(await harness.refresh())
    assert "grace@example.com" not in repr(harness.lists._lists)
    named = await harness.refresh(lists=harness.open_lists(with_members=True))
    (event,) = events_of(named).events or ()
    assert event.member is not None
    assert event.member.email == "grace@example.com"


async def test_cancelled_refresh_leaves_the_list_to_the_next(harness: FlagEventHarness) -> None:
    """A lease that is lost while the list is read blocks nobody."""
    harness.simulator.options = Options(auto_create=False, latency_ms=(300, 300))
    first = asyncio.create_task(harness.refresh())
    second = asyncio.create_task(harness.refresh())
    while harness.calls < 1:
        await asyncio.sleep(0.01)
    first.cancel()
    assert events_of(await second).reason is None
    assert harness.calls == 2
    with pytest.raises(asyncio.CancelledError):
        await first
    assert replace(await harness.refresh(), calls=1).flag_events is not None
