"""Tests of an upstream with every fault: each ticket ends once and the quota is kept."""

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
from tests.factories import deployment_id
from tests.faults.make_due import making_due
from tests.faults.oracle import LeftoverState, OracleReport, SentDelivery, check_deliveries
from tests.faults.record_reader import read_leftover_state, read_records

TICKETS = 40
UNKNOWN = 2
ALL_FAULTS = Rates(**dict.fromkeys(Fault, 0.02))

# After a 429 without a usable header a worker waits a second or more: such windows are short.
UNREPORTED_WINDOW_MS, REPORTED_WINDOW_MS = 1000, 3000
QUOTAS = {
    "other callers": Limits(global_limit=30, competing_per_window=10, window_ms=REPORTED_WINDOW_MS),
    "reset a day ahead": Limits(
        global_limit=60, reset="far", retry_after="seconds", window_ms=REPORTED_WINDOW_MS
    ),
    "no headers": Limits(
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
    "past reset": Limits(global_limit=25, reset="past", window_ms=UNREPORTED_WINDOW_MS),
    "malformed reset": Limits(
        global_limit=30, reset="malformed", retry_after="date", window_ms=REPORTED_WINDOW_MS
    ),
}
LONG_ONLY_QUOTAS = {"past reset", "malformed reset"}


def unknown_deployment_id(number: int) -> str:
    """Return the id of a deployment that the upstream never knows."""
    return f"{UNKNOWN_ID_PREFIX}-9c0b-4ef8-bb6d-{number:012d}"


def build_options(limits: Limits, lure_url: str) -> Options:
    """Return options with every fault and the given limits."""
    return Options(
        faults=ALL_FAULTS,
        quota=limits,
        notice_ms=limits.window_ms * 2 // 3,  # calls already under way do not ignore a 429
        latency_ms=(1, 10),
        nested_page_size=2,
        nested_details=False,
        drip_every_ms=1,
        drip_bytes=512,
        oversized_bytes=400_000,
        lure_url=lure_url,
        shape=Shape(pull_requests=(0, 3)),
    )


async def send_all_webhooks(service: ServiceHarness) -> list[SentDelivery]:
    """Send every webhook twice at once, some for unknown deployments; return the deliveries."""

    async def send(number: int, name: str) -> SentDelivery:
        event = {"deploymentId": name, "eventType": "finished"}
        posts = (service.post(event, delivery=f"d{number}") for _ in range(2))
        statuses = [status for status, _ in await asyncio.gather(*posts)]
        return SentDelivery(
            name=f"d{number}",
            job=f"id:{name}",
            epoch=0,
            queued=statuses.count(202),
            duplicates=statuses.count(200),
        )

    ids = [deployment_id(number) for number in range(TICKETS)]
    ids += [unknown_deployment_id(number) for number in range(UNKNOWN)]
    return await asyncio.gather(
        *(send(number, identifier) for number, identifier in enumerate(ids))
    )


async def run_to_end(service: ServiceHarness) -> tuple[OracleReport, LeftoverState]:
    """Send everything, wait until no work is left, and return the report and the leftover state."""
    await service.open(workers=3, max_response_bytes=200_000, not_found_timeout=2.0)
    async with making_due(service.redis, service.keys):
        deliveries = await send_all_webhooks(service)
        async with asyncio.timeout(100):
            while not await service.is_done():
                await asyncio.sleep(0.02)
    records = await read_records(service.redis, service.keys)
    leftover = await read_leftover_state(service.redis, service.keys)
    return check_deliveries(deliveries, records, leftover), leftover


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "quota",
    [pytest.param(q, marks=[pytest.mark.long] if q in LONG_ONLY_QUOTAS else []) for q in QUOTAS],
)
async def test_upstream_with_every_fault_ends_each_ticket_once(
    service: ServiceHarness, quota: str
) -> None:
    """Each ticket has a record or fails for its fault. No call ignores a 429 or follows a lure."""
    lured_paths: list[str] = []

    async def lure(request: web.Request) -> web.Response:
        lured_paths.append(request.path_qs)
        return web.Response()

    trap = web.Application()
    trap.router.add_route("*", "/{path:.*}", lure)
    async with serve_app(trap, host="127.0.0.1", port=0) as url:
        limits = QUOTAS[quota]
        service.simulator.options = build_options(limits, url)
        report, leftover = await run_to_end(service)
    stats = service.simulator.stats
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
    assert lured_paths == []
    events = Counter(line["event"] for line in service.log_events())
    assert not events.keys() & {"attempt_error", "settle_failed", "unhandled_error", "lease_lost"}
