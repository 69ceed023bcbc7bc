"""Do limits, faults, plants and knobs reach the caller over real HTTP?"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from service.simulate.options import Options, Shape, apply_changes
from service.simulate.quota import Limits
from service.simulate.rates import Fault, Rates
from service.simulate.responses import Canned

from .conftest import BASE, BETA_HEADERS, VALID_HEADERS, ManualClock, SimulatedApi, StartSimulator

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
ID = "11d9906c-904d-47e3-bd00-025c6874b0d4"
PATH = f"{BASE}/deployments/{ID}"


def always_fault(fault: Fault, **other_options: Any) -> Options:
    """Give options under which one fault hits every call."""
    return Options(faults=Rates(**{fault.value: 1.0}), **other_options)


async def test_a_used_up_window_answers_429_until_it_opens_anew(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """The body is the documented one, the headers say when, and then calls go through again."""
    table = await start_simulator(Options(quota=Limits(global_limit=2, token_limit=9)))
    assert [(await table.call(PATH)).status for _ in range(2)] == [200, 200]
    refused = await table.call(PATH)
    assert refused.status == 429
    assert refused.json == {
        "code": "rate_limited",
        "message": "You've exceeded the API rate limit. Try again later.",
    }
    assert refused.headers["X-Ratelimit-Global-Remaining"] == "0"
    assert refused.headers["X-Ratelimit-Auth-Token-Remaining"] == "7"
    clock.now = int(refused.headers["X-Ratelimit-Reset"]) / 1000
    assert (await table.call(PATH)).status == 200


async def test_strangers_use_nothing_up(start_simulator: StartSimulator) -> None:
    """A call that is turned away at the receiver counts against no window."""
    table = await start_simulator(Options(quota=Limits(global_limit=1)))
    for _ in range(3):
        reply = await table.call(PATH, headers=BETA_HEADERS)
        assert (reply.status, "X-Ratelimit-Global-Limit" in reply.headers) == (401, False)
    assert (await table.call(PATH)).status == 200


async def test_routes_are_limited_one_by_one(start_simulator: StartSimulator) -> None:
    """Two ids are one route; a list is another."""
    table = await start_simulator(Options(quota=Limits(route_limit=1)))
    assert (await table.call(PATH)).status == 200
    assert (await table.get(f"/deployments/{ID[:-1]}5")).status == 429
    assert (await table.get("/pull-requests", projectKey="default")).status == 200


async def test_statistics_tell_what_was_called(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """Calls by route, answers by status, windows, ids, and 429s that need not have been."""
    table = await start_simulator(Options(quota=Limits(global_limit=2), notice_ms=250))
    await table.call(PATH)
    await table.get("/pull-requests", projectKey="default")
    await table.call(PATH)
    await table.call(PATH)
    clock.now += 0.3
    await table.call(PATH)
    stats = (await table.call("/simulator/stats")).json
    assert stats == msgspec.to_builtins(table.simulator.stats)
    assert stats["calls"] == {"GET /deployments/{id}": 4, "GET /pull-requests": 1}
    assert stats["statuses"] == {"200": 2, "429": 3}
    assert (stats["rate_limited"], stats["rate_limited_while_closed"]) == (3, 1)
    assert (stats["distinct_ids"], stats["max_concurrent"]) == (1, 1)
    (window,) = stats["windows"]
    assert (window["used"], window["limit"], window["refused"]) == (2, 2, 3)


async def test_a_new_window_is_not_known_to_be_closed(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """The first refusal of each window is nobody's fault."""
    table = await start_simulator(Options(quota=Limits(global_limit=0)))
    for _ in range(3):
        await table.call(PATH)
        clock.now += 10
    stats = table.simulator.stats
    assert (stats.rate_limited, stats.rate_limited_while_closed) == (3, 0)
    assert [window.refused for window in stats.windows] == [1, 1, 1]


async def test_calls_in_work_at_one_time_are_counted(start_simulator: StartSimulator) -> None:
    """The most that overlapped is told, after a reset too."""
    table = await start_simulator(always_fault(Fault.DRIP, drip_bytes=1, drip_every_ms=1))
    await asyncio.gather(*(table.call(PATH) for _ in range(3)))
    assert table.simulator.stats.max_concurrent == 3
    async with asyncio.timeout(5):  # a client has its answer before the server is done with it
        while table.simulator.stats.max_concurrent:
            await table.call("/simulator/reset", method="POST")


