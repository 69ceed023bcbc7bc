"""The system under test: receivers, workers, a Redis, an upstream, a reader and senders."""

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

from service.simulate.options import Options, Shape
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.store.connect import open_client
from service.store.embedded import AppendFsync
from service.store.keys import Keys
from tests.faults.processes import RedisProcess, ServiceProcess
from tests.faults.record_reader import RecordReader
from tests.faults.redis_clock import build_redis_clock
from tests.faults.senders import REPORTING_SOURCE, WebhookSenders
from tests.faults.upstream import FaultyLaunchDarkly

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEYS = Keys("storm")
LEASE_S = 2.0

# A storm does not test the quota, so the limit is high. Some deployments have several pages.
CALM_OPTIONS = Options(
    seed=1,
    nested_page_size=2,
    nested_details=False,
    latency_ms=(5, 60),
    events_visible_after_ms=3000,  # longer than a lease: an event is reported again only if it must
    quota=Limits(global_limit=5000),
    shape=Shape(pull_requests=(0, 2), big_share=0.05, big_pull_requests=(3, 6)),
)


FLAG_EVENT_ENVIRON = {"ENRICHER_FLAG_EVENTS": "on", "ENRICHER_REFRESH_AFTER": "2 5 10"}
"""Settings with which refreshes follow soon, and add what happened to the flags."""


class SystemConfig(Struct, frozen=True, kw_only=True):
    """The number of receivers and workers, the Redis mode, the upstream options and settings."""

    seed: int
    receivers: int = 2
    workers: int = 3
    appendfsync: AppendFsync = "always"
    upstream: Options = CALM_OPTIONS
    environ: Mapping[str, str] = MappingProxyType({})


class SystemUnderTest(Struct, frozen=True, kw_only=True):
    """All processes that a storm strikes, with the reader and the senders."""

    receivers: Sequence[ServiceProcess]
    workers: Sequence[ServiceProcess]
    redis_process: RedisProcess
    upstream: FaultyLaunchDarkly
    redis: Redis
    reader: RecordReader
    senders: WebhookSenders

    def list_processes(self) -> list[ServiceProcess]:
        """Return the receivers and the workers."""
        return [*self.receivers, *self.workers]

    def count_log_events(self) -> Counter[str]:
        """Count the log lines of all processes that have ended."""
        return sum((process.log_events for process in self.list_processes()), Counter())

    def list_violations(self) -> list[str]:
        """Return what no fault excuses."""
        return [violation for process in self.list_processes() for violation in process.violations]

    async def stop(self) -> None:
        """Stop every process with SIGTERM."""
        stops = (process.stop(signal.SIGTERM) for process in self.list_processes())
        await asyncio.gather(*stops)


@asynccontextmanager
async def start_system(config: SystemConfig, folder: Path) -> AsyncIterator[SystemUnderTest]:
    """Start the whole system under a directory; yield it when every process has started."""
    simulator = Simulator(config.upstream, clock=time.time, rng=random.Random(config.seed))
    upstream = FaultyLaunchDarkly(simulator)
    redis_process = RedisProcess(
        folder / "redis", appendfsync=config.appendfsync, clock=build_redis_clock(folder)
    )
    await upstream.open()
    await redis_process.start()
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        open_client(redis_process.url) as redis,
        aiohttp.ClientSession(connector=connector) as http,
    ):
        ports = _find_free_ports(config.receivers)
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        receivers, workers = _build_processes(
            config, ports, folder, _build_environ(config, redis_process, upstream, folder)
        )
        system = SystemUnderTest(
            receivers=receivers,
            workers=workers,
            redis_process=redis_process,
            upstream=upstream,
            redis=redis,
            reader=RecordReader(redis, KEYS, upstream.find_epoch),
            senders=WebhookSenders(http, urls, secret=SECRET, upstream=upstream, seed=config.seed),
        )
        reader_task = asyncio.create_task(system.reader.run(), name="reader")
        try:
            await asyncio.gather(*(process.start() for process in system.list_processes()))
            await asyncio.gather(*(process.wait_for_start() for process in system.list_processes()))
            yield system
        finally:
            system.reader.stop()
            stops = (process.stop(signal.SIGKILL) for process in system.list_processes())
            await asyncio.gather(reader_task, *stops, return_exceptions=True)
            await upstream.close()
            await redis_process.stop()


def _build_processes(
    config: SystemConfig, ports: Sequence[str], folder: Path, environ: Mapping[str, str]
) -> tuple[list[ServiceProcess], list[ServiceProcess]]:
    """Build the receivers and the workers without starting them."""
    logs = folder / "logs"
    logs.mkdir()
    receivers = [
        ServiceProcess(
            "serve", f"receiver{n}", log_folder=logs, environ={**environ, "ENRICHER_PORT": port}
        )
        for n, port in enumerate(ports)
    ]
    workers = [
        ServiceProcess("work", f"worker{n}", log_folder=logs, environ=environ)
        for n in range(config.workers)
    ]
    return receivers, workers


def _write_sources(folder: Path) -> Path:
    """Write a file with a source of the native body, and one that is reported to LaunchDarkly."""
    source = f'[[source]]\npreset = "native"\nsecrets = ["{SECRET}"]\n'
    path = folder / "sources.toml"
    path.write_text(
        f'{source}name = "native"\n{source}name = "{REPORTING_SOURCE}"\nreport = true\n'
    )
    return path


def _build_environ(
    config: SystemConfig,
    redis_process: RedisProcess,
    upstream: FaultyLaunchDarkly,
    folder: Path,
) -> dict[str, str]:
    return {
        "ENRICHER_REDIS_URL": redis_process.url,
        "ENRICHER_NAMESPACE": KEYS.namespace,
        "ENRICHER_SOURCES": str(_write_sources(folder)),
        "ENRICHER_LEASE": str(LEASE_S),
        "ENRICHER_SHUTDOWN_TIMEOUT": "5",
        "ENRICHER_RATE_LIMIT_SHARE": "1",
        "ENRICHER_CONCURRENCY": "16",
        "ENRICHER_LOOKBACK": "30",
        "ENRICHER_STREAM_RETENTION": "30",
        "ENRICHER_LOG_FORMAT": "json",
        "ENRICHER_LAUNCHDARKLY_URL": upstream.url,
        "LAUNCHDARKLY_ACCESS_TOKEN": config.upstream.token,
        **config.environ,
    }


def _find_free_ports(count: int) -> list[str]:
    """Return free ports. A killed receiver must restart on the port that its senders know."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
