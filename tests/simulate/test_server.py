"""Tests of the server: limits, faults, canned responses and options over real HTTP."""

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest

from service.simulate.options import Options, Shape, apply_changes
from service.simulate.quota import Limits
from service.simulate.rates import Fault, Rates
from service.simulate.responses import Canned
from tests.conftest import Eventually

from .conftest import BASE, BETA_HEADERS, VALID_HEADERS, ManualClock, SimulatedApi, StartSimulator

ID = "11d9906c-904d-47e3-bd00-025c6874b0d4"
PATH = f"{BASE}/deployments/{ID}"


def always_fault(fault: Fault, **other_options: Any) -> Options:
    """Return options under which one fault hits every call."""
    return Options(faults=Rates(**{fault.value: 1.0}), **other_options)


async def test_exhausted_window_responds_429_until_reset(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """The body is the documented one, the headers have the reset, and then calls pass again."""
    api = await start_simulator(Options(quota=Limits(global_limit=2, token_limit=9)))
    assert [(await api.call(PATH)).status for _ in range(2)] == [200, 200]
    refused = await api.call(PATH)
    assert refused.status == 429
    assert refused.json == {
        "code": "rate_limited",
        "message": "You've exceeded the API rate limit. Try again later.",
    }
    assert refused.headers["X-Ratelimit-Global-Remaining"] == "0"
    assert refused.headers["X-Ratelimit-Auth-Token-Remaining"] == "7"
    clock.now = int(refused.headers["X-Ratelimit-Reset"]) / 1000
    assert (await api.call(PATH)).status == 200


async def test_unauthorized_call_consumes_no_quota(start_simulator: StartSimulator) -> None:
    """A call without a valid token counts against no window."""
    api = await start_simulator(Options(quota=Limits(global_limit=1)))
    for _ in range(3):
        reply = await api.call(PATH, headers=BETA_HEADERS)
        assert (reply.status, "X-Ratelimit-Global-Limit" in reply.headers) == (401, False)
    assert (await api.call(PATH)).status == 200


async def test_route_limit_counts_each_route(start_simulator: StartSimulator) -> None:
    """Two ids are one route; a list is another."""
    api = await start_simulator(Options(quota=Limits(route_limit=1)))
    assert (await api.call(PATH)).status == 200
    assert (await api.get(f"/deployments/{ID[:-1]}5")).status == 429
    assert (await api.get("/pull-requests", projectKey="default")).status == 200


async def test_stats_count_calls_responses_and_windows(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """The stats have calls by route, responses by status, windows, ids and avoidable 429s."""
    api = await start_simulator(Options(quota=Limits(global_limit=2), notice_ms=250))
    await api.call(PATH)
    await api.get("/pull-requests", projectKey="default")
    await api.call(PATH)
    await api.call(PATH)
    clock.now += 0.3
    await api.call(PATH)
    stats = (await api.call("/simulator/stats")).json
    assert stats == msgspec.to_builtins(api.simulator.stats)
    assert stats["calls"] == {"GET /deployments/{id}": 4, "GET /pull-requests": 1}
    assert stats["statuses"] == {"200": 2, "429": 3}
    assert (stats["rate_limited"], stats["rate_limited_while_closed"]) == (3, 1)
    assert (stats["distinct_ids"], stats["max_concurrent"]) == (1, 1)
    (window,) = stats["windows"]
    assert (window["used"], window["limit"], window["refused"]) == (2, 2, 3)


async def test_first_refusal_of_a_window_is_not_avoidable(
    start_simulator: StartSimulator, clock: ManualClock
) -> None:
    """A caller cannot know before its first refusal that a window is closed."""
    api = await start_simulator(Options(quota=Limits(global_limit=0)))
    for _ in range(3):
        await api.call(PATH)
        clock.now += 10
    stats = api.simulator.stats
    assert (stats.rate_limited, stats.rate_limited_while_closed) == (3, 0)
    assert [window.refused for window in stats.windows] == [1, 1, 1]


async def test_stats_count_concurrent_calls(start_simulator: StartSimulator) -> None:
    """The stats keep the highest number of concurrent calls, after a reset too."""
    api = await start_simulator(always_fault(Fault.DRIP, drip_bytes=1, drip_every_ms=1))
    await asyncio.gather(*(api.call(PATH) for _ in range(3)))
    assert api.simulator.stats.max_concurrent == 3
    async with asyncio.timeout(
        5
    ):  # a client has its response before the server counts the end of the call
        while api.simulator.stats.max_concurrent:
            await api.call("/simulator/reset", method="POST")


async def test_reset_clears_the_stats(simulated_api: SimulatedApi) -> None:
    """After a reset all counts are zero."""
    await simulated_api.call(PATH)
    assert (await simulated_api.call("/simulator/reset", method="POST")).status == 204
    stats = simulated_api.simulator.stats
    assert (stats.calls, stats.statuses, stats.distinct_ids, stats.windows) == ({}, {}, 0, [])


async def test_changed_options_apply_to_the_next_call(simulated_api: SimulatedApi) -> None:
    """Only the named fields change, at any depth."""
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


async def test_cursor_stays_valid_after_a_change_of_options(
    start_simulator: StartSimulator,
) -> None:
    """A caller can finish its pages after the options change."""
    api = await start_simulator(Options(nested_page_size=1, shape=Shape(pull_requests=(2, 2))))
    page = (await api.call(f"{PATH}?expand=pullRequests")).json["pullRequests"]
    await api.call("/simulator/options", method="POST", json={"visible_after_ms": 0})
    rest = await api.call(page["_links"]["next"]["href"] + "&projectKey=default")
    assert len(rest.json["items"]) == 1


@pytest.mark.parametrize(
    "changes",
    [{"tokne": "x"}, {"faults": {"error": 2}}, {"quota": {"reset": "never"}}, {"seed": "one"}, []],
)
async def test_invalid_options_are_refused_and_change_nothing(
    simulated_api: SimulatedApi, changes: object
) -> None:
    """An unknown name, a rate over 1, an unknown choice and a wrong type get 400 with a message."""
    reply = await simulated_api.call("/simulator/options", method="POST", json=changes)
    assert reply.status == 400
    assert reply.json["message"]
    assert simulated_api.simulator.options == Options()


def test_empty_change_gives_equal_options() -> None:
    """An empty change keeps every option."""
    options = Options(latency_ms=(1, 2), quota=Limits(competing_per_window=3))
    assert apply_changes(options, b"{}") == options


def test_nested_change_keeps_sibling_options() -> None:
    """Within a group, options that are not named keep their values."""
    before = Options(quota=Limits(token_limit=3, window_ms=50))
    after = apply_changes(before, b'{"quota":{"global_limit":9}}')
    assert after == Options(quota=Limits(token_limit=3, window_ms=50, global_limit=9))


async def test_canned_response_is_sent_unchanged(start_simulator: StartSimulator) -> None:
    """It applies after token and quota, before faults, and only to paths with the suffix."""
    api = await start_simulator(always_fault(Fault.EMPTY, quota=Limits(global_limit=3)))
    canned = Canned(status=418, headers={"X-Odd": "yes"}, body=b"teapot")
    api.simulator.set_response(f"/deployments/{ID}", canned)
    api.simulator.set_response("?after=here", Canned(body=b"{}"))
    assert (await api.call(PATH, headers=BETA_HEADERS)).status == 401
    reply = await api.call(f"{PATH}?expand=pullRequests")
    assert (reply.status, reply.body, reply.headers["X-Odd"]) == (418, b"teapot", "yes")
    assert reply.headers["X-Ratelimit-Global-Remaining"] == "2"
    assert (await api.call(f"{BASE}/pull-requests?after=here")).body == b"{}"
    assert (await api.call(f"{BASE}/deployments/{ID[:-1]}5")).body == b""
    assert (await api.call(PATH)).status == 429


@pytest.mark.parametrize(
    "fault", sorted(set(Fault) - {Fault.RESET, Fault.DRIP, Fault.OVERSIZED, Fault.REDIRECT})
)
async def test_fault_changes_the_response_and_is_counted(
    start_simulator: StartSimulator, fault: Fault
) -> None:
    """With rate 1 the fault hits the call; without it the response differs."""
    shape = Shape(pull_requests=(4, 4))
    api = await start_simulator(always_fault(fault, shape=shape, quota=Limits(global_limit=9)))
    query = f"{PATH}?expand=pullRequests,flagReferences"
    faulty = await api.call(query)
    assert api.simulator.stats.faults == {fault: 1}
    from_gateway = fault in {Fault.ERROR_HTML, Fault.ERROR_EMPTY}
    assert ("X-Ratelimit-Global-Limit" in faulty.headers) != from_gateway
    api.simulator.options = Options(shape=shape)
    assert faulty.body != (await api.call(query)).body


async def test_redirect_points_to_another_host(start_simulator: StartSimulator) -> None:
    """302 to the lure URL, with the path of the call."""
    api = await start_simulator(always_fault(Fault.REDIRECT, lure_url="http://lure.test"))
    reply = await api.call(PATH)
    assert (reply.status, reply.headers["Location"]) == (302, f"http://lure.test{PATH}")


async def test_reset_fault_aborts_the_connection(start_simulator: StartSimulator) -> None:
    """The caller sees a broken connection; the stats count it as `cut`."""
    api = await start_simulator(always_fault(Fault.RESET))
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.call(PATH)
    assert set(api.simulator.stats.statuses) == {"cut"}


async def test_aborted_event_call_has_its_effect(
    start_simulator: StartSimulator,
) -> None:
    """An event is recorded although its response is lost."""
    api = await start_simulator(always_fault(Fault.RESET))
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.post_event("finished")
    api.simulator.options = Options()
    listed = await api.get("/deployments", projectKey="default", environmentKey="production")
    assert listed.json["totalCount"] == 1


async def test_slow_body_is_complete_in_the_end(start_simulator: StartSimulator) -> None:
    """It arrives in many chunks and equals the body without the fault."""
    api = await start_simulator(always_fault(Fault.DRIP, drip_bytes=50, drip_every_ms=1))
    async with api.session.get(api.url + PATH, headers=VALID_HEADERS) as response:
        chunks = [chunk async for chunk in response.content.iter_any()]
    api.simulator.options = Options()
    assert b"".join(chunks) == (await api.call(PATH)).body
    assert len(chunks) > 1


async def test_oversized_body_has_the_configured_length(start_simulator: StartSimulator) -> None:
    """It has no Content-Length and is valid JSON when read to the end."""
    api = await start_simulator(always_fault(Fault.OVERSIZED, oversized_bytes=200_000))
    reply = await api.call(PATH)
    assert "Content-Length" not in reply.headers
    assert len(reply.json["metadata"]["padding"]) == 200_000


async def test_oversized_body_can_be_left_unread(start_simulator: StartSimulator) -> None:
    """A caller that closes the connection causes no error, and the next call succeeds."""
    api = await start_simulator(always_fault(Fault.OVERSIZED, oversized_bytes=2**34))
    async with api.session.get(api.url + PATH, headers=VALID_HEADERS) as response:
        assert (await response.content.read(10)).startswith(b'{"metadata')
    api.simulator.options = Options()
    assert (await api.call(PATH)).status == 200


async def test_equal_seeds_give_equal_faults(start_simulator: StartSimulator) -> None:
    """Two simulators with equal seeds apply the same faults in the same order."""
    options = Options(faults=Rates(error=0.3, empty=0.3))
    runs = []
    for _ in range(2):
        api = await start_simulator(options)
        runs.append([(await api.call(PATH)).body for _ in range(20)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


async def test_latency_delays_responses_but_not_429(
    start_simulator: StartSimulator, eventually: Eventually
) -> None:
    """A 429 arrives before a slow response to an earlier call."""
    api = await start_simulator(Options(latency_ms=(30_000, 30_000), quota=Limits(global_limit=1)))
    slow = asyncio.create_task(api.call(PATH))

    async def slow_is_in_work() -> bool:
        return api.simulator.stats.max_concurrent == 1

    await eventually(slow_is_in_work)
    assert (await api.call(PATH)).status == 429
    assert not slow.done()
    slow.cancel()


async def test_index_and_health_need_no_token(simulated_api: SimulatedApi) -> None:
    """Without a token, `/` describes the simulator and `/healthz` responds ok."""
    greeting = await simulated_api.call("/", headers={})
    assert greeting.headers["Content-Type"].startswith("text/plain")
    assert f"GET  {BASE}/deployments/{{id}}" in greeting.body.decode()
    assert (await simulated_api.call("/healthz", headers={})).json == {"status": "ok"}
