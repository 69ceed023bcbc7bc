"""The task on streaq: `python -m tests.bench.peers.with_streaq work | fill FIRST COUNT`."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streaq import Worker

from tests.bench.peer_task import CONCURRENCY, REDIS_URL, PeerTask

CHUNK = 1000
tasks: list[PeerTask] = []


@asynccontextmanager
async def open_task() -> AsyncIterator[None]:
    """Open the clients of the task."""
    tasks.append(PeerTask())
    print("ready", flush=True)
    yield None


worker = Worker(
    redis_url=REDIS_URL,
    concurrency=CONCURRENCY,
    prefetch=1000,  # by default it reads only twice the concurrency at a time
    lifespan=open_task,
    anyio_kwargs={"use_uvloop": True},
)


async def _enrich(number: int) -> None:
    await tasks[0].process(number)


enrich = worker.task(ttl=0, silent=True, name="enrich")(_enrich)


async def fill(numbers: range) -> None:
    """Enqueue the deployments."""
    async with worker:
        for start in range(numbers.start, numbers.stop, CHUNK):
            chunk = range(start, min(start + CHUNK, numbers.stop))
            await worker.enqueue_many([enrich.enqueue(number) for number in chunk])


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    if sys.argv[1] == "work":
        worker.run_sync()
    else:
        first, count = map(int, sys.argv[2:])
        asyncio.run(fill(range(first, first + count)))
        print("filled", flush=True)
