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

from service.accept.signatures import sign_standard_webhook
from service.accept.source_files import read_presets
from service.accept.sources import Source, SourceError, load_sources
from service.metrics.http import serve_app
from service.settings import Secret, Settings
from service.simulate.options import Options
from service.simulate.responses import Canned
from service.simulate.server import Simulator
from service.store.connect import open_client
from tests.end_to_end.harness import SECRET, ServiceHarness, deployment_id
from tests.faults import strategies
from tests.faults.make_due import make_due

T = TypeVar("T")
NUMBERS = itertools.count(1)
FORBIDDEN_LOG_EVENTS = {
    *("attempt_error", "settle_failed", "unhandled_error", "webhook_error", "claim_failed"),
    *("lease_lost", "renew_failed", "redis_disconnected"),
}


class FuzzHarness:
    """A whole house on a loop of its own, which many examples visit one after the other."""

    def __init__(self, redis_url: str) -> None:
        self._runner = asyncio.Runner()
        self._redis_url = redis_url
        self.story = self.run(self._open())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do something there."""
        return self._runner.run(coroutine)

    async def _open(self) -> ServiceHarness:
        simulator = Simulator(Options(), clock=time.time, rng=random.Random(1))
        self._upstream = serve_app(simulator.app(), host="127.0.0.1", port=0)
        service_settings = Settings(
            access_token=Secret(Options().token),
            launchdarkly_url=await self._upstream.__aenter__(),
            redis_url=Secret(self._redis_url),
            namespace=f"fuzz{next(NUMBERS)}",
            webhook_secret=Secret(SECRET),
            port=0,
            rate_limit_share=1.0,
            not_found_timeout=1.0,
            max_calls_per_deployment=5,
        )
        return await ServiceHarness(
            service_settings, simulator, open_client(self._redis_url)
        ).open()

    def close(self) -> None:
        """Leave nothing behind."""
        self.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        redis, keys = self.story.redis, self.story.keys
        await self.story.close()
        await self._upstream.__aexit__(None, None, None)
        leftover_keys = [
            key async for key in redis.scan_iter(match=f"{{{keys.namespace}}}:*", count=1000)
        ]
        if leftover_keys:
            await redis.delete(*leftover_keys)
        await redis.aclose()

    def set_response(self, response: Canned, deployment_id: str) -> None:
        """Have every call answered so, with the name of a deployment as its id and version."""
        body = response.body.replace(strategies.ID_PLACEHOLDER.encode(), deployment_id.encode())
        body = body.replace(strategies.VERSION_PLACEHOLDER.encode(), deployment_id.encode())
        self.story.simulator.set_response("", replace(response, body=body))

    async def finish_ticket(self, deployment_id: str) -> None:
        """Answer well from now on, let nothing wait, and wait until nothing is left."""
        deployment = {
            "id": deployment_id,
            "environmentKey": "production",
            "applicationKey": "web",
            "applicationVersion": deployment_id,
        }
        self.set_response(
            Canned(body=json.dumps({**deployment, "items": [deployment]}).encode()), deployment_id
        )
        redis, keys = self.story.redis, self.story.keys
        async with asyncio.timeout(40):
            while not await self.story.is_done():
                await redis.delete(keys.budget)
                await make_due(redis, keys)
                await redis.lpush(keys.wakeup, "1")  # the budget has changed as well
                await redis.ltrim(keys.wakeup, 0, 0)
                await redis.expire(keys.wakeup, 60)
                await asyncio.sleep(0.005)

    async def check_and_clear(self, job: str) -> None:
        """See that the one ticket ended once, and that nothing was written of a mistake."""
        story = self.story
        log_events = {fact["event"] for fact in story.log_events()}
        records, failures = await story.records(), await story.failed_jobs()
        unchanged = story.log_events("deployment_unchanged")
        await story.redis.delete(story.keys.enriched, story.keys.failed, story.keys.failed_data)
        story.log_output.seek(0)
        story.log_output.truncate()
        assert not log_events & FORBIDDEN_LOG_EVENTS, log_events
        assert len(records) + len(failures) + len(unchanged) == 1, (job, records, failures)
        assert not await story.redis.exists(story.keys.tickets)
        assert failures in ([], [job])


@pytest.fixture
def parlour(redis_url: str) -> Iterator[FuzzHarness]:
    """Open a house for the examples of one test."""
    opened = FuzzHarness(redis_url)
    yield opened
    opened.close()


def fuzz(
    strategy: st.SearchStrategy[T], examples: int
) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Try so many examples, the same ones each time."""

    def decorate(check_example: Callable[[T], None]) -> Callable[[], None]:
        fuzzed = given(strategy)(check_example)
        return settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(fuzzed)

    return decorate


