"""The service in one process: a receiver, workers, a simulated LaunchDarkly and test helpers."""

import asyncio
import io
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.signatures import sign_standard_webhook
from service.app import Runtime, open_receiver, open_reconciler, open_runtime, open_worker
from service.cli.preconditions import read_sources
from service.log import build_log
from service.metrics.http import serve_app
from service.settings import Secret, Settings
from service.simulate.options import Options
from service.simulate.server import Simulator
from service.store.keys import Keys
from service.tracing.tracing import NO_TRACING

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_DELIVERY_NUMBERS = itertools.count(1)


class ServiceHarness:
    """A receiver, workers and a simulator in one process, with methods to use and observe them."""

    def __init__(self, settings: Settings, simulator: Simulator, redis: Redis) -> None:
        self.settings = settings
        self.simulator = simulator
        self.redis = redis
        self.keys = Keys(settings.namespace)
        self.log_output = io.StringIO()
        self.log = build_log(stream=self.log_output, pretty=False)
        self.stack = AsyncExitStack()
        self.session = aiohttp.ClientSession()
        self.receiver_url = ""
        self.runtime: Runtime | None = None
        self.tracing = NO_TRACING

    async def open(self, *, workers: int = 1, **changes: object) -> "ServiceHarness":
        """Open the receiver and the given number of workers."""
        self.settings = replace(self.settings, **changes)
        runtime = open_runtime(self.settings, self.log, tracing=self.tracing)
        self.runtime = await self.stack.enter_async_context(runtime)
        for _ in range(workers):
            await self.add_worker()
        sources = read_sources(self.settings, {})
        self.receiver_url = await self.stack.enter_async_context(
            open_receiver(self.runtime, sources)
        )
        return self

    async def add_worker(self) -> None:
        """Start one more worker."""
        assert self.runtime is not None
        await self.stack.enter_async_context(open_worker(self.runtime))

    async def add_reconciler(self) -> None:
        """Start one more reconciler."""
        assert self.runtime is not None
        await self.stack.enter_async_context(open_reconciler(self.runtime))

    async def close(self) -> None:
        """Close everything, workers first."""
        await self.session.close()
        await self.stack.aclose()

    async def post(
        self,
        event: Mapping[str, object] | bytes,
        *,
        delivery: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Sign and post one event with additional headers; return the status and the response."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        name = delivery or f"delivery-{next(_DELIVERY_NUMBERS)}"
        headers = sign_standard_webhook(
            SECRET, delivery=name, timestamp_s=int(time.time()), body=body
        )
        url, headers = f"{self.receiver_url}/webhooks/native", {**headers, **(extra_headers or {})}
        data = io.BytesIO(body)  # aiohttp warns of large bytes
        async with self.session.post(url, data=data, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def records(self) -> list[dict[str, Any]]:
        """Return all records of the stream, with their data decoded."""
        entries = await read_stream(self.redis, self.keys.enriched)
        return [{**fields, "data": json.loads(fields["data"])} for fields in entries]

    async def failed_jobs(self) -> list[str]:
        """Return the jobs of the failed tickets."""
        jobs: Any = await self.redis.zrange(self.keys.failed, 0, -1)
        return [job.decode() for job in jobs]

    async def is_done(self) -> bool:
        """Return whether the backlog is empty."""
        return not await self.redis.exists(self.keys.backlog)

    def log_events(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the log lines, or those of one event."""
        lines = [json.loads(line) for line in self.log_output.getvalue().splitlines()]
        return [line for line in lines if event is None or line["event"] == event]


@asynccontextmanager
async def open_simulator() -> AsyncIterator[tuple[Simulator, str]]:
    """Start a simulator; yield it and its URL."""
    simulator = Simulator(Options(), clock=time.time, rng=random.Random(1))
    async with serve_app(simulator.app(), host="127.0.0.1", port=0) as url:
        yield simulator, url


@asynccontextmanager
async def open_harness(
    redis: Redis, namespace: str, **changes: object
) -> AsyncIterator[ServiceHarness]:
    """Build the service without opening it, and close it at the end.

    ``redis`` only observes. The service uses the ``redis_url`` among the changed settings.
    """
    async with open_simulator() as (simulator, simulator_url):
        settings = Settings(
            access_token=Secret(Options().token),
            launchdarkly_url=simulator_url,
            namespace=namespace,
            webhook_secret=Secret(SECRET),
            port=0,
            rate_limit_share=1.0,
            lease=2.0,
            shutdown_timeout=2.0,
            enqueue_timeout=2.0,
        )
        harness = ServiceHarness(replace(settings, **changes), simulator, redis)
        try:
            yield harness
        finally:
            await harness.close()


async def remaining_tasks() -> set[asyncio.Task[Any]]:
    """Return the tasks that do not end within 5 s."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return (await asyncio.wait(others, timeout=5))[1] if others else set()


async def read_stream(redis: Redis, stream: str) -> list[dict[str, str]]:
    """Return the fields of every stream entry as text."""
    entries: Any = await redis.xrange(stream)
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in entries]
