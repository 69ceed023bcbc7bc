"""Does the demo show what happens, and only that? Scripted ends, a real clock, a real screen."""

import asyncio
import io
import itertools
import random
import re
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

import aiohttp
import pytest

from service.operate.demo import Demo, Stage, Traffic
from service.operate.health import Standing
from service.operate.pipeline import Event, Pace
from service.operate.send import Sent
from service.operate.tail import Appended
from service.store import Unavailable

Make = Callable[..., Appended]
WELL = Standing(waiting=3, failed=0, entries=0, closed_s=0, why="", in_flight=0, room=12, opens_s=0)
MET = Standing(waiting=3, failed=0, entries=0, closed_s=0, why="", in_flight=0, room=0, opens_s=2.3)


class Screen(io.StringIO):
    """A terminal: what is written over is gone."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        """Say whether it is one."""
        return self._terminal

    def lines(self) -> list[str]:
        """List the lines as they can be seen."""
        return [line.rpartition("\x1b[K")[2] for line in self.getvalue().split("\n")]


class Table:
    """The other side of a demo: what it posts arrives here, and a record comes for each."""

    def __init__(self, entry: Appended, *, terminal: bool) -> None:
        self.screen = Screen(terminal=terminal)
        self.entry = entry
        self.arrived: asyncio.Queue[str] = asyncio.Queue()
        self.deliveries: list[str] = []
        self.reported: list[Event] = []
        self.faults: list[HTTPStatus | Exception] = []
        self.standings: list[Standing | Exception] = [WELL]
        self.columns = 80

    async def report(self, event: Event) -> None:
        """Hear of a deployment as LaunchDarkly would."""
        self.reported.append(event)

    async def post(self, _: Event, delivery: str) -> Sent:
        """Hear of a deployment as our door would."""
        if self.faults:
            fault = self.faults.pop()
            if isinstance(fault, Exception):
                raise fault
            return Sent(status=fault, body="")
        new = delivery not in self.deliveries
        self.deliveries.append(delivery)
        if new:
            self.arrived.put_nowait(delivery)
        return Sent(status=HTTPStatus.ACCEPTED if new else HTTPStatus.OK, body="")

    async def look(self) -> Standing:
        """Give one standing after the other; the last one stays."""
        standing = self.standings.pop(0) if len(self.standings) > 1 else self.standings[0]
        if isinstance(standing, Exception):
            raise standing
        return standing

    async def records(self) -> AsyncIterator[Appended]:
        """Give a record for each deployment that arrived, once all standings were looked at."""
        while True:
            await self.arrived.get()
            while len(self.standings) > 1:
                await asyncio.sleep(0.01)
            yield self.entry

    async def play(self, *, events: int) -> list[str]:
        """Play to the end; gives what can be seen on the screen."""
        stage = Stage(
            report=self.report,
            post=self.post,
            look=self.look,
            count_calls=lambda: Traffic(calls=31, refused=0),
            records=self.records(),
            out=self.screen,
            columns=lambda: self.columns,
        )
        pace = Pace(per_second=200, events=events)
        async with asyncio.timeout(20):
            await Demo(stage, pace=pace, chance=random.Random(1)).play()
        return self.screen.lines()


@pytest.fixture
def table(make_entry: Make) -> Table:
    """Lay a table with a terminal."""
    return Table(make_entry(), terminal=True)


async def test_it_ends_after_so_many_records(table: Table) -> None:
    """Each deployment is told to both sides; a repeat is no deployment."""
    lines = await table.play(events=40)
    assert len([line for line in lines if line.startswith("a0eebc99  billing-service")]) == 40
    assert len(table.reported) == len(set(table.deliveries)) == 40
    assert len({str(event["version"]) for event in table.reported}) == 40
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("demo-")]


async def test_the_count_at_the_end_is_what_happened(table: Table) -> None:
    """Received are all answers, queued those that were new; one sentence says what was seen."""
    lines = await table.play(events=40)
    received, repeated = len(table.deliveries), len(table.deliveries) - 40
    assert repeated > 0
    assert f"received {received}  queued 40  published 40  waiting 3  failed 0" in lines
    told = " ".join(lines[lines.index("") :])
    assert f"{received} signed webhooks came in, of which {repeated} were repeats" in told
    assert "took 31 calls and refused 0" in told
    assert "40 deployments came out" in told


async def test_columns_have_titles(table: Table) -> None:
    """The header comes before all records."""
    lines = await table.play(events=1)
    assert lines[0].startswith("id        application ")


async def test_the_met_quota_is_said_once_and_then_shown(table: Table) -> None:
    """Each time that it is met, with how long it lasts; not while it goes on."""
    table.standings = [WELL, MET, MET, WELL, MET, WELL]
    lines = await table.play(events=1)
    said = [line for line in lines if line.startswith("-- quota met: no call for 2.3 s; 3 ")]
    assert len(said) == 2
    assert "the quota was met 2 times" in " ".join(lines)
    assert "failed 0  quota met 2.3 s" in table.screen.getvalue()
    assert "failed 0  calls left 12" in table.screen.getvalue()


async def test_redis_away_is_shown_and_outlived(table: Table) -> None:
    """No number is made up."""
    table.standings = [Unavailable("gone"), WELL]
    await table.play(events=1)
    assert "waiting ?  failed ?  Redis is away" in table.screen.getvalue()


async def test_senders_try_again_as_real_ones_do(table: Table) -> None:
    """After a 503, and after no answer at all."""
    table.faults = [HTTPStatus.SERVICE_UNAVAILABLE, aiohttp.ClientError(), TimeoutError()]
    lines = await table.play(events=2)
    assert not table.faults
    assert [line for line in lines if "queued 2  published 2" in line]


async def test_the_count_never_wraps(table: Table) -> None:
    """A line that wraps cannot be written over: it would fill the screen."""
    table.columns = 50
    table.standings = [MET, WELL]
    await table.play(events=30)
    counts = re.findall(r"\x1b\[K(received [^\n\r]*)(?=\r)", table.screen.getvalue())
    assert counts
    assert max(map(len, counts)) < 50


async def test_an_entry_that_is_no_record_does_not_end_it(table: Table) -> None:
    """Somebody else may write to the stream."""
    table.entry = Appended("17-0", {"hello": "\x1b[2J"})
    lines = await table.play(events=3)
    told = [line for line in lines if line.startswith("17-0  is no enriched deployment")]
    assert len(told) == 3


async def test_a_file_gets_lines_without_codes(make_entry: Make) -> None:
    """What is no terminal gets the count now and then, on lines of its own."""
    table = Table(make_entry(), terminal=False)
    table.standings = list(itertools.repeat(WELL, 15))
    await table.play(events=1)
    written = table.screen.getvalue()
    assert "\x1b" not in written
    assert "\r" not in written
    assert 1 <= written.count("-- received") <= 3


async def test_ended_from_outside_it_still_says_what_was_seen(table: Table) -> None:
    """Ctrl-C is the usual end."""
    table.standings = [WELL, MET, WELL]
    playing = asyncio.create_task(table.play(events=0))
    while "a0eebc99" not in table.screen.getvalue():
        await asyncio.sleep(0.01)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert "What you saw: " in table.screen.getvalue()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("demo-")]
