"""What would one write who needs no queue? The least that does the same: the bare sides.

    python -m tests.bench.straight get|record|one|door

The first three read lines "FIRST COUNT" and get (or get, decode and append) so many, ``one`` one
after another and the others as many at once as everybody; ``door`` serves HTTP and only reads.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

from tests.bench.job import CONCURRENCY, GOT, Job

Act = Callable[[int], Awaitable[object]]


async def read_lines() -> asyncio.StreamReader:
    """Read stdin without blocking."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def loop_over(act: Act, numbers: Iterator[int]) -> None:
    """Do the next one, until there is none: so many of these run side by side."""
    for number in numbers:
        await act(number)


async def work(act: str) -> None:
    """Do every batch that is told."""
    job = Job()
    do = job.get if act == "get" else job.do
    side_by_side = 1 if act == "one" else CONCURRENCY
    reader = await read_lines()
    print("ready", flush=True)
    while line := await reader.readline():
        first, count = map(int, line.split())
        numbers = iter(range(first, first + count))
        await asyncio.gather(*(loop_over(do, numbers) for _ in range(side_by_side)))
        if act == "get":
            await job.redis.incrby(GOT, count)
    await job.aclose()


async def receive(request: web.Request) -> web.Response:
    """Read the body and answer."""
    await request.read()
    return web.Response(status=202)


async def open_door() -> None:
    """Serve until ended."""
    app = web.Application()
    app.router.add_post("/webhooks/{source}", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(open_door() if sys.argv[1] == "door" else work(sys.argv[1]))
