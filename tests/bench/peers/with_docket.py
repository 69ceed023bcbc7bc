"""The task on docket: `python -m tests.bench.peers.with_docket work | fill FIRST COUNT`."""

import asyncio
import logging
import sys
from datetime import timedelta

import uvloop
from docket import Docket, Worker

from tests.bench.peer_task import CONCURRENCY, REDIS_URL, PeerTask

tasks: list[PeerTask] = []


async def enrich(number: int) -> None:
    """Process one deployment."""
    await tasks[0].process(number)


def open_docket() -> Docket:
    """Open the queue; results are not kept."""
    return Docket(name="bench", url=REDIS_URL, execution_ttl=timedelta(0))


async def work() -> None:
    """Work until the process is killed."""
    tasks.append(PeerTask())
    async with open_docket() as docket:
        docket.register(enrich)
        async with Worker(docket, concurrency=CONCURRENCY) as worker:
            print("ready", flush=True)
            await worker.run_forever()


async def fill(numbers: range) -> None:
    """Enqueue the deployments."""
    async with open_docket() as docket:
        docket.register(enrich)
        await docket.add_many(docket.call(enrich)(number) for number in numbers)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    if sys.argv[1] == "work":
        uvloop.run(work())
    else:
        first, count = map(int, sys.argv[2:])
        asyncio.run(fill(range(first, first + count)))
        print("filled", flush=True)
