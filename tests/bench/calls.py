"""The benchmark of calls per record and of the speedup by shared list calls.

    python3 run.py bench calls [--tickets N] [--limit CALLS] [--window SECONDS]

The same tickets, of ten applications in one environment, wait under the same quota in three
variants: without ids, with ids and names, and with ids only. Tickets with ids only need one call
each, as in a simple implementation. The simulator counts the calls. Every record is compared with
the response to a call for its deployment alone.
"""

import argparse
import asyncio
import io
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession
from msgspec import Struct

from service.accept.mapping import DeploymentEvent
from service.app import Runtime, open_runtime, open_worker
from service.enrich.client import open_session
from service.enrich.pagination import API_ROOT
from service.enrich.shared_list import EXPAND
from service.log import build_log
from service.metrics.http import serve_app
from service.settings import Secret, Settings
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from service.store.embedded import EmbeddedServer
from tests.factories import make_event

_APPLICATIONS = 10
_ID_ONLY = "id only"
_VARIANTS = ("names only", "id and names", _ID_ONLY)
_SPACING_MS = 10_000


class FinishedDeployment(Struct, frozen=True):
    """The deployment of one ticket."""

    id: str
    application: str
    version: str
    ended_at: int


class CallCost(Struct, frozen=True):
    """The cost of one variant.

    ``identical`` counts records with exactly the bytes of a single call.
    """

    variant: str
    records: int
    identical: int
    calls: int
    rate_limited: int
    seconds: float


async def main(argv: Sequence[str]) -> int:
    """Measure all variants and print the table; return 1 when a record differs."""
    arguments = _parse_arguments(argv)
    costs = [
        await measure_variant(
            variant, tickets=arguments.tickets, limit=arguments.limit, window_s=arguments.window
        )
        for variant in _VARIANTS
    ]
    sys.stdout.write(format_table(costs, limit=arguments.limit, window_s=arguments.window))
    return 0 if all(cost.identical == arguments.tickets for cost in costs) else 1


async def measure_variant(variant: str, *, tickets: int, limit: int, window_s: float) -> CallCost:
    """Drain a backlog under a quota of ``limit`` calls a window."""
    quota = Limits(global_limit=limit, window_ms=round(window_s * 1000))
    simulator = Simulator(
        Options(auto_create=False, quota=quota), clock=time.time, rng=random.Random(1)
    )
    deployments = [_add_deployment(simulator, number, total=tickets) for number in range(tickets)]
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(EmbeddedServer(Path(folder)))
        origin = await stack.enter_async_context(
            serve_app(simulator.app(), host="127.0.0.1", port=0)
        )
        settings = Settings(
            access_token=Secret(Options().token),
            launchdarkly_url=origin,
            redis_url=Secret(server.url),
            rate_limit_share=1.0,
        )
        runtime = await stack.enter_async_context(
            open_runtime(settings, build_log(stream=io.StringIO(), pretty=False))
        )
        await asyncio.gather(
            *(
                runtime.backlog.add(_completed_event(deployment, variant))
                for deployment in deployments
            )
        )
        started_s = time.monotonic()
        async with open_worker(runtime):
            while await runtime.client.zcard(runtime.keys.backlog):
                await asyncio.sleep(0.02)
            seconds = time.monotonic() - started_s
        stats = simulator.stats
        simulator.options = Options(auto_create=False)
        return CallCost(
            variant=variant,
            records=await runtime.client.xlen(runtime.keys.enriched),
            identical=await _count_identical(runtime, origin),
            calls=sum(stats.calls.values()),
            rate_limited=stats.rate_limited,
            seconds=seconds,
        )


def format_table(costs: Sequence[CallCost], *, limit: int, window_s: float) -> str:
    """Return the results as a Markdown table."""
    baseline_s = next(cost.seconds for cost in costs if cost.variant == _ID_ONLY)
    rows = [
        f"| {cost.variant} | {cost.records} | {cost.identical} | {cost.calls} "
        f"| {cost.calls / max(cost.records, 1):.3f} | {cost.rate_limited} | {cost.seconds:.1f} s "
        f"| {baseline_s / cost.seconds:.1f} x |\n"
        for cost in costs
    ]
    return (
        f"Quota: {limit} calls in {window_s:g} s.\n\n"
        "| events contain | records | identical records | calls | calls per record | 429s "
        "| drained in | speedup |\n|---|--:|--:|--:|--:|--:|--:|--:|\n" + "".join(rows)
    )


def _add_deployment(simulator: Simulator, number: int, *, total: int) -> FinishedDeployment:
    """Add one finished deployment, ten seconds after the previous one."""
    ended_at = round(time.time() * 1000) - _SPACING_MS * (total - number)
    application, version = f"application-{number % _APPLICATIONS}", f"1.0.{number}"
    deployment_id = simulator.add_deployment(
        NewDeployment(application=application, version=version, started_at=ended_at - 60_000)
    )
    return FinishedDeployment(deployment_id, application, version, ended_at)


def _completed_event(deployment: FinishedDeployment, variant: str) -> DeploymentEvent:
    names: dict[str, Any] = {
        "application": deployment.application,
        "version": deployment.version,
    }
    if variant == _ID_ONLY:
        names = dict.fromkeys(("project", "environment", "application", "version"))
    return make_event(
        delivery=deployment.id,
        deployment_id=deployment.id if variant.startswith("id") else None,
        event_time=deployment.ended_at,
        metadata=None,
        **names,
    )


async def _count_identical(runtime: Runtime, origin: str) -> int:
    """Count the records with exactly the bytes of a call for the deployment."""
    entries: Any = await runtime.client.xrange(runtime.keys.enriched)
    async with open_session(Options().token, max_connections=8) as session:
        identical = [await _is_identical(session, origin, fields) for _, fields in entries]
    return sum(identical)


async def _is_identical(session: ClientSession, origin: str, fields: dict[bytes, bytes]) -> bool:
    url = f"{origin}{API_ROOT}deployments/{fields[b'subject'].decode()}?expand={EXPAND}"
    async with session.get(url) as response:
        body = await response.read()
    record = msgspec.json.decode(fields[b"data"], type=dict[str, msgspec.Raw])
    return bytes(record["deployment"]) == body


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py bench calls", description="calls per record")
    parser.add_argument("--tickets", type=int, default=1000, metavar="N")
    parser.add_argument("--limit", type=int, default=20, metavar="CALLS", help="calls per window")
    parser.add_argument("--window", type=float, default=2.0, metavar="SECONDS")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
