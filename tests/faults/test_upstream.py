"""Does every ticket end once, and the quota hold, when the upstream does all that it can?"""

import asyncio
from collections import Counter

import pytest
from aiohttp import web

from service.metrics.http import serve_app
from service.simulate.options import Options, Shape
from service.simulate.quota import Limits
from service.simulate.rates import Fault, Rates
from service.simulate.world import UNKNOWN_ID_PREFIX
from tests.end_to_end.harness import ServiceHarness
from tests.faults.make_due import making_due
from tests.faults.oracle import LeftoverState, OracleReport, SentDelivery, check_deliveries
from tests.faults.record_reader import read_leftover_state, read_records

TICKETS = 40
UNKNOWN = 2
ALL_FAULTS = Rates(**dict.fromkeys(Fault, 0.02))

# Where a 429 tells nothing, we come back after a second or more: such windows are that short.
UNREPORTED_WINDOW_MS, REPORTED_WINDOW_MS = 1000, 3000
QUOTAS = {
    "other callers": Limits(global_limit=30, competing_per_window=10, window_ms=REPORTED_WINDOW_MS),
    "a day ahead": Limits(
        global_limit=60, reset="far", retry_after="seconds", window_ms=REPORTED_WINDOW_MS
    ),
    "no hint at all": Limits(
        global_limit=25,
        reset="absent",
        send_limit=False,
        send_remaining=False,
        window_ms=UNREPORTED_WINDOW_MS,
    ),
    "every family": Limits(
        global_limit=40,
        route_limit=30,
        token_limit=35,
        address_limit=33,
        aligned_to="first_call",
        window_ms=REPORTED_WINDOW_MS,
    ),
    "long past": Limits(global_limit=25, reset="past", window_ms=UNREPORTED_WINDOW_MS),
    "no number": Limits(
        global_limit=30, reset="malformed", retry_after="date", window_ms=REPORTED_WINDOW_MS
    ),
}
LONG_ONLY_QUOTAS = {"long past", "no number"}


def unknown_deployment_id(number: int) -> str:
    """Name a deployment that the upstream never knows."""
    return f"{UNKNOWN_ID_PREFIX}-9c0b-4ef8-bb6d-{number:012d}"


def build_options(limits: Limits, lure_url: str) -> Options:
    """Make an upstream that has every fault, under a quota that it tells of in its own way."""
    return Options(
        faults=ALL_FAULTS,
        quota=limits,
        notice_ms=limits.window_ms * 2 // 3,  # what was on its way by then was no breach
        latency_ms=(1, 10),
        nested_page_size=2,
        nested_details=False,
        drip_every_ms=1,
        drip_bytes=512,
        oversized_bytes=400_000,
        lure_url=lure_url,
        shape=Shape(pull_requests=(0, 3)),
    )


async def send_all_webhooks(story: ServiceHarness) -> list[SentDelivery]:
    """Send every webhook twice at once, some about what is not there; gives how they went."""

    async def send(number: int, deployment_id: str) -> SentDelivery:
        event = {"deploymentId": deployment_id, "eventType": "finished"}
        posts = (story.post(event, delivery=f"d{number}") for _ in range(2))
        statuses = [status for status, _ in await asyncio.gather(*posts)]
        return SentDelivery(
            name=f"d{number}",
            job=f"id:{deployment_id}",
            epoch=0,
            queued=statuses.count(202),
            duplicates=statuses.count(200),
        )

    names = [f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}" for number in range(TICKETS)]
    names += [unknown_deployment_id(number) for number in range(UNKNOWN)]
    return await asyncio.gather(*(send(number, name) for number, name in enumerate(names)))


async def run_to_end(story: ServiceHarness) -> tuple[OracleReport, LeftoverState]:
    """Send everything, wait until nothing waits, and judge; gives also what is left."""
    await story.open(workers=3, max_answer_bytes=200_000, not_found_timeout=2.0)
    async with making_due(story.redis, story.keys):
        deliveries = await send_all_webhooks(story)
        async with asyncio.timeout(100):
            while not await story.is_done():
                await asyncio.sleep(0.02)
    records = await read_records(story.redis, story.keys)
    leftover = await read_leftover_state(story.redis, story.keys)
    return check_deliveries(deliveries, records, leftover), leftover


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "quota",
    [pytest.param(q, marks=[pytest.mark.long] if q in LONG_ONLY_QUOTAS else []) for q in QUOTAS],
)
async def test_every_ticket_ends_once_before_an_upstream_of_every_fault(
    story: ServiceHarness, quota: str
) -> None:
    """In a record, or failed for the very fault; nobody calls into a closed window or is lured."""
    lured: list[str] = []

    async def lure(request: web.Request) -> web.Response:
        lured.append(request.path_qs)
        return web.Response()

    trap = web.Application()
    trap.router.add_route("*", "/{path:.*}", lure)
    async with serve_app(trap, host="127.0.0.1", port=0) as url:
        limits = QUOTAS[quota]
        story.simulator.options = build_options(limits, url)
        report, leftover = await run_to_end(story)
    stats = story.simulator.stats
    assert (report.lost, report.duplicated, report.stuck) == ([], [], [])
    assert (report.pending_and_failed, report.unrequested, report.queued_twice) == ([], [], [])
    assert report.accepted == TICKETS + UNKNOWN
    failed = Counter(report.failed)
    assert failed.keys() <= {"not_found", "undecodable", "too_large"}, failed
    assert failed["not_found"] <= UNKNOWN
    assert {
        f"id:{unknown_deployment_id(number)}" for number in range(UNKNOWN)
    } <= leftover.failed.keys()
    assert failed["undecodable"] <= stats.faults.get("wrong_types", 0)
    assert failed["too_large"] <= stats.faults.get("oversized", 0)
    assert stats.rate_limited_while_closed == 0
    assert lured == []
    facts = Counter(fact["event"] for fact in story.log_events())
    assert not facts.keys() & {"attempt_error", "settle_failed", "unhandled_error", "lease_lost"}
