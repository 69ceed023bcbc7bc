"""Does anything from outside make us crash, loop, or end a ticket twice? Whatever comes in."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from service.accept.signature import sign_standard_webhook
from service.accept.sources import Source, SourceError, load_sources
from service.configured import read_presets
from service.operate.listening import listen
from service.settings import Secret, Settings
from service.simulate.answers import Planted
from service.simulate.options import Options
from service.simulate.server import Simulator
from service.store.connect import open_client
from tests.faults import shapes
from tests.faults.hurry import make_due
from tests.story.stage import SECRET, Story, name_deployment

T = TypeVar("T")
NUMBERS = itertools.count(1)
NEVER_WRITTEN = {
    *("attempt_crashed", "settling_failed", "unexpected", "webhook_crashed", "claiming_failed"),
    *("lease_lost", "renewing_failed", "redis_lost"),
}


class Parlour:
    """A whole house on a loop of its own, which many examples visit one after the other."""

    def __init__(self, redis_url: str) -> None:
        self._runner = asyncio.Runner()
        self._url = redis_url
        self.story = self.run(self._open())

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Do something there."""
        return self._runner.run(doing)

    async def _open(self) -> Story:
        simulator = Simulator(Options(), clock=time.time, chance=random.Random(1))
        self._upstream = listen(simulator.app(), host="127.0.0.1", port=0)
        said = Settings(
            access_token=Secret(Options().token),
            launchdarkly_url=await self._upstream.__aenter__(),
            redis_url=Secret(self._url),
            namespace=f"fuzz{next(NUMBERS)}",
            webhook_secret=Secret(SECRET),
            port=0,
            rate_share=1.0,
            appear_deadline=1.0,
            max_pages=5,
        )
        return await Story(said, simulator, open_client(self._url)).open()

    def close(self) -> None:
        """Leave nothing behind."""
        self.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        redis, keys = self.story.redis, self.story.keys
        await self.story.close()
        await self._upstream.__aexit__(None, None, None)
        found = [key async for key in redis.scan_iter(match=f"{{{keys.namespace}}}:*", count=1000)]
        if found:
            await redis.delete(*found)
        await redis.aclose()

    def plant(self, answer: Planted, name: str) -> None:
        """Have every call answered so, with the name of a deployment as its id and version."""
        body = answer.body.replace(shapes.ID.encode(), name.encode())
        body = body.replace(shapes.VERSION.encode(), name.encode())
        self.story.simulator.plant_answer("", replace(answer, body=body))

    async def end_well(self, name: str) -> None:
        """Answer well from now on, let nothing wait, and wait until nothing is left."""
        good = {
            "id": name,
            "environmentKey": "production",
            "applicationKey": "web",
            "applicationVersion": name,
        }
        self.plant(Planted(body=json.dumps({**good, "items": [good]}).encode()), name)
        redis, keys = self.story.redis, self.story.keys
        async with asyncio.timeout(40):
            while not await self.story.is_done():
                await redis.delete(keys.budget)
                await make_due(redis, keys)
                await redis.lpush(keys.bell, "1")  # the budget has changed as well
                await redis.ltrim(keys.bell, 0, 0)
                await redis.expire(keys.bell, 60)
                await asyncio.sleep(0.005)

    async def judge_and_clear(self, job: str) -> None:
        """See that the one ticket ended once, and that nothing was written of a mistake."""
        story = self.story
        written = {fact["event"] for fact in story.facts()}
        records, failures = await story.records(), await story.failures()
        ends = story.facts("deployment_unchanged")
        await story.redis.delete(story.keys.enriched, story.keys.failed, story.keys.failures)
        story.written.seek(0)
        story.written.truncate()
        assert not written & NEVER_WRITTEN, written
        assert len(records) + len(failures) + len(ends) == 1, (job, records, failures)
        assert not await story.redis.exists(story.keys.tickets)
        assert failures in ([], [job])


@pytest.fixture
def parlour(redis_url: str) -> Iterator[Parlour]:
    """Open a house for the examples of one test."""
    opened = Parlour(redis_url)
    yield opened
    opened.close()


