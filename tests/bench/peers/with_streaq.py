"""How is the one job done on streaq? `python -m tests.bench.peers.with_streaq work | fill ...`."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streaq import Worker

from tests.bench.peer_task import CONCURRENCY, REDIS_URL, PeerTask

CHUNK = 1000
jobs: list[PeerTask] = []


@asynccontextmanager
async def open_job() -> AsyncIterator[None]:
    """Open what the job needs."""
    jobs.append(PeerTask())
    print("ready", flush=True)
    yield None


worker = Worker(
    redis_url=REDIS_URL,
    concurrency=CONCURRENCY,
    prefetch=1000,  # at its default of twice the concurrency it reads a few at a time
    lifespan=open_job,
    anyio_kwargs={"use_uvloop": True},
)


async def _enrich(number: int) -> None:
    await jobs[0].process(number)


enrich = worker.task(ttl=0, silent=True, name="enrich")(_enrich)


async def fill(numbers: range) -> None:
    """Enqueue so many."""
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
