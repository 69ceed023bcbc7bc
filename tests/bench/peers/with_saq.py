"""How is the one job done on SAQ? `python -m tests.bench.peers.with_saq work | fill ...`."""

import asyncio
import sys
from typing import Any

import uvloop
from saq import Worker
from saq.queue.redis import RedisQueue

from tests.bench.peer_task import CONCURRENCY, REDIS_URL, PeerTask

CHUNK = 1000
NO_RESULT = -1


async def enrich(ctx: dict[str, Any], *, number: int) -> None:
    """Do the job of one deployment."""
    await ctx["bench"].do(number)


async def open_job(ctx: dict[str, Any]) -> None:
    """Open what the job needs."""
    ctx["bench"] = PeerTask()
    print("ready", flush=True)


async def work() -> None:
    """Work until ended."""
    queue = RedisQueue.from_url(REDIS_URL)
    await queue.connect()
    worker = Worker(
        queue,
        functions=[("enrich", enrich)],
        concurrency=CONCURRENCY,
        startup=open_job,
        dequeue_timeout=4,
    )
    await worker.start()


async def fill(numbers: range) -> None:
    """Enqueue so many."""
    queue = RedisQueue.from_url(REDIS_URL)
    await queue.connect()
    for start in range(numbers.start, numbers.stop, CHUNK):
        chunk = range(start, min(start + CHUNK, numbers.stop))
        jobs = (queue.enqueue("enrich", number=n, ttl=NO_RESULT, retries=3) for n in chunk)
        await asyncio.gather(*jobs)
    await queue.disconnect()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        uvloop.run(work())
    else:
        first, count = map(int, sys.argv[2:])
        asyncio.run(fill(range(first, first + count)))
        print("filled", flush=True)
