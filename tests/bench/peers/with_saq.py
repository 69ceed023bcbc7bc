"""The task on SAQ: `python -m tests.bench.peers.with_saq work | fill FIRST COUNT`."""

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
    """Process one deployment."""
    await ctx["task"].process(number)


async def open_task(ctx: dict[str, Any]) -> None:
    """Open the clients of the task."""
    ctx["task"] = PeerTask()
    print("ready", flush=True)


async def work() -> None:
    """Work until the process is killed."""
    queue = RedisQueue.from_url(REDIS_URL)
    await queue.connect()
    worker = Worker(
        queue,
        functions=[("enrich", enrich)],
        concurrency=CONCURRENCY,
        startup=open_task,
        dequeue_timeout=4,
    )
    await worker.start()


async def fill(numbers: range) -> None:
    """Enqueue the deployments."""
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
