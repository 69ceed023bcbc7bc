"""Tests of the simulated pipeline: reproducible by its seed, and it logs what fails."""

import io
import json
import socket
from http import HTTPStatus
from random import Random

import aiohttp
import pytest

from service.log import build_log
from service.simulate import pipeline as pipeline_module
from service.simulate.options import Options
from service.simulate.pipeline import (
    EventBody,
    Pipeline,
    PipelineTargets,
    PostRefused,
    SendRate,
    build_flag_event,
    report_event,
    report_flag_event,
)
from service.simulate.plan import PlannedFlagChange
from service.simulate.responses import Canned
from service.simulate.send import SendResult

from .conftest import ManualClock, SimulatedApi, StartSimulator

FLAG_CHANGE = PlannedFlagChange(
    environment="production", flag_key="dark-mode", is_on=False, member_email="ada@example.com"
)


class EventRecorder:
    """The other sides of a pipeline; they keep what they accept.

    The receiver first answers with ``faults``, and then accepts everything.
    """

    def __init__(self, *faults: HTTPStatus | Exception) -> None:
        self._faults = [*faults]
        self.reported: list[EventBody] = []
        self.deliveries: list[str] = []
        self.flag_events: list[EventBody] = []

    async def report(self, event: EventBody) -> None:
        """Take an event as LaunchDarkly does."""
        self.reported.append(event)

    async def post(self, _: EventBody, delivery: str) -> SendResult:
        """Take a webhook as a receiver does."""
        if self._faults:
            fault = self._faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return SendResult(status=fault, body="")
        self.deliveries.append(delivery)
        return SendResult(status=HTTPStatus.ACCEPTED, body="")

    async def report_flag(self, event: EventBody) -> None:
        """Take a flag event as the simulator does."""
        self.flag_events.append(event)


async def deploy(
    recorder: EventRecorder, *, events: int, seed: int, clock: ManualClock
) -> list[tuple[str, str]]:
    """Deploy by the plan of a seed; return the event and the reason of each line of the log."""
    targets = PipelineTargets(
        report=recorder.report, post=recorder.post, report_flag=recorder.report_flag
    )
    rate = SendRate(per_second=10_000, max_events=events)
    lines = io.StringIO()
    log = build_log(stream=lines, pretty=False)
    await Pipeline(targets, rate=rate, rng=Random(seed), clock=clock, log=log).deploy()
    return [
        (line["event"], line["reason"]) for line in map(json.loads, lines.getvalue().splitlines())
    ]


async def run_pipeline(seed: int, clock: ManualClock) -> EventRecorder:
    """Deploy 40 times by the plan of a seed."""
    recorder = EventRecorder()
    assert await deploy(recorder, events=40, seed=seed, clock=clock) == []
    return recorder


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat a failed post at once."""
    monkeypatch.setattr(pipeline_module, "_RETRY_PAUSE_S", 0.001)


async def test_pipeline_follows_from_its_seed(clock: ManualClock) -> None:
    """Events, deliveries and flag events are the same; each event has a time of its own."""
    first, second, other = [await run_pipeline(seed, clock) for seed in (5, 5, 6)]
    assert len(first.reported) == 40
    assert first.flag_events
    assert vars(first) == vars(second)
    assert vars(first) != vars(other)
    times = [event["eventTime"] for event in (*first.reported, *first.flag_events)]
    assert len(set(times)) == len(times)


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (HTTPStatus.SERVICE_UNAVAILABLE, "HTTP 503"),
        (HTTPStatus.UNAUTHORIZED, "HTTP 401"),  # the receiver reads its new secret later
        (HTTPStatus.REQUEST_TIMEOUT, "HTTP 408"),
        (HTTPStatus.TOO_MANY_REQUESTS, "HTTP 429"),
        (HTTPStatus.MOVED_PERMANENTLY, "HTTP 301"),
        (HTTPStatus.NO_CONTENT, "HTTP 204"),
        (aiohttp.ClientError("no connection"), "no connection"),
        (TimeoutError(), "TimeoutError"),
    ],
)
async def test_webhook_that_fails_is_logged_and_repeated(
    clock: ManualClock, fault: HTTPStatus | Exception, reason: str
) -> None:
    """The log holds the status or the error, and the webhook arrives in the end."""
    recorder = EventRecorder(fault)
    logged = await deploy(recorder, events=1, seed=5, clock=clock)
    assert logged == [("webhook_post_failed", reason)]
    assert recorder.deliveries


@pytest.mark.parametrize(
    "status", [HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY]
)
async def test_webhook_that_is_refused_ends_the_pipeline(
    clock: ManualClock, status: HTTPStatus
) -> None:
    """To repeat a wrong URL or a wrong body would change nothing."""
    refused = f"^the receiver refuses a webhook with HTTP {status}; check --url "
    with pytest.raises(PostRefused, match=refused):
        await deploy(EventRecorder(status), events=1, seed=5, clock=clock)


async def test_event_that_launchdarkly_refuses_is_not_repeated(
    start_simulator: StartSimulator,
) -> None:
    """A token with the role Reader may report nothing."""
    api = await start_simulator(Options(reader_tokens=(Options().token,)))
    with pytest.raises(PostRefused, match=r"HTTP 403; check .*LAUNCHDARKLY_ACCESS_TOKEN"):
        await report_event(
            api.session, api.url, {}, token=Options().token, log=build_log(stream=io.StringIO())
        )


@pytest.mark.usefixtures("short_pause")
async def test_event_that_fails_is_logged_and_repeated(simulated_api: SimulatedApi) -> None:
    """The log holds the status, and LaunchDarkly accepts the event in the end."""
    lines = io.StringIO()
    simulated_api.simulator.set_response(
        "/deployment-events", Canned(status=502, body=b""), times=1
    )
    deployed = {"projectKey": "default", "environmentKey": "production", "version": "1"}
    event: EventBody = {**deployed, "applicationKey": "shop", "eventType": "finished"}
    await report_event(
        simulated_api.session,
        simulated_api.url,
        event,
        token=Options().token,
        log=build_log(stream=lines, pretty=False),
    )
    logged = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["event"], line["reason"]) for line in logged] == [
        ("event_report_failed", "HTTP 502")
    ]


async def test_flag_event_is_listed(simulated_api: SimulatedApi, clock: ManualClock) -> None:
    """As the plan says: which flag, where, on or off, and who did it."""
    event = build_flag_event(FLAG_CHANGE, time_ms=clock.ms)
    await report_flag_event(simulated_api.session, simulated_api.url, event)
    scope = {"projectKey": "default", "environmentKey": "production"}
    (listed,) = (await simulated_api.get("/flag-events", **scope)).json["items"]
    assert (listed["flagKey"], listed["eventType"]) == ("dark-mode", "disabled_targeting")
    assert (listed["eventTime"], listed["member"]["email"]) == (clock.ms, "ada@example.com")


async def test_flag_event_for_an_unreachable_simulator_is_lost() -> None:
    """The pipeline goes on: deployments matter more."""
    event = build_flag_event(FLAG_CHANGE, time_ms=1)
    with socket.socket() as unused_port:
        unused_port.bind(("127.0.0.1", 0))  # bound, but not listening
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{unused_port.getsockname()[1]}"
            await report_flag_event(session, url, event)
