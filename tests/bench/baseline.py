"""The baselines: the least code that does the same work without a queue.

    python -m tests.bench.baseline get|record|one|receiver

``get``, ``record`` and ``one`` read lines "FIRST COUNT" and process that many deployments. ``get``
only fetches; ``record`` and ``one`` fetch, decode and append. ``one`` processes one after another,
the others concurrently. ``receiver`` is an HTTP server that only reads each body.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from aiohttp import web

from service.cli.event_loop import new_event_loop
from tests.bench.peer_task import CONCURRENCY, GET_COUNT_KEY, PeerTask

NumberHandler = Callable[[int], Awaitable[object]]


async def open_stdin() -> asyncio.StreamReader:
    """Return a non-blocking reader of stdin."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def handle_numbers(handle: NumberHandler, numbers: Iterator[int]) -> None:
    """Handle numbers one after another; several calls share one iterator."""
    for number in numbers:
        await handle(number)


async def process_batches(handle: NumberHandler, *, concurrency: int) -> AsyncIterator[int]:
    """Process every batch that stdin names; yield its size."""
    reader = await open_stdin()
    print("ready", flush=True)
    while line := await reader.readline():
        first, count = map(int, line.split())
        numbers = iter(range(first, first + count))
        await asyncio.gather(*(handle_numbers(handle, numbers) for _ in range(concurrency)))
        yield count


async def run_worker(mode: str) -> None:
    """Process every batch that stdin names."""
    task = PeerTask()
    handle = task.get if mode == "get" else task.process
    concurrency = 1 if mode == "one" else CONCURRENCY
    async for count in process_batches(handle, concurrency=concurrency):
        if mode == "get":
            await task.redis.incrby(GET_COUNT_KEY, count)
    await task.aclose()


async def accept_webhook(request: web.Request) -> web.Response:
    """Read the body and respond 202."""
    await request.read()
    return web.Response(status=202)


async def serve_receiver(handle: Callable[[web.Request], Awaitable[web.Response]]) -> None:
    """Serve webhooks until the process is killed."""
    app = web.Application()
    app.router.add_post("/webhooks/{source}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:  # the loop of the service
        runner.run(
            serve_receiver(accept_webhook) if sys.argv[1] == "receiver" else run_worker(sys.argv[1])
        )
