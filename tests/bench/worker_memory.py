"""The memory of a worker: with many concurrent tickets, and with one very large deployment."""

from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from service.simulate.options import Options
from service.store.keys import Keys
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import add_tickets, service_environ
from tests.bench.paths import SERVICE_PYTHON
from tests.bench.response_bodies import deployment_id_for

CONCURRENCY = 64
ITEMS = 3000
PULL_REQUESTS = 5000
_LARGE_SHAPE = {
    "pull_requests": [PULL_REQUESTS, PULL_REQUESTS],
    "deployments": [2, 2],
    "flag_references": [6, 6],
}


class LargeDeploymentMemory(Struct, frozen=True, kw_only=True):
    """The memory in MB for a very large deployment: its peak, its record, its largest page."""

    peak_mb: float
    record_mb: float
    page_mb: float


async def measure_concurrent_mb(env: BenchEnvironment) -> float:
    """Return the peak MB of a worker with many concurrent tickets."""
    await env.clear()
    environ = service_environ(env) | {"ENRICHER_CONCURRENCY": str(CONCURRENCY)}
    worker = env.start(SERVICE_PYTHON, ("-m", "service", "work"), name="worker", environ=environ)
    try:
        await worker.wait_for_log("worker_started")
        await add_tickets(env, range(ITEMS), project="default", with_id=True)
        await env.wait_for_count(Keys("deployments").enriched, ITEMS, watch=worker)
        return worker.read_peak_mb()
    finally:
        env.stop(worker)


async def measure_large_deployment(env: BenchEnvironment) -> LargeDeploymentMemory:
    """Measure the peak MB of a worker that fetches every page of one very large deployment."""
    await env.clear()
    options = msgspec.json.encode({"shape": _LARGE_SHAPE}).decode()
    command = ("-m", "service", "simulate", "--port", "0", "--options", options)
    simulator = env.start(
        SERVICE_PYTHON, command, name="simulator", environ={"ENRICHER_LOG_FORMAT": "json"}
    )
    line = await simulator.wait_for_log("simulator_started")
    upstream = line.partition('"url":"')[2].partition('"')[0]
    environ = service_environ(env) | {
        "ENRICHER_LAUNCHDARKLY_URL": upstream,
        "LAUNCHDARKLY_ACCESS_TOKEN": Options().token,
    }
    worker = env.start(SERVICE_PYTHON, ("-m", "service", "work"), name="worker", environ=environ)
    stream = Keys("deployments").enriched
    try:
        await worker.wait_for_log("worker_started")
        await add_tickets(env, range(1), project="default", with_id=True)
        await env.wait_for_count(stream, 1, watch=worker)
        peak_mb = worker.read_peak_mb()
        entries: Any = await env.redis.xrange(stream)
        sizes = await measure_page_bytes(upstream)
    finally:
        env.stop(worker)
        env.stop(simulator)
    record_mb = len(entries[0][1][b"data"]) / 2**20
    return LargeDeploymentMemory(peak_mb=peak_mb, record_mb=record_mb, page_mb=max(sizes) / 2**20)


async def measure_page_bytes(upstream: str) -> list[int]:
    """Return the bytes of the deployment and of its second page of pull requests."""
    root = f"{upstream}/api/v2/engineering-insights"
    query: Mapping[str, str] = {
        "projectKey": "default",
        "environmentKey": "production",
        "from": "1",
        "limit": "100",
        "expand": "deployments,flagReferences,leadTime",
    }
    headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
    url = f"{root}/deployments/{deployment_id_for(0)}?expand=pullRequests,flagReferences"
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(url) as response:
            body = await response.read()
        href = msgspec.json.decode(body)["pullRequests"]["_links"]["next"]["href"]
        after = href.partition("after=")[2].partition("&")[0]
        url = f"{root}/pull-requests"
        async with session.get(url, params={**query, "after": after}) as response:
            return [len(body), len(await response.read())]
