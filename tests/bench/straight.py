"""What would one write who needs no queue? The least that does the same: the bare sides.

    python -m tests.bench.straight get|record|one|door

``get`` and ``record`` read "FIRST COUNT" lines and work on so many at once as everybody; ``one``
reads numbers and works on them one after another; ``door`` serves HTTP and only reads the body.
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
    reader = await read_lines()
    print("ready", flush=True)  # noqa: T201 - the sign that is waited for
    while line := await reader.readline():
        first, count = map(int, line.split())
        numbers = iter(range(first, first + count))
        await asyncio.gather(*(loop_over(do, numbers) for _ in range(CONCURRENCY)))
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
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)  # noqa: T201 - as above
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(
        open_door()
        if sys.argv[1] == "door"
        else work("record" if sys.argv[1] == "one" else sys.argv[1])
    )
