"""The task on taskiq, which has its own worker command; `... fill FIRST COUNT` fills."""

import asyncio
import sys

from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from tests.bench.peer_task import REDIS_URL, PeerTask

CHUNK = 1000
MAX_CONNECTIONS = 50

# "0" reads from the first entry. By default a worker misses what was enqueued before it started.
broker = RedisStreamBroker(REDIS_URL, consumer_id="0", max_connection_pool_size=MAX_CONNECTIONS)
tasks: list[PeerTask] = []


async def open_task(_: TaskiqState) -> None:
    """Open the clients of the task."""
    tasks.append(PeerTask())
    print("ready", flush=True)


async def _enrich(number: int) -> None:
    await tasks[0].process(number)


broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, open_task)
enrich = broker.register_task(_enrich, "enrich")


async def fill(numbers: range) -> None:
    """Enqueue the deployments."""
    await broker.startup()
    for start in range(numbers.start, numbers.stop, CHUNK):
        chunk = range(start, min(start + CHUNK, numbers.stop))
        await asyncio.gather(*(enrich.kiq(number) for number in chunk))
    await broker.shutdown()


if __name__ == "__main__":
    first, count = map(int, sys.argv[2:])
    asyncio.run(fill(range(first, first + count)))
    print("filled", flush=True)
