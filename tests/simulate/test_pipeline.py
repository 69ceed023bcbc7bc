"""Tests of the simulated pipeline: reproducible by its seed, and its flag events arrive."""

import socket
from http import HTTPStatus
from random import Random

import aiohttp

from service.simulate.pipeline import (
    EventBody,
    Pipeline,
    PipelineTargets,
    SendRate,
    build_flag_event,
    report_flag_event,
)
from service.simulate.plan import PlannedFlagChange
from service.simulate.send import SendResult

from .conftest import ManualClock, SimulatedApi

FLAG_CHANGE = PlannedFlagChange(
    environment="production", flag_key="dark-mode", is_on=False, member_email="ada@example.com"
)


class EventRecorder:
    """The other sides of a pipeline; they accept everything and keep it."""

    def __init__(self) -> None:
        self.reported: list[EventBody] = []
        self.deliveries: list[str] = []
        self.flag_events: list[EventBody] = []

    async def report(self, event: EventBody) -> None:
        """Take an event as LaunchDarkly does."""
        self.reported.append(event)

    async def post(self, _: EventBody, delivery: str) -> SendResult:
        """Take a webhook as a receiver does."""
        self.deliveries.append(delivery)
        return SendResult(status=HTTPStatus.ACCEPTED, body="")

    async def report_flag(self, event: EventBody) -> None:
        """Take a flag event as the simulator does."""
        self.flag_events.append(event)


async def run_pipeline(seed: int, clock: ManualClock) -> EventRecorder:
    """Deploy 40 times by the plan of a seed."""
    recorder = EventRecorder()
    targets = PipelineTargets(
        report=recorder.report, post=recorder.post, report_flag=recorder.report_flag
    )
    rate = SendRate(per_second=10_000, max_events=40)
    await Pipeline(targets, rate=rate, rng=Random(seed), clock=clock).deploy()
    return recorder


async def test_pipeline_follows_from_its_seed(clock: ManualClock) -> None:
    """Events, deliveries and flag events are the same; each event has a time of its own."""
    first, second, other = [await run_pipeline(seed, clock) for seed in (5, 5, 6)]
    assert len(first.reported) == 40
    assert first.flag_events
    assert vars(first) == vars(second)
    assert vars(first) != vars(other)
    times = [event["eventTime"] for event in (*first.reported, *first.flag_events)]
    assert len(set(times)) == len(times)


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
