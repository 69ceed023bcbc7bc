"""Fuzz tests: no input from outside causes a crash, a loop or a second end of a ticket."""

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
from service.enrich import budget
from service.metrics.http import serve_app
from service.settings import Secret, Settings
from service.simulate.options import Options
from service.simulate.responses import Canned
from service.simulate.server import Simulator
from service.store.connect import open_client
from tests.end_to_end.harness import SECRET, ServiceHarness
from tests.factories import deployment_id
from tests.faults import strategies
from tests.faults.make_due import make_due

T = TypeVar("T")
NUMBERS = itertools.count(1)
FORBIDDEN_LOG_EVENTS = {
    *("attempt_error", "settle_failed", "unhandled_error", "webhook_error", "claim_failed"),
    *("lease_lost", "renew_failed", "redis_disconnected"),
}


class FuzzHarness:
    """The whole service on an event loop of its own, for many examples in a row."""

    def __init__(self, redis_url: str) -> None:
        self._runner = asyncio.Runner()
        self._redis_url = redis_url
        self.service = self.run(self._open())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop of the service."""
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
        """Close the service and delete its keys."""
        self.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        redis, keys = self.service.redis, self.service.keys
        await self.service.close()
        await self._upstream.__aexit__(None, None, None)
        leftover_keys = [
            key async for key in redis.scan_iter(match=f"{{{keys.namespace}}}:*", count=1000)
        ]
        if leftover_keys:
            await redis.delete(*leftover_keys)
        await redis.aclose()

    def set_response(self, response: Canned, deployment_id: str) -> None:
        """Respond to every call with `response`; insert the deployment id as id and version."""
        body = response.body.replace(strategies.ID_PLACEHOLDER.encode(), deployment_id.encode())
        body = body.replace(strategies.VERSION_PLACEHOLDER.encode(), deployment_id.encode())
        self.service.simulator.set_response("", replace(response, body=body))

    async def finish_ticket(self, deployment_id: str) -> None:
        """Respond well from now on, make all tickets due, and wait until no work is left."""
        deployment = {
            "id": deployment_id,
            "environmentKey": "production",
            "applicationKey": "web",
            "applicationVersion": deployment_id,
        }
        self.set_response(
            Canned(body=json.dumps({**deployment, "items": [deployment]}).encode()), deployment_id
        )
        async with asyncio.timeout(40):
            while not await self.service.is_done():
                await make_due(self.service.redis, self.service.keys)
                await self.open_budget()
                await asyncio.sleep(0.005)

    async def open_budget(self) -> None:
        """Forget the limits and pauses that responses named, and wake the worker."""
        redis, keys = self.service.redis, self.service.keys
        await redis.delete(keys.budget)
        await redis.lpush(keys.wakeup, "1")
        await redis.ltrim(keys.wakeup, 0, 0)
        await redis.expire(keys.wakeup, 60)

    async def check_and_clear(self, job: str) -> None:
        """Assert that the one ticket ended once without an internal error, and clear the output."""
        service = self.service
        log_events = {line["event"] for line in service.log_events()}
        records, failures = await service.records(), await service.failed_jobs()
        unchanged = service.log_events("deployment_unchanged")
        await service.redis.delete(
            *(service.keys.enriched, service.keys.failed),
            *(service.keys.failed_data, service.keys.failed_raw),
        )
        service.log_output.seek(0)
        service.log_output.truncate()
        assert not log_events & FORBIDDEN_LOG_EVENTS, log_events
        assert len(records) + len(failures) + len(unchanged) == 1, (job, records, failures)
        assert not await service.redis.exists(service.keys.tickets)
        assert failures in ([], [job])


@pytest.fixture
def fuzz_harness(
    redis_url: str,
    quick_repeats: None,  # noqa: ARG001 - a fixture without a value
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FuzzHarness]:
    """Open the service for the examples of one test."""
    monkeypatch.setattr(budget, "_MAX_SLEEP_S", 0.02)
    opened = FuzzHarness(redis_url)
    yield opened
    opened.close()


def fuzz(
    strategy: st.SearchStrategy[T], examples: int
) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Run the decorated check on generated examples, the same ones each time."""

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
    """Run a few examples, or very many with ``-m long``."""
    short = pytest.param(few, marks=pytest.mark.timeout(120))
    long = pytest.param(many, marks=[pytest.mark.long, pytest.mark.timeout(3600)])
    return pytest.mark.parametrize("examples", [short, long])


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(40):
        while not await condition():
            await asyncio.sleep(0.002)