async def test_a_reset_counts_anew(simulated_api: SimulatedApi) -> None:
    """After it nothing has been called."""
    await simulated_api.call(PATH)
    assert (await simulated_api.call("/simulator/reset", method="POST")).status == 204
    stats = simulated_api.simulator.stats
    assert (stats.calls, stats.statuses, stats.distinct_ids, stats.windows) == ({}, {}, 0, [])


async def test_options_change_while_it_runs(simulated_api: SimulatedApi) -> None:
    """Only the named fields change, at any depth, and the change holds from the next call on."""
    await simulated_api.call(PATH)
    changes = {"shape": {"novelties": True}, "quota": {"global_limit": 9}}
    reply = await simulated_api.call("/simulator/options", method="POST", json=changes)
    assert reply.status == 204
    assert simulated_api.simulator.options == Options(
        shape=Shape(novelties=True), quota=Limits(global_limit=9)
    )
    changed = await simulated_api.call(PATH)
    assert "riskScore" in changed.json
    assert changed.headers["X-Ratelimit-Global-Limit"] == "9"


async def test_a_cursor_outlives_a_change_of_options(start_simulator: StartSimulator) -> None:
    """A caller half through its pages is not thrown off."""
    table = await start_simulator(Options(nested_page_size=1, shape=Shape(pull_requests=(2, 2))))
    page = (await table.call(f"{PATH}?expand=pullRequests")).json["pullRequests"]
    await table.call("/simulator/options", method="POST", json={"visible_after_ms": 0})
    rest = await table.call(page["_links"]["next"]["href"] + "&projectKey=default")
    assert len(rest.json["items"]) == 1


@pytest.mark.parametrize(
    "changes",
    [{"tokne": "x"}, {"faults": {"error": 2}}, {"quota": {"reset": "never"}}, {"seed": "one"}, []],
)
async def test_wrong_options_are_refused_and_change_nothing(
    simulated_api: SimulatedApi, changes: object
) -> None:
    """An unknown name, a rate over 1, an unknown choice and a wrong type are 400 and explained."""
    reply = await simulated_api.call("/simulator/options", method="POST", json=changes)
    assert reply.status == 400
    assert reply.json["message"]
    assert simulated_api.simulator.options == Options()


def test_nothing_changed_is_the_same_options() -> None:
    """An empty change gives equal options, whatever they were."""
    options = Options(latency_ms=(1, 2), quota=Limits(competing_per_window=3))
    assert apply_changes(options, b"{}") == options


def test_a_change_leaves_its_neighbours_alone() -> None:
    """Within a group of options, what is not named keeps the value that it had."""
    before = Options(quota=Limits(token_limit=3, window_ms=50))
    after = apply_changes(before, b'{"quota":{"global_limit":9}}')
    assert after == Options(quota=Limits(token_limit=3, window_ms=50, global_limit=9))


async def test_a_planted_answer_is_told_word_by_word(start_simulator: StartSimulator) -> None:
    """It comes after token and quota, before faults, and only where the path ends so."""
    table = await start_simulator(always_fault(Fault.EMPTY, quota=Limits(global_limit=3)))
    planted = Canned(status=418, headers={"X-Odd": "yes"}, body=b"teapot")
    table.simulator.set_response(f"/deployments/{ID}", planted)
    table.simulator.set_response("?after=here", Canned(body=b"{}"))
    assert (await table.call(PATH, headers=BETA_HEADERS)).status == 401
    reply = await table.call(f"{PATH}?expand=pullRequests")
    assert (reply.status, reply.body, reply.headers["X-Odd"]) == (418, b"teapot", "yes")
    assert reply.headers["X-Ratelimit-Global-Remaining"] == "2"
    assert (await table.call(f"{BASE}/pull-requests?after=here")).body == b"{}"
    assert (await table.call(f"{BASE}/deployments/{ID[:-1]}5")).body == b""
    assert (await table.call(PATH)).status == 429


@pytest.mark.parametrize(
    "fault", sorted(set(Fault) - {Fault.RESET, Fault.DRIP, Fault.OVERSIZED, Fault.REDIRECT})
)
async def test_a_fault_changes_the_answer_and_is_counted(
    start_simulator: StartSimulator, fault: Fault
) -> None:
    """With its rate at 1 it hits the call; the same call without it is answered otherwise."""
    shape = Shape(pull_requests=(4, 4))
    table = await start_simulator(always_fault(fault, shape=shape, quota=Limits(global_limit=9)))
    query = f"{PATH}?expand=pullRequests,flagReferences"
    struck = await table.call(query)
    assert table.simulator.stats.faults == {fault: 1}
    from_gateway = fault in {Fault.ERROR_HTML, Fault.ERROR_EMPTY}
    assert ("X-Ratelimit-Global-Limit" in struck.headers) != from_gateway
    table.simulator.options = Options(shape=shape)
    assert struck.body != (await table.call(query)).body


