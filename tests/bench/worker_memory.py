"""The memory of a worker, and how long it blocks its event loop, with very large deployments.

The longest block is the gauge ``enricher_event_loop_lag_seconds`` of the worker. It is elapsed
time, so another program that takes the processor counts too.
"""

import re
import socket
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
from tests.bench.response_bodies import LARGE_NUMBER

CONCURRENCY = 64
ITEMS = 3000
PULL_REQUESTS = 5000
LARGE_RESPONSES = 32
_LARGE_SHAPE = {
    "pull_requests": [PULL_REQUESTS, PULL_REQUESTS],
    "deployments": [2, 2],
    "flag_references": [6, 6],
}


class LargeRecordCost(Struct, frozen=True, kw_only=True):
    """The peak MB of a worker, the MB of one record, and the longest block of the loop in ms."""

    peak_mb: float
    record_mb: float
    blocked_ms: float


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


async def measure_large_deployment(env: BenchEnvironment) -> LargeRecordCost:
    """Measure a worker that fetches every page of one very large deployment."""
    options = msgspec.json.encode({"shape": _LARGE_SHAPE}).decode()
    command = ("-m", "service", "simulate", "--port", "0", "--options", options)
    simulator = env.start(
        SERVICE_PYTHON, command, name="simulator", environ={"ENRICHER_LOG_FORMAT": "json"}
    )
    try:
        line = await simulator.wait_for_log("simulator_started")
        upstream = line.partition('"url":"')[2].partition('"')[0]
        environ = {
            "ENRICHER_LAUNCHDARKLY_URL": upstream,
            "LAUNCHDARKLY_ACCESS_TOKEN": Options().token,
        }
        return await _measure_large_records(env, range(1), environ)
    finally:
        env.stop(simulator)


async def measure_large_responses(
    env: BenchEnvironment, *, count: int = LARGE_RESPONSES
) -> LargeRecordCost:
    """Measure a worker that receives many very large responses at once, each a deployment."""
    numbers = range(LARGE_NUMBER, LARGE_NUMBER + count)
    return await _measure_large_records(env, numbers, {})


async def _measure_large_records(
    env: BenchEnvironment, numbers: range, environ: Mapping[str, str]
) -> LargeRecordCost:
    await env.clear()
    port = _find_free_port()
    worker = env.start(
        SERVICE_PYTHON,
        ("-m", "service", "work"),
        name="worker",
        environ={**service_environ(env), **environ, "ENRICHER_METRICS_PORT": str(port)},
    )
    stream = Keys("deployments").enriched
    try:
        await worker.wait_for_log("worker_started")
        await add_tickets(env, numbers, project="default", with_id=True)
        await env.wait_for_count(stream, len(numbers), watch=worker)
        blocked_s = await _read_longest_block_s(port)
        peak_mb = worker.read_peak_mb()
    finally:
        env.stop(worker)
    entries: Any = await env.redis.xrange(stream, count=1)
    return LargeRecordCost(
        peak_mb=peak_mb,
        record_mb=len(entries[0][1][b"data"]) / 2**20,
        blocked_ms=blocked_s * 1000,
    )


async def _read_longest_block_s(port: int) -> float:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        text = await response.text()
    (value,) = re.findall(r"^enricher_event_loop_lag_seconds (\S+)$", text, re.MULTILINE)
    return float(value)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