def parametrize_examples(few: int, many: int) -> pytest.MarkDecorator:
    """Try a few examples, or very many when it may take long."""
    long = pytest.param(many, marks=[pytest.mark.long, pytest.mark.timeout(3600)])
    return pytest.mark.parametrize("examples", [few, long])


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(40):
        while not await condition():
            await asyncio.sleep(0.002)


@pytest.mark.timeout(120)
@parametrize_examples(250, 10_000)
def test_whatever_the_upstream_answers_a_ticket_ends_once(
    parlour: FuzzHarness, examples: int
) -> None:
    """Any status, headers and body, for a ticket with its id or to be found: never a crash."""

    async def run_example(answer: Canned, *, known: bool) -> None:
        name = deployment_id(next(NUMBERS))
        parlour.set_response(answer, name)
        event = {"eventType": "finished", "deploymentId": name}
        if not known:
            event = {
                "eventType": "finished",
                "projectKey": "default",
                "environmentKey": "production",
                "applicationKey": "web",
                "version": name,
            }
        status, reply = await parlour.story.post(event)
        assert status == 202
        settled = {"published", "unchanged", "postponed", "given_up"}

        async def is_settled() -> bool:
            facts = {
                fact["event"].removeprefix("deployment_") for fact in parlour.story.log_events()
            }
            return bool(facts & settled) or await parlour.story.is_done()

        await wait_until(is_settled)
        await parlour.finish_ticket(name)
        await parlour.check_and_clear(reply["job"])

    @fuzz(st.tuples(strategies.RESPONSES, st.booleans()), examples)
    def try_answer(example: tuple[Canned, bool]) -> None:
        answer, known = example
        parlour.run(run_example(answer, known=known))

    try_answer()


@pytest.mark.timeout(120)
@parametrize_examples(120, 4000)
def test_whatever_is_stored_as_a_ticket_ends_once(parlour: FuzzHarness, examples: int) -> None:
    """Tickets of older versions, cut short or no tickets at all: a fate each, never a loop."""
    story = parlour.story

    async def run_example(stored: bytes, *, died: bool) -> None:
        name = deployment_id(next(NUMBERS))
        job = f"id:{name}"
        parlour.set_response(Canned(body=b'{"id":"@ID@"}'), name)
        await story.redis.hset(story.keys.tickets, job, stored.replace(b"@ID@", name.encode()))
        await story.redis.zadd(story.keys.backlog, {job: 1.5 if died else 1})
        await story.redis.lpush(story.keys.wakeup, "1")
        await story.redis.expire(story.keys.wakeup, 60)
        await parlour.finish_ticket(name)
        await parlour.check_and_clear(job)

    @fuzz(st.tuples(strategies.STORED_TICKETS, st.booleans()), examples)
    def try_stored(example: tuple[bytes, bool]) -> None:
        stored, died = example
        parlour.run(run_example(stored, died=died))

    try_stored()


@pytest.mark.timeout(120)
@parametrize_examples(200, 10_000)
def test_whatever_is_sent_is_never_our_fault(parlour: FuzzHarness, examples: int) -> None:
    """Any genuine body with any headers is taken or turned away, and never a 5xx."""
    story = parlour.story
    url = f"{story.receiver_url}/webhooks/native"

    async def run_example(body: bytes, extra: dict[str, str]) -> None:
        headers = sign_standard_webhook(
            SECRET, delivery=f"d{next(NUMBERS)}", timestamp_s=int(time.time()), body=body
        )
        async with story.session.post(url, data=body, headers={**extra, **headers}) as response:
            assert response.status in {200, 202, 400, 401, 413, 422}, await response.text()
            if response.content_type != "text/plain":  # what aiohttp itself could not parse
                assert isinstance(await response.json(content_type=None), dict)
        assert not story.log_events("webhook_error")

    @fuzz(st.tuples(strategies.EVENT_BODIES, strategies.EXTRA_HEADERS), examples)
    def try_webhook(example: tuple[bytes, dict[str, str]]) -> None:
        parlour.run(run_example(*example))

    try_webhook()


@pytest.mark.timeout(120)
@parametrize_examples(300, 20_000)
def test_whatever_stands_in_the_file_of_sources_is_read_or_refused(examples: int) -> None:
    """By sources, or by a SourceError; never by another exception."""
    presets = read_presets()

    @fuzz(strategies.SOURCE_FILES, examples)
    def try_text(text: str) -> None:
        try:
            sources = load_sources(text, presets=presets, read_secret=lambda _: SECRET)
        except SourceError:
            return
        assert all(isinstance(source, Source) for source in sources.values())

    try_text()