@parametrize_examples(250, 10_000)
def test_any_upstream_response_ends_the_ticket_once(
    fuzz_harness: FuzzHarness, examples: int
) -> None:
    """Any status, headers and body, for a ticket with or without a deployment id."""

    async def run_example(response: Canned, *, known: bool) -> None:
        name = deployment_id(next(NUMBERS))
        fuzz_harness.set_response(response, name)
        event = {"eventType": "finished", "deploymentId": name}
        if not known:
            event = {
                "eventType": "finished",
                "projectKey": "default",
                "environmentKey": "production",
                "applicationKey": "web",
                "version": name,
            }
        status, reply = await fuzz_harness.service.post(event)
        assert status == 202
        settled = {"published", "unchanged", "postponed", "failed"}

        async def is_settled() -> bool:
            events = {
                line["event"].removeprefix("deployment_")
                for line in fuzz_harness.service.log_events()
            }
            await fuzz_harness.open_budget()
            return bool(events & settled) or await fuzz_harness.service.is_done()

        await wait_until(is_settled)
        await fuzz_harness.finish_ticket(name)
        await fuzz_harness.check_and_clear(reply["job"])

    @fuzz(st.tuples(strategies.RESPONSES, st.booleans()), examples)
    def try_response(example: tuple[Canned, bool]) -> None:
        response, known = example
        fuzz_harness.run(run_example(response, known=known))

    try_response()


@parametrize_examples(120, 4000)
def test_any_stored_ticket_ends_once(fuzz_harness: FuzzHarness, examples: int) -> None:
    """Old, truncated and invalid tickets each end once and never loop."""
    service = fuzz_harness.service

    async def run_example(stored: bytes, *, died: bool) -> None:
        name = deployment_id(next(NUMBERS))
        job = f"id:{name}"
        fuzz_harness.set_response(Canned(body=b'{"id":"@ID@"}'), name)
        await service.redis.hset(service.keys.tickets, job, stored.replace(b"@ID@", name.encode()))
        await service.redis.zadd(service.keys.backlog, {job: 1.5 if died else 1})
        await service.redis.lpush(service.keys.wakeup, "1")
        await service.redis.expire(service.keys.wakeup, 60)
        await fuzz_harness.finish_ticket(name)
        await fuzz_harness.check_and_clear(job)

    @fuzz(st.tuples(strategies.STORED_TICKETS, st.booleans()), examples)
    def try_stored(example: tuple[bytes, bool]) -> None:
        stored, died = example
        fuzz_harness.run(run_example(stored, died=died))

    try_stored()


@parametrize_examples(200, 10_000)
def test_any_webhook_gets_no_server_error(fuzz_harness: FuzzHarness, examples: int) -> None:
    """Any signed body with any headers is accepted or refused, never with a 5xx."""
    service = fuzz_harness.service
    url = f"{service.receiver_url}/webhooks/native"

    async def run_example(body: bytes, extra: dict[str, str]) -> None:
        headers = sign_standard_webhook(
            SECRET, delivery=f"d{next(NUMBERS)}", timestamp_s=int(time.time()), body=body
        )
        async with service.session.post(url, data=body, headers={**extra, **headers}) as response:
            assert response.status in {200, 202, 400, 401, 413, 422}, await response.text()
            if response.content_type != "text/plain":  # aiohttp itself refused the request
                assert isinstance(await response.json(content_type=None), dict)
        assert not service.log_events("webhook_error")

    @fuzz(st.tuples(strategies.EVENT_BODIES, strategies.EXTRA_HEADERS), examples)
    def try_webhook(example: tuple[bytes, dict[str, str]]) -> None:
        fuzz_harness.run(run_example(*example))

    try_webhook()


@parametrize_examples(300, 20_000)
def test_any_sources_file_is_read_or_refused(examples: int) -> None:
    """The only exception is a SourceError."""
    presets = read_presets()

    @fuzz(strategies.SOURCE_FILES, examples)
    def try_text(text: str) -> None:
        try:
            sources = load_sources(text, presets=presets, read_secret=lambda _: SECRET)
        except SourceError:
            return
        assert all(isinstance(source, Source) for source in sources.values())

    try_text()
