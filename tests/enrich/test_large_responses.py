"""Tests of large responses: many at once stay within the memory of a worker."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from service.enrich import client, models
from service.enrich.enricher import EnrichLimits
from service.enrich.models import Deployment, parse_deployment_in_steps
from service.enrich.step_runner import StepRunner
from service.enrich.steps import LARGE_BYTES, STEP_BYTES, Steps, finish_steps
from service.enrich.verdict import (
    WAITED_FOR_MEMORY,
    ApiResponse,
    CallResult,
    Fail,
    Found,
    NoResponse,
    classify_response,
)
from service.publish.entry import Entry, EntryBuilder
from tests.enrich.enricher_harness import EnricherHarness, make_current_lease
from tests.factories import deployment_id, make_lease, make_ticket

SIZE = 2 * LARGE_BYTES
LIMIT = 3 * SIZE


@pytest.fixture
def enrich_limits() -> EnrichLimits:
    """Return limits that hold one large response and what is parsed from it."""
    return EnrichLimits(max_buffered_bytes=LIMIT)


def build_body(size: int, number: int = 1) -> bytes:
    """Return a deployment of about this size, with pull requests of 1 kB."""
    pulls = [{"id": f"p{index}", "title": "x" * 980} for index in range(size // 1000)]
    pull_requests = {"totalCount": len(pulls), "items": pulls}
    flags: dict[str, object] = {"totalCount": 0, "items": []}
    fields = {"id": deployment_id(number), "flagReferences": flags, "pullRequests": pull_requests}
    return json.dumps(fields).encode()


async def test_large_responses_are_held_within_the_limit(enricher_harness: EnricherHarness) -> None:
    """The oldest attempt may exceed it. A settled ticket frees its memory for the next one."""
    enricher = enricher_harness.enricher
    for number in range(8):
        enricher_harness.set_response(deployment_id(number), build_body(SIZE, number))

    async def attempt(number: int) -> object:
        lease = make_current_lease(deployment_id=deployment_id(number))
        lease = msgspec.structs.replace(lease, job=f"job-{number}")
        try:
            return await enricher.enrich(lease)
        finally:
            await asyncio.sleep(0)  # the record is appended
            enricher.release_memory(lease)

    async with asyncio.timeout(50):
        verdicts = await asyncio.gather(*map(attempt, range(8)))
    assert all(isinstance(verdict, Found) for verdict in verdicts)
    assert 2 * SIZE * 0.9 < enricher.memory.peak <= LIMIT + 2 * SIZE
    assert (enricher.memory.used, enricher._holds) == (0, {})


async def test_listed_deployments_free_their_memory(enricher_harness: EnricherHarness) -> None:
    """A large item of a list is parsed by itself, without another call."""
    body = json.loads(build_body(SIZE))
    body |= {"applicationKey": "shop", "applicationVersion": "v1", "endedAt": 1}
    enricher_harness.set_response("engineering-insights/deployments", {"items": [body]})
    lease = make_current_lease(
        project="default", environment="production", application="shop", version="v1", event_time=1
    )
    found = await enricher_harness.enrich(lease)
    assert isinstance(found, Found)
    assert (found.deployment.id, enricher_harness.calls) == (body["id"], 1)
    memory = enricher_harness.enricher.memory
    assert memory.used > SIZE
    enricher_harness.enricher.release_memory(lease)
    assert memory.used == 0


async def test_wait_for_memory_is_no_failure_of_launchdarkly(
    enricher_harness: EnricherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response that could not be read in time does not open the breaker, and is read later."""
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.05)
    enricher = enricher_harness.enricher
    outcomes: list[ApiResponse | NoResponse] = []

    def classify(response: ApiResponse | NoResponse) -> CallResult:
        outcomes.append(response)
        return classify_response(response)

    monkeypatch.setattr(client, "classify_response", classify)
    enricher_harness.set_response(deployment_id(1), build_body(SIZE))
    full = enricher.memory.open_hold()
    await full.acquire(LIMIT - (1 << 16))
    lease = make_current_lease(deployment_id=deployment_id(1))
    enrich_task = asyncio.create_task(enricher.enrich(lease))
    async with asyncio.timeout(20):
        while not outcomes:
            await asyncio.sleep(0.01)
        full.release()
        monkeypatch.undo()
        assert isinstance(await enrich_task, Found)
    assert outcomes[0] == WAITED_FOR_MEMORY
    assert classify_response(outcomes[0]) == "ok"


def count_steps(start: Callable[[bytes], Steps[Any]], size: int) -> int:
    """Return after how many steps other tasks may run."""
    return len([*start(build_body(size))])


def test_large_deployment_is_parsed_and_built_in_steps() -> None:
    """The steps grow in number, not in size; a small deployment takes one."""

    def build(body: bytes) -> Steps[Entry | Fail]:
        deployment = finish_steps(parse_deployment_in_steps(body))
        assert isinstance(deployment, Deployment)
        found = Found(deployment=deployment, chunks=(body,))
        return EntryBuilder().build_in_steps(found, make_lease(make_ticket()), now_ms=5)

    for start, step_bytes in (
        (parse_deployment_in_steps, models._PARSED_BYTES_PER_STEP),
        (build, STEP_BYTES),
    ):
        assert count_steps(start, 1000) == 0
        assert count_steps(start, 4 * STEP_BYTES) >= 3 * STEP_BYTES // step_bytes


async def test_steps_let_other_tasks_run_and_take_turns() -> None:
    """Between two steps the event loop runs; only one large computation runs at a time."""
    turns: list[str] = []

    def compute(name: str) -> Steps[str]:
        for _ in range(3):
            turns.append(name)
            yield
        return name

    async def watch() -> None:
        while True:
            turns.append(".")
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    run = StepRunner().run
    assert await asyncio.gather(*(run(compute(name)) for name in "ab")) == ["a", "b"]
    watching.cancel()
    assert [turn for turn in turns if turn != "."] == ["a", "b", "a", "a", "b", "b"]
    assert "aa" not in "".join(turns)
    assert "bb" not in "".join(turns)