def fuzz(
    strategy: st.SearchStrategy[T], examples: int
) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Try so many examples, the same ones each time."""

    def wrap(try_one: Callable[[T], None]) -> Callable[[], None]:
        tried = given(strategy)(try_one)
        return settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(tried)

    return wrap


def examples_of(few: int, many: int) -> pytest.MarkDecorator:
    """Try a few examples, or very many when it may take long."""
    long = pytest.param(many, marks=[pytest.mark.long, pytest.mark.timeout(3600)])
    return pytest.mark.parametrize("examples", [few, long])


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(40):
        while not await condition():
            await asyncio.sleep(0.002)


@pytest.mark.timeout(120)
@examples_of(250, 10_000)
def test_whatever_the_upstream_answers_a_ticket_ends_once(parlour: Parlour, examples: int) -> None:
    """Any status, headers and body, for a ticket with its id or to be found: never a crash."""

    async def meet(answer: Planted, *, known: bool) -> None:
        name = name_deployment(next(NUMBERS))
        parlour.plant(answer, name)
        event = {"eventType": "finished", "deploymentId": name}
        if not known:
            event = {
                "eventType": "finished",
                "projectKey": "default",
                "environmentKey": "production",
                "applicationKey": "web",
                "version": name,
            }
        status, told = await parlour.story.post(event)
        assert status == 202
        settled = {"published", "unchanged", "postponed", "given_up"}

        async def is_judged() -> bool:
            facts = {fact["event"].removeprefix("deployment_") for fact in parlour.story.facts()}
            return bool(facts & settled) or await parlour.story.is_done()

        await wait_for(is_judged)
        await parlour.end_well(name)
        await parlour.judge_and_clear(told["job"])

    @fuzz(st.tuples(shapes.ANSWERS, st.booleans()), examples)
    def try_answer(example: tuple[Planted, bool]) -> None:
        answer, known = example
        parlour.run(meet(answer, known=known))

    try_answer()


@pytest.mark.timeout(120)
@examples_of(120, 4000)
def test_whatever_is_stored_as_a_ticket_ends_once(parlour: Parlour, examples: int) -> None:
    """Tickets of older versions, cut short or no tickets at all: a fate each, never a loop."""
    story = parlour.story

    async def meet(stored: bytes, *, died: bool) -> None:
        name = name_deployment(next(NUMBERS))
        job = f"id:{name}"
        parlour.plant(Planted(body=b'{"id":"@ID@"}'), name)
        await story.redis.hset(story.keys.tickets, job, stored.replace(b"@ID@", name.encode()))
        await story.redis.zadd(story.keys.backlog, {job: 1.5 if died else 1})
        await story.redis.lpush(story.keys.bell, "1")
        await story.redis.expire(story.keys.bell, 60)
        await parlour.end_well(name)
        await parlour.judge_and_clear(job)

    @fuzz(st.tuples(shapes.STORED, st.booleans()), examples)
    def try_stored(example: tuple[bytes, bool]) -> None:
        stored, died = example
        parlour.run(meet(stored, died=died))

    try_stored()


@pytest.mark.timeout(120)
@examples_of(200, 10_000)
def test_whatever_is_sent_is_never_our_fault(parlour: Parlour, examples: int) -> None:
    """Any genuine body with any headers is taken or turned away, and never a 5xx."""
    story = parlour.story
    url = f"{story.door}/webhooks/native"

    async def meet(body: bytes, extra: dict[str, str]) -> None:
        headers = sign_standard_webhook(
            SECRET, delivery=f"d{next(NUMBERS)}", timestamp_s=int(time.time()), body=body
        )
        async with story.session.post(url, data=body, headers={**extra, **headers}) as response:
            assert response.status in {200, 202, 400, 401, 413, 422}, await response.text()
            if response.content_type != "text/plain":  # what aiohttp itself could not parse
                assert isinstance(await response.json(content_type=None), dict)
        assert not story.facts("webhook_crashed")

    @fuzz(st.tuples(shapes.EVENTS, shapes.EXTRA_HEADERS), examples)
    def try_webhook(example: tuple[bytes, dict[str, str]]) -> None:
        parlour.run(meet(*example))

    try_webhook()


@pytest.mark.timeout(120)
@examples_of(300, 20_000)
def test_whatever_stands_in_the_file_of_sources_is_read_or_refused(examples: int) -> None:
    """By sources, or by a SourceError; never by another exception."""
    presets = read_presets()

    @fuzz(shapes.SOURCES, examples)
    def try_text(text: str) -> None:
        try:
            sources = load_sources(text, presets=presets, read_secret=lambda _: SECRET)
        except SourceError:
            return
        assert all(isinstance(source, Source) for source in sources.values())

    try_text()
