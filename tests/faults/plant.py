"""What stands where the storm comes? Doors, workers, a Redis, an upstream, and who looks on."""

import asyncio
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import aiohttp
from msgspec import Struct
from redis.asyncio import Redis

from service.simulate.deployment import Shape
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.store.connect import open_client
from service.store.embedded import AppendFsync
from service.store.keys import Keys
from tests.faults.programs import Program, Store
from tests.faults.reader import Reader
from tests.faults.senders import Senders
from tests.faults.upstream import Upstream

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEYS = Keys("storm")
LEASE_S = 2.0

# Generous, since the storm is not about the quota; small deployments, some with further pages.
CALM = Options(
    seed=1,
    nested_page_size=2,
    nested_details=False,
    latency_ms=(5, 60),
    quota=Limits(global_limit=5000),
    shape=Shape(pull_requests=(0, 2), big_share=0.05, big_pull_requests=(3, 6)),
)


class Cast(Struct, frozen=True, kw_only=True):
    """How many doors and workers there are, on what kind of Redis, before which upstream."""

    seed: int
    doors: int = 2
    workers: int = 3
    appendfsync: AppendFsync = "always"
    upstream: Options = CALM
    environ: Mapping[str, str] = MappingProxyType({})


class Plant(Struct, frozen=True, kw_only=True):
    """All that can be struck, and all that looks on."""

    doors: Sequence[Program]
    workers: Sequence[Program]
    store: Store
    upstream: Upstream
    redis: Redis
    reader: Reader
    senders: Senders

    def list_programs(self) -> list[Program]:
        """List the doors and the workers."""
        return [*self.doors, *self.workers]

    def count_facts(self) -> Counter[str]:
        """Count the log lines of all that has ended by now."""
        return sum((program.facts for program in self.list_programs()), Counter())

    def list_mistakes(self) -> list[str]:
        """List what no fault excuses."""
        return [told for program in self.list_programs() for told in program.mistakes]

    async def end(self) -> None:
        """End every program in good order."""
        ends = (program.end(signal.SIGTERM) for program in self.list_programs())
        await asyncio.gather(*ends)


@asynccontextmanager
async def build_plant(cast: Cast, home: Path) -> AsyncIterator[Plant]:
    """Start everything under a directory; gives it once the doors are open."""
    simulator = Simulator(cast.upstream, clock=time.time, chance=random.Random(cast.seed))
    upstream = Upstream(simulator)
    store = Store(home / "redis", appendfsync=cast.appendfsync)
    await upstream.open()
    await store.start()
    connector = aiohttp.TCPConnector(limit=0)
    async with open_client(store.url) as redis, aiohttp.ClientSession(connector=connector) as http:
        ports = _find_ports(cast.doors)
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        doors, workers = _make_programs(cast, ports, home, _write_environ(cast, store, upstream))
        plant = Plant(
            doors=doors,
            workers=workers,
            store=store,
            upstream=upstream,
            redis=redis,
            reader=Reader(redis, KEYS, upstream.find_epoch),
            senders=Senders(http, urls, secret=SECRET, upstream=upstream, seed=cast.seed),
        )
        reading = asyncio.create_task(plant.reader.read_on(), name="reader")
        try:
            await asyncio.gather(*(program.start() for program in plant.list_programs()))
            await asyncio.gather(*(program.wait_for_start() for program in plant.list_programs()))
            yield plant
        finally:
            plant.reader.stop()
            ends = (program.end(signal.SIGKILL) for program in plant.list_programs())
            await asyncio.gather(reading, *ends, return_exceptions=True)
            await upstream.close()
            await store.end()


def _make_programs(
    cast: Cast, ports: Sequence[str], home: Path, environ: Mapping[str, str]
) -> tuple[list[Program], list[Program]]:
    """Make the doors and the workers; none is started yet."""
    logs = home / "logs"
    logs.mkdir()
    doors = [
        Program("serve", f"door{n}", logs=logs, environ={**environ, "ENRICHER_PORT": port})
        for n, port in enumerate(ports)
    ]
    workers = [
        Program("work", f"worker{n}", logs=logs, environ=environ) for n in range(cast.workers)
    ]
    return doors, workers


def _write_environ(cast: Cast, store: Store, upstream: Upstream) -> dict[str, str]:
    return {
        "ENRICHER_REDIS_URL": store.url,
        "ENRICHER_NAMESPACE": KEYS.namespace,
        "ENRICHER_WEBHOOK_SECRET": SECRET,
        "ENRICHER_LEASE": str(LEASE_S),
        "ENRICHER_GRACE": "5",
        "ENRICHER_RATE_SHARE": "1",
        "ENRICHER_CONCURRENCY": "16",
        "ENRICHER_RESOLVE_WINDOW": "30",
        "ENRICHER_STREAM_RETENTION": "30",
        "ENRICHER_LOG_FORMAT": "json",
        "ENRICHER_LAUNCHDARKLY_URL": upstream.url,
        "LAUNCHDARKLY_ACCESS_TOKEN": cast.upstream.token,
        **cast.environ,
    }


def _find_ports(count: int) -> list[str]:
    """Find free ports: a door that was killed must come back where its senders look for it."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
