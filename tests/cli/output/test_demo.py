"""Tests of the demo's display: scripted other sides, a real clock, a real screen."""

import asyncio
import io
import itertools
import random
import re
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

import aiohttp
import pytest

from service.cli.demo import CallCounts, Demo, DemoInputs
from service.cli.tail import StreamEntryText
from service.log import build_log
from service.metrics.namespace import NamespaceStats
from service.simulate.pipeline import EventBody, PipelineTargets, PostRefused, SendRate
from service.simulate.send import SendResult
from service.store import RedisUnavailable
from tests.metrics.sample_stats import make_namespace_stats

Make = Callable[..., StreamEntryText]
READY = make_namespace_stats(backlog=3, calls_left={"get": 12, "list": 12})
LIMIT_REACHED = make_namespace_stats(backlog=3, next_call_in_s=2.3)


class FakeTerminal(io.StringIO):
    """A terminal on which an overwritten line is gone."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._terminal

    def lines(self) -> list[str]:
        """Return the lines as a person sees them."""
        return [line.rpartition("\x1b[K")[2] for line in self.getvalue().split("\n")]


class DemoHarness:
    """The other side of a demo: it takes the webhooks and appends a record for each."""

    def __init__(self, entry: StreamEntryText, *, terminal: bool) -> None:
        self.screen = FakeTerminal(terminal=terminal)
        self.entry = entry
        self.correction: StreamEntryText | None = None
        self.arrived: asyncio.Queue[str] = asyncio.Queue()
        self.deliveries: list[str] = []
        self.reported: list[EventBody] = []
        self.flag_events: list[EventBody] = []
        self.faults: list[HTTPStatus | Exception] = []
        self.states: list[NamespaceStats | Exception] = [READY]
        self.columns = 80

    async def report(self, event: EventBody) -> None:
        """Take an event as LaunchDarkly does."""
        self.reported.append(event)

    async def report_flag(self, event: EventBody) -> None:
        """Take a flag event as the simulator does."""
        self.flag_events.append(event)

    async def post(self, _: EventBody, delivery: str) -> SendResult:
        """Take a webhook as the receiver does."""
        if self.faults:
            fault = self.faults.pop()
            if isinstance(fault, Exception):
                raise fault
            return SendResult(status=fault, body="")
        new = delivery not in self.deliveries
        self.deliveries.append(delivery)
        if new:
            self.arrived.put_nowait(delivery)
        return SendResult(status=HTTPStatus.ACCEPTED if new else HTTPStatus.OK, body="")

    async def read_state(self) -> NamespaceStats:
        """Return the next state; the last one stays."""
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return state

    async def records(self) -> AsyncIterator[StreamEntryText]:
        """Yield a record for each deployment, once all states but the last were read."""
        while True:
            await self.arrived.get()
            while len(self.states) > 1:
                await asyncio.sleep(0.01)
            yield self.entry
            if self.correction is not None:
                yield self.correction

    async def run(self, *, events: int) -> list[str]:
        """Play to the end; gives what can be seen on the screen."""
        inputs = DemoInputs(
            targets=PipelineTargets(
                report=self.report, post=self.post, report_flag=self.report_flag
            ),
            read_stats=self.read_state,
            count_calls=lambda: CallCounts(calls=31, rate_limited=0),
            records=self.records(),
            out=self.screen,
            columns=lambda: self.columns,
            log=build_log(stream=io.StringIO()),
        )
        rate = SendRate(per_second=200, max_events=events)
        async with asyncio.timeout(20):
            await Demo(inputs, rate=rate, rng=random.Random(1)).run()
        return self.screen.lines()


@pytest.fixture
def demo_harness(make_entry: Make) -> DemoHarness:
    """Build a demo that writes to a terminal."""
    return DemoHarness(make_entry(revision="1"), terminal=True)


async def test_demo_ends_after_the_requested_records(demo_harness: DemoHarness) -> None:
    """Each deployment is told to both sides; a repeat is no deployment."""
    lines = await demo_harness.run(events=40)
    assert len([line for line in lines if line.startswith("a0eebc99  billing-service")]) == 40
    assert len(demo_harness.reported) == len(set(demo_harness.deliveries)) == 40
    assert {event["eventType"] for event in demo_harness.reported} == {"finished", "failed"}
    assert demo_harness.flag_events
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("demo-")]


async def test_later_revision_is_shown_and_not_counted(
    demo_harness: DemoHarness, make_entry: Make
) -> None:
    """A refresh corrects a record while the demo runs: that is no further deployment."""
    demo_harness.correction = make_entry(revision="2")
    lines = await demo_harness.run(events=4)
    assert len([line for line in lines if line.startswith("a0eebc99  billing-service")]) == 7
    assert any("published 4  waiting" in line for line in lines)


async def test_demo_summary_counts_what_happened(demo_harness: DemoHarness) -> None:
    """Received are all answers, queued those that were new; one sentence says what was seen."""
    lines = await demo_harness.run(events=40)
    received, repeated = len(demo_harness.deliveries), len(demo_harness.deliveries) - 40
    assert repeated > 0
    assert f"received {received}  queued 40  published 40  waiting 3  failed 0" in lines
    summary = " ".join(lines[lines.index("") :])
    assert f"accepted {received} signed webhooks and recognized {repeated} of them as" in summary
    assert "answered 31 calls and refused 0" in summary
    assert "40 deployments were published" in summary


async def test_demo_prints_the_titles_first(demo_harness: DemoHarness) -> None:
    """The header comes before all records."""
    lines = await demo_harness.run(events=1)
    assert lines[0].startswith("id        application ")


async def test_demo_announces_a_reached_rate_limit_once(demo_harness: DemoHarness) -> None:
    """Each time that it is met, with how long it lasts; not while it goes on."""
    demo_harness.states = [READY, LIMIT_REACHED, LIMIT_REACHED, READY, LIMIT_REACHED, READY]
    lines = await demo_harness.run(events=1)
    said = [
        line for line in lines if line.startswith("-- rate limit reached: no call for 2.3 s; 3 ")
    ]
    assert len(said) == 2
    assert "the rate limit was reached 2 times" in " ".join(lines)
    assert "failed 0  rate limit 2.3 s" in demo_harness.screen.getvalue()
    assert "failed 0  calls left 12" in demo_harness.screen.getvalue()


async def test_demo_survives_a_redis_that_is_away(demo_harness: DemoHarness) -> None:
    """No number is made up."""
    demo_harness.states = [RedisUnavailable("gone"), READY]
    await demo_harness.run(events=1)
    assert "waiting ?  failed ?  Redis is away" in demo_harness.screen.getvalue()


async def test_pipeline_of_the_demo_retries_failed_posts(demo_harness: DemoHarness) -> None:
    """After a 503, and after no answer at all."""
    demo_harness.faults = [HTTPStatus.SERVICE_UNAVAILABLE, aiohttp.ClientError(), TimeoutError()]
    lines = await demo_harness.run(events=2)
    assert not demo_harness.faults
    assert [line for line in lines if "queued 2  published 2" in line]


async def test_demo_whose_webhook_is_refused_ends_with_its_summary(
    demo_harness: DemoHarness,
) -> None:
    """A pipeline that has ended appends no further record, so the demo ends too."""
    demo_harness.faults = [HTTPStatus.NOT_FOUND]
    with pytest.raises(PostRefused, match="the receiver refuses a webhook with HTTP 404"):
        await demo_harness.run(events=2)
    assert "What you saw: " in demo_harness.screen.getvalue()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("demo-")]


async def test_demo_status_line_never_wraps(demo_harness: DemoHarness) -> None:
    """A line that wraps cannot be written over: it would fill the screen."""
    demo_harness.columns = 50
    demo_harness.states = [LIMIT_REACHED, READY]
    await demo_harness.run(events=30)
    counts = re.findall(r"\x1b\[K(received [^\n\r]*)(?=\r)", demo_harness.screen.getvalue())
    assert counts
    assert max(map(len, counts)) < 50


async def test_foreign_entry_does_not_end_the_demo(demo_harness: DemoHarness) -> None:
    """Somebody else may write to the stream."""
    demo_harness.entry = StreamEntryText("17-0", {"hello": "\x1b[2J"})
    lines = await demo_harness.run(events=3)
    messages = [line for line in lines if line.startswith("17-0  is no enriched deployment")]
    assert len(messages) == 3


async def test_demo_output_to_a_file_has_no_control_codes(make_entry: Make) -> None:
    """What is no terminal gets the count now and then, on lines of its own."""
    table = DemoHarness(make_entry(revision="1"), terminal=False)
    table.states = list(itertools.repeat(READY, 15))
    await table.run(events=1)
    written = table.screen.getvalue()
    assert "\x1b" not in written
    assert "\r" not in written
    assert 1 <= written.count("-- received") <= 3


async def test_cancelled_demo_prints_its_summary(demo_harness: DemoHarness) -> None:
    """Ctrl-C is the usual end."""
    demo_harness.states = [READY, LIMIT_REACHED, READY]
    playing = asyncio.create_task(demo_harness.run(events=0))
    while "a0eebc99" not in demo_harness.screen.getvalue():
        await asyncio.sleep(0.01)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert "What you saw: " in demo_harness.screen.getvalue()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("demo-")]
