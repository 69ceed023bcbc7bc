"""How much memory does a worker take, at many tickets at once and on one very large deployment?"""

from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from service.simulate.options import Options
from service.store.keys import Keys
from tests.bench.bodies import name_deployment
from tests.bench.contestants import add_tickets, configure_ours
from tests.bench.places import OURS
from tests.bench.stand import Stand

CONCURRENCY = 64
ITEMS = 3000
PULL_REQUESTS = 5000
_SHAPE = {
    "pull_requests": [PULL_REQUESTS, PULL_REQUESTS],
    "deployments": [2, 2],
    "flag_references": [6, 6],
}


class Large(Struct, frozen=True, kw_only=True):
    """What a very large deployment took: MB at the peak, of the record, of its largest page."""

    peak_mb: float
    record_mb: float
    page_mb: float


async def measure_many(stand: Stand) -> float:
    """Give the peak MB of a worker with many tickets in hand."""
    await stand.clear()
    environ = configure_ours(stand) | {"ENRICHER_CONCURRENCY": str(CONCURRENCY)}
    worker = stand.start(OURS, ("-m", "service", "work"), name="worker", environ=environ)
    try:
        await worker.wait_for("worker_started")
        await add_tickets(stand, range(ITEMS), project="default", with_id=True)
        await stand.wait_until(Keys("deployments").enriched, ITEMS, watch=worker)
        return worker.read_peak_mb()
    finally:
        stand.end(worker)


async def measure_large(stand: Stand) -> Large:
    """Give the peak MB of a worker that follows every page of one very large deployment."""
    await stand.clear()
    options = msgspec.json.encode({"shape": _SHAPE}).decode()
    words = ("-m", "service", "simulate", "--port", "0", "--options", options)
    simulator = stand.start(OURS, words, name="simulator", environ={"ENRICHER_LOG_FORMAT": "json"})
    line = await simulator.wait_for("simulator_opened")
    upstream = line.partition('"url":"')[2].partition('"')[0]
    environ = configure_ours(stand) | {
        "ENRICHER_LAUNCHDARKLY_URL": upstream,
        "LAUNCHDARKLY_ACCESS_TOKEN": Options().token,
    }
    worker = stand.start(OURS, ("-m", "service", "work"), name="worker", environ=environ)
    stream = Keys("deployments").enriched
    try:
        await worker.wait_for("worker_started")
        await add_tickets(stand, range(1), project="default", with_id=True)
        await stand.wait_until(stream, 1, watch=worker)
        peak = worker.read_peak_mb()
        entries: Any = await stand.redis.xrange(stream)
        sizes = await weigh_pages(upstream)
    finally:
        stand.end(worker)
        stand.end(simulator)
    record = len(entries[0][1][b"data"]) / 2**20
    return Large(peak_mb=peak, record_mb=record, page_mb=max(sizes) / 2**20)


async def weigh_pages(upstream: str) -> list[int]:
    """Give the bytes of the first answer and of the first page of pull requests after it."""
    root = f"{upstream}/api/v2/engineering-insights"
    asked: Mapping[str, str] = {
        "projectKey": "default",
        "environmentKey": "production",
        "from": "1",
        "limit": "100",
        "expand": "deployments,flagReferences,leadTime",
    }
    headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
    url = f"{root}/deployments/{name_deployment(0)}?expand=pullRequests,flagReferences"
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(url) as response:
            first = await response.read()
        href = msgspec.json.decode(first)["pullRequests"]["_links"]["next"]["href"]
        after = href.partition("after=")[2].partition("&")[0]
        url = f"{root}/pull-requests"
        async with session.get(url, params={**asked, "after": after}) as response:
            return [len(first), len(await response.read())]
