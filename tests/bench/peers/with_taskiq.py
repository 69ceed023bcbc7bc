"""How is the one job done on taskiq? The worker is its own command; `... fill FIRST COUNT` here."""

import asyncio
import sys

from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from tests.bench.peer_task import REDIS_URL, PeerTask

CHUNK = 1000
SIDE_BY_SIDE = 50

# From the first entry on: by default a worker misses what was enqueued before it came.
broker = RedisStreamBroker(REDIS_URL, consumer_id="0", max_connection_pool_size=SIDE_BY_SIDE)
jobs: list[PeerTask] = []


async def open_job(_: TaskiqState) -> None:
    """Open what the job needs."""
    jobs.append(PeerTask())
    print("ready", flush=True)


async def _enrich(number: int) -> None:
    await jobs[0].process(number)


broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, open_job)
enrich = broker.register_task(_enrich, "enrich")


async def fill(numbers: range) -> None:
    """Enqueue so many."""
    await broker.startup()
    for start in range(numbers.start, numbers.stop, CHUNK):
        chunk = range(start, min(start + CHUNK, numbers.stop))
        await asyncio.gather(*(enrich.kiq(number) for number in chunk))
    await broker.shutdown()


if __name__ == "__main__":
    first, count = map(int, sys.argv[2:])
    asyncio.run(fill(range(first, first + count)))
    print("filled", flush=True)
