"""The latency from webhook to record on an idle system, compared with a minimal script."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.keys import Keys
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import service_environ
from tests.bench.paths import SERVICE_PYTHON
from tests.bench.peer_task import STREAM
from tests.bench.webhook_load import encode_request, parse_response_head

SAMPLES_PER_ROUND = 100
WARM_UP = 50
_PAUSE_S = 0.01  # lets the system become idle
_BLOCK_MS = 5000

Trigger = Callable[[int], Awaitable[None]]


class StreamWatcher:
    """Waits for the next entry of a stream on a connection of its own."""

    def __init__(self, client: Redis, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._last_id = "0"

    async def measure_s(self, trigger: Trigger, number: int) -> float:
        """Return the seconds from the trigger until the record appears."""
        next_entry = asyncio.ensure_future(self._wait_for_entry())
        await asyncio.sleep(_PAUSE_S)
        started_s = time.perf_counter()
        await trigger(number)
        await next_entry
        return time.perf_counter() - started_s

    async def _wait_for_entry(self) -> None:
        reply: Any = await self._client.xread({self._stream: self._last_id}, block=_BLOCK_MS)
        if not reply:
            raise TimeoutError("no record within 5 s")
        self._last_id = reply[self._stream.encode()][-1][0].decode()


class LatencyPair(Struct, frozen=True):
    """The service and the script, both idle: their triggers and their streams."""

    post_webhook: Trigger
    trigger_script: Trigger
    service_stream: StreamWatcher
    script_stream: StreamWatcher

    async def measure_pairs(self, numbers: range) -> list[tuple[float, float]]:
        """Return pairs of latencies in ms (service, script), measured alternately."""
        return [
            (
                await self.service_stream.measure_s(self.post_webhook, number) * 1000,
                await self.script_stream.measure_s(self.trigger_script, number) * 1000,
            )
            for number in numbers
        ]


async def measure_latency(
    env: BenchEnvironment, rounds: Iterable[int]
) -> list[list[tuple[float, float]]]:
    """Return the pairs of latencies (service, script) in ms for each round."""
    await env.clear()
    async with open_pair(env) as pair:
        await pair.measure_pairs(range(WARM_UP))
        starts = (WARM_UP + round_number * SAMPLES_PER_ROUND for round_number in rounds)
        return [
            await pair.measure_pairs(range(start, start + SAMPLES_PER_ROUND)) for start in starts
        ]


@asynccontextmanager
async def open_pair(env: BenchEnvironment) -> AsyncIterator[LatencyPair]:
    """Start a receiver, a worker and the script."""
    environ = service_environ(env)
    receiver = env.start(
        SERVICE_PYTHON, ("-m", "service", "serve"), name="receiver", environ=environ
    )
    worker = env.start(SERVICE_PYTHON, ("-m", "service", "work"), name="worker", environ=environ)
    script = env.start(SERVICE_PYTHON, ("-m", "tests.bench.baseline", "one"), name="script")
    clients = [open_client(env.redis_url, reply_timeout_s=30) for _ in range(2)]
    try:
        url = (
            (await receiver.wait_for_log("receiver_started"))
            .partition('"url":"')[2]
            .partition('"')[0]
        )
        await asyncio.gather(worker.wait_for_log("worker_started"), script.wait_for_log("ready"))
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)

        async def post_webhook(number: int) -> None:
            writer.write(encode_request(f"{url}/webhooks/native", number))
            _, length = parse_response_head(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(length)

        async def trigger_script(number: int) -> None:
            script.write_line(f"{number} 1")

        service_stream = StreamWatcher(clients[0], Keys("deployments").enriched)
        yield LatencyPair(
            post_webhook, trigger_script, service_stream, StreamWatcher(clients[1], STREAM)
        )
        writer.close()
    finally:
        for process in (receiver, worker, script):
            env.stop(process)
        for client in clients:
            await client.aclose()
