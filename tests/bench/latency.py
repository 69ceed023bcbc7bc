"""The latency from webhook to record on an idle system, compared with a script and a floor."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.keys import Keys
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import CONTENT_FLOOR, service_environ
from tests.bench.paths import SERVICE_PYTHON
from tests.bench.peer_task import STREAM
from tests.bench.processes import MeasuredProcess
from tests.bench.webhook_load import encode_request, parse_response_head

SIDES = ("service", "script", CONTENT_FLOOR)

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


class Side(Struct, frozen=True):
    """One implementation while it is idle: what triggers it, and the stream of its records."""

    trigger: Trigger
    stream: StreamWatcher


async def measure_latency(
    env: BenchEnvironment, rounds: Iterable[int]
) -> list[list[Mapping[str, float]]]:
    """Return the latencies in ms of each round, by the names of ``SIDES``."""
    await env.clear()
    async with open_sides(env) as sides:
        await measure_alternately(sides, range(WARM_UP))
        starts = (WARM_UP + round_number * SAMPLES_PER_ROUND for round_number in rounds)
        return [
            await measure_alternately(sides, range(start, start + SAMPLES_PER_ROUND))
            for start in starts
        ]


async def measure_alternately(
    sides: Mapping[str, Side], numbers: range
) -> list[Mapping[str, float]]:
    """Return a latency in ms of each side for each number, one side after the other."""
    return [
        {
            name: await side.stream.measure_s(side.trigger, number) * 1000
            for name, side in sides.items()
        }
        for number in numbers
    ]


@asynccontextmanager
async def open_sides(env: BenchEnvironment) -> AsyncIterator[Mapping[str, Side]]:
    """Start the service, the script and the content floor, each with a stream of its own."""
    async with AsyncExitStack() as stack:

        def start(arguments: Sequence[str], name: str, **environ: str) -> MeasuredProcess:
            environ = {**service_environ(env), **environ}
            process = env.start(SERVICE_PYTHON, arguments, name=name, environ=environ)
            stack.callback(env.stop, process)
            return process

        def watch(stream: str) -> StreamWatcher:
            client = open_client(env.redis_url, reply_timeout_s=30)
            stack.push_async_callback(client.aclose)
            return StreamWatcher(client, stream)

        receiver = start(("-m", "service", "serve"), "receiver")
        worker = start(("-m", "service", "work"), "worker")
        script = start(("-m", "tests.bench.baseline", "one"), "script")
        floor = "tests.bench.content_floor"
        floor_worker = start(("-m", floor, "worker"), "floor-worker", ENRICHER_NAMESPACE="floor")
        floor_receiver = start(("-m", floor, "receiver"), "floor", ENRICHER_NAMESPACE="floor")
        await worker.wait_for_log("worker_started")
        await asyncio.gather(*(process.wait_for_log("ready") for process in (script, floor_worker)))
        service_line = await receiver.wait_for_log("receiver_started")
        service_url = service_line.partition('"url":"')[2].partition('"')[0]
        floor_url = (await floor_receiver.wait_for_log("ready ")).split()[-1]

        async def trigger_script(number: int) -> None:
            script.write_line(f"{number} 1")

        yield {
            "service": Side(
                await stack.enter_async_context(_open_sender(service_url)),
                watch(Keys("deployments").enriched),
            ),
            "script": Side(trigger_script, watch(STREAM)),
            CONTENT_FLOOR: Side(
                await stack.enter_async_context(_open_sender(floor_url)),
                watch(Keys("floor").enriched),
            ),
        }


@asynccontextmanager
async def _open_sender(url: str) -> AsyncIterator[Trigger]:
    """Open a connection to a receiver; yield what posts the webhook of a number to it."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)

    async def post_webhook(number: int) -> None:
        writer.write(encode_request(f"{url}/webhooks/native", number))
        _, length = parse_response_head(await reader.readuntil(b"\r\n\r\n"))
        await reader.readexactly(length)

    try:
        yield post_webhook
    finally:
        writer.close()
