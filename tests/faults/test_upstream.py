"""Does every ticket end once, and the quota hold, when the upstream does all that it can?"""

import asyncio
from collections import Counter

import pytest
from aiohttp import web

from service.operate.listening import listen
from service.simulate.deployment import Shape
from service.simulate.faults import Fault, Rates
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.world import NEVER
from tests.faults.hurry import hurrying
from tests.faults.oracle import Delivery, Judgement, Left, judge
from tests.faults.reader import read_left, read_records
from tests.story.stage import Story

TICKETS = 40
ABSENT = 2
EVERYTHING = Rates(**dict.fromkeys(Fault, 0.02))

# Where a 429 tells nothing, we come back after a second or more: such windows are that short.
BLIND_MS, TOLD_MS = 1000, 3000
QUOTAS = {
    "other callers": Limits(global_limit=30, competing_per_window=10, window_ms=TOLD_MS),
    "a day ahead": Limits(global_limit=60, reset="far", retry_after="seconds", window_ms=TOLD_MS),
    "no hint at all": Limits(
        global_limit=25,
        reset="absent",
        send_limit=False,
        send_remaining=False,
        window_ms=BLIND_MS,
    ),
    "every family": Limits(
        global_limit=40,
        route_limit=30,
        token_limit=35,
        address_limit=33,
        aligned_to="first_call",
        window_ms=TOLD_MS,
    ),
    "long past": Limits(global_limit=25, reset="past", window_ms=BLIND_MS),
    "no number": Limits(global_limit=30, reset="malformed", retry_after="date", window_ms=TOLD_MS),
}
RARELY = {"long past", "no number"}


def name_absent(number: int) -> str:
    """Name a deployment that the upstream never knows."""
    return f"{NEVER}-9c0b-4ef8-bb6d-{number:012d}"


def spoil(limits: Limits, lure: str) -> Options:
    """Make an upstream that has every fault, under a quota that it tells of in its own way."""
    return Options(
        faults=EVERYTHING,
        quota=limits,
        notice_ms=limits.window_ms * 2 // 3,  # what was on its way by then was no breach
        latency_ms=(1, 10),
        nested_page_size=2,
        nested_details=False,
        drip_every_ms=1,
        drip_bytes=512,
        oversized_bytes=400_000,
        lure_url=lure,
        shape=Shape(pull_requests=(0, 3)),
    )


async def send_everything(story: Story) -> list[Delivery]:
    """Send every webhook twice at once, some about what is not there; gives how they went."""

    async def send(number: int, name: str) -> Delivery:
        event = {"deploymentId": name, "eventType": "finished"}
        posts = (story.post(event, delivery=f"d{number}") for _ in range(2))
        statuses = [status for status, _ in await asyncio.gather(*posts)]
        return Delivery(
            name=f"d{number}",
            job=f"id:{name}",
            epoch=0,
            queued=statuses.count(202),
            duplicates=statuses.count(200),
        )

    names = [f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}" for number in range(TICKETS)]
    names += [name_absent(number) for number in range(ABSENT)]
    return await asyncio.gather(*(send(number, name) for number, name in enumerate(names)))


async def play_through(story: Story) -> tuple[Judgement, Left]:
    """Send everything, wait until nothing waits, and judge; gives also what is left."""
    await story.open(workers=3, max_answer_bytes=200_000, appear_deadline=2.0)
    async with hurrying(story.redis, story.keys):
        deliveries = await send_everything(story)
        async with asyncio.timeout(100):
            while not await story.is_done():
                await asyncio.sleep(0.02)
    records = await read_records(story.redis, story.keys)
    left = await read_left(story.redis, story.keys)
    return judge(deliveries, records, left), left


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "quota", [pytest.param(q, marks=[pytest.mark.long] if q in RARELY else []) for q in QUOTAS]
)
async def test_every_ticket_ends_once_before_an_upstream_of_every_fault(
    story: Story, quota: str
) -> None:
    """In a record, or failed for the very fault; nobody calls into a closed window or is lured."""
    lured: list[str] = []

    async def lure(request: web.Request) -> web.Response:
        lured.append(request.path_qs)
        return web.Response()

    trap = web.Application()
    trap.router.add_route("*", "/{path:.*}", lure)
    async with listen(trap, host="127.0.0.1", port=0) as url:
        limits = QUOTAS[quota]
        story.simulator.options = spoil(limits, url)
        judgement, left = await play_through(story)
    stats = story.simulator.stats
    assert (judgement.lost, judgement.duplicated, judgement.stuck) == ([], [], [])
    assert (judgement.both, judgement.invented, judgement.twice_queued) == ([], [], [])
    assert judgement.accepted == TICKETS + ABSENT
    failed = Counter(judgement.failed)
    assert failed.keys() <= {"not_found", "undecodable", "too_large"}, failed
    assert failed["not_found"] <= ABSENT
    assert {f"id:{name_absent(number)}" for number in range(ABSENT)} <= left.failed.keys()
    assert failed["undecodable"] <= stats.faults.get("wrong_types", 0)
    assert failed["too_large"] <= stats.faults.get("oversized", 0)
    assert stats.rate_limited_while_closed == 0
    assert lured == []
    facts = Counter(fact["event"] for fact in story.facts())
    assert not facts.keys() & {"attempt_crashed", "settling_failed", "unexpected", "lease_lost"}
