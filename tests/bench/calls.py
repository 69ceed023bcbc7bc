"""How many calls does a record cost, and how much sooner is a backlog done?

    python3 run.py bench calls [--tickets N] [--limit CALLS] [--window SECONDS]

The same tickets, of ten applications in one environment, wait under the same quota: with what a
sender usually knows (no id), with ids whose events name application and environment, and with ids
alone. The last is the way that anybody would go: one call for each record. The simulated
LaunchDarkly counts the calls, and every record is compared with what asking for its deployment
alone gives.
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

from service.accept.events import DeploymentCompleted
from service.app import open_worker
from service.enrich.launchdarkly import open_session
from service.enrich.listing import EXPAND
from service.enrich.pages import ROOT
from service.house import House, open_house
from service.log import open_log
from service.operate.listening import listen
from service.settings import Secret, Settings
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from service.store.embedded import EmbeddedServer

_APPLICATIONS = 10
_ALONE = "id alone"
_WAYS = ("no id, but its names", "id and names", _ALONE)
_SPACING_MS = 10_000


class Deployed(Struct, frozen=True):
    """One deployment that a ticket is about."""

    id: str
    application: str
    version: str
    ended_at: int


class Cost(Struct, frozen=True):
    """What one way cost. ``equal`` counts records that are to the byte what asking alone gives."""

    way: str
    records: int
    equal: int
    calls: int
    refused: int
    seconds: float


async def main(words: Sequence[str]) -> int:
    """Go all three ways and print the table."""
    arguments = _read_arguments(words)
    costs = [
        await measure_way(
            way, tickets=arguments.tickets, limit=arguments.limit, window_s=arguments.window
        )
        for way in _WAYS
    ]
    sys.stdout.write(write_table(costs, limit=arguments.limit, window_s=arguments.window))
    return 0 if all(cost.equal == arguments.tickets for cost in costs) else 1


async def measure_way(way: str, *, tickets: int, limit: int, window_s: float) -> Cost:
    """Work off so many tickets under a quota of ``limit`` calls a window."""
    quota = Limits(global_limit=limit, window_ms=round(window_s * 1000))
    simulator = Simulator(
        Options(conjure=False, quota=quota), clock=time.time, chance=random.Random(1)
    )
    deployed = [_deploy(simulator, number, of=tickets) for number in range(tickets)]
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(EmbeddedServer(Path(folder)))
        origin = await stack.enter_async_context(listen(simulator.app(), host="127.0.0.1", port=0))
        settings = Settings(
            access_token=Secret(Options().token),
            launchdarkly_url=origin,
            redis_url=Secret(server.url),
            rate_share=1.0,
        )
        house = await stack.enter_async_context(
            open_house(settings, open_log(stream=io.StringIO(), pretty=False))
        )
        await asyncio.gather(*(house.backlog.add(_complete(one, way)) for one in deployed))
        begun = time.monotonic()
        async with open_worker(house):
            while await house.client.zcard(house.keys.backlog):
                await asyncio.sleep(0.02)
            seconds = time.monotonic() - begun
        stats = simulator.stats
        simulator.options = Options(conjure=False)
        return Cost(
            way=way,
            records=await house.client.xlen(house.keys.enriched),
            equal=await _count_equal(house, origin),
            calls=sum(stats.calls.values()),
            refused=stats.rate_limited,
            seconds=seconds,
        )


def write_table(costs: Sequence[Cost], *, limit: int, window_s: float) -> str:
    """Write what was measured as Markdown."""
    alone = next(cost.seconds for cost in costs if cost.way == _ALONE)
    rows = [
        f"| {cost.way} | {cost.records} | {cost.equal} | {cost.calls} "
        f"| {cost.calls / max(cost.records, 1):.3f} | {cost.refused} | {cost.seconds:.1f} s "
        f"| {alone / cost.seconds:.1f} x |\n"
        for cost in costs
    ]
    return (
        f"Quota: {limit} calls in {window_s:g} s.\n\n"
        "| what the events say | records | same to the byte | calls | calls per record | 429s "
        "| drained in | sooner |\n|---|--:|--:|--:|--:|--:|--:|--:|\n" + "".join(rows)
    )


def _deploy(simulator: Simulator, number: int, *, of: int) -> Deployed:
    """Have one deployment end, ten seconds after the one before."""
    ended_at = round(time.time() * 1000) - _SPACING_MS * (of - number)
    application, version = f"application-{number % _APPLICATIONS}", f"1.0.{number}"
    name = simulator.add_deployment(
        NewDeployment(application=application, version=version, started_at=ended_at - 60_000)
    )
    return Deployed(name, application, version, ended_at)


def _complete(one: Deployed, way: str) -> DeploymentCompleted:
    named = way != _ALONE
    return DeploymentCompleted(
        source="native",
        delivery=one.id,
        project="default" if named else None,
        environment="production" if named else None,
        application=one.application if named else None,
        version=one.version if named else None,
        deployment_id=one.id if way.startswith("id") else None,
        outcome="succeeded",
        event_time=one.ended_at,
        metadata=None,
        metadata_dropped=False,
        traceparent=None,
    )


async def _count_equal(house: House, origin: str) -> int:
    """Count the records that hold the very bytes that asking for the deployment gives."""
    entries: Any = await house.client.xrange(house.keys.enriched)
    async with open_session(Options().token, connections=8) as session:
        same = [await _is_equal(session, origin, fields) for _, fields in entries]
    return sum(same)


async def _is_equal(session: ClientSession, origin: str, fields: dict[bytes, bytes]) -> bool:
    url = f"{origin}{ROOT}deployments/{fields[b'subject'].decode()}?expand={EXPAND}"
    async with session.get(url) as response:
        alone = await response.read()
    told = msgspec.json.decode(fields[b"data"], type=dict[str, msgspec.Raw])
    return bytes(told["deployment"]) == alone


def _read_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py bench calls", description="calls per record")
    parser.add_argument("--tickets", type=int, default=1000, metavar="N")
    parser.add_argument("--limit", type=int, default=20, metavar="CALLS", help="in a window")
    parser.add_argument("--window", type=float, default=2.0, metavar="SECONDS")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