async def test_a_redirect_leads_to_another_host(start_simulator: StartSimulator) -> None:
    """302 to the lure, with the path that was asked."""
    table = await start_simulator(always_fault(Fault.REDIRECT, lure_url="http://lure.test"))
    reply = await table.call(PATH)
    assert (reply.status, reply.headers["Location"]) == (302, f"http://lure.test{PATH}")


async def test_a_cut_connection_brings_no_answer(start_simulator: StartSimulator) -> None:
    """The caller sees the connection break; the statistics say that it was cut."""
    table = await start_simulator(always_fault(Fault.RESET))
    with pytest.raises(aiohttp.ClientConnectionError):
        await table.call(PATH)
    assert set(table.simulator.stats.statuses) == {"cut"}


async def test_what_was_asked_is_done_though_the_connection_is_cut(
    start_simulator: StartSimulator,
) -> None:
    """An event whose answer is lost has been recorded."""
    table = await start_simulator(always_fault(Fault.RESET))
    with pytest.raises(aiohttp.ClientConnectionError):
        await table.post_event("finished")
    table.simulator.options = Options()
    listed = await table.get("/deployments", projectKey="default", environmentKey="production")
    assert listed.json["totalCount"] == 1


async def test_a_dripping_body_is_whole_in_the_end(start_simulator: StartSimulator) -> None:
    """It comes in many drops and says the same as the body at once."""
    table = await start_simulator(always_fault(Fault.DRIP, drip_bytes=50, drip_every_ms=1))
    async with table.session.get(table.url + PATH, headers=VALID_HEADERS) as response:
        drops = [drop async for drop in response.content.iter_any()]
    table.simulator.options = Options()
    assert b"".join(drops) == (await table.call(PATH)).body
    assert len(drops) > 1


async def test_an_oversized_body_is_as_long_as_told(start_simulator: StartSimulator) -> None:
    """It announces no length and is still JSON, for whoever reads to the end."""
    table = await start_simulator(always_fault(Fault.OVERSIZED, oversized_bytes=200_000))
    reply = await table.call(PATH)
    assert "Content-Length" not in reply.headers
    assert len(reply.json["metadata"]["padding"]) == 200_000


async def test_an_oversized_body_may_be_left_unread(start_simulator: StartSimulator) -> None:
    """A caller that hangs up is no error, and the next call is answered."""
    table = await start_simulator(always_fault(Fault.OVERSIZED, oversized_bytes=2**34))
    async with table.session.get(table.url + PATH, headers=VALID_HEADERS) as response:
        assert (await response.content.read(10)).startswith(b'{"metadata')
    table.simulator.options = Options()
    assert (await table.call(PATH)).status == 200


async def test_the_same_chance_gives_the_same_run(start_simulator: StartSimulator) -> None:
    """Two simulators with equal seeds are struck by the same faults in the same order."""
    options = Options(faults=Rates(error=0.3, empty=0.3))
    runs = []
    for _ in range(2):
        table = await start_simulator(options)
        runs.append([(await table.call(PATH)).body for _ in range(20)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


async def test_latency_holds_an_answer_back_but_no_refusal(
    start_simulator: StartSimulator, eventually: Eventually
) -> None:
    """Of a slow answer and a 429 asked for later, the 429 is there first."""
    table = await start_simulator(
        Options(latency_ms=(30_000, 30_000), quota=Limits(global_limit=1))
    )
    slow = asyncio.create_task(table.call(PATH))

    async def slow_is_in_work() -> bool:
        return table.simulator.stats.max_concurrent == 1

    await eventually(slow_is_in_work)
    assert (await table.call(PATH)).status == 429
    assert not slow.done()
    slow.cancel()


async def test_it_says_what_it_is(simulated_api: SimulatedApi) -> None:
    """Without a token, `/` is a few words and `/healthz` says ok."""
    greeting = await simulated_api.call("/", headers={})
    assert greeting.headers["Content-Type"].startswith("text/plain")
    assert f"GET  {BASE}/deployments/{{id}}" in greeting.body.decode()
    assert (await simulated_api.call("/healthz", headers={})).json == {"status": "ok"}
