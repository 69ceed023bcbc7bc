"""The task on arq: `python -m tests.bench.peers.with_arq work | fill FIRST COUNT`."""

import asyncio
import sys
from typing import Any

import uvloop
from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

from tests.bench.peer_task import CONCURRENCY, REDIS_URL, PeerTask

POLL_S = 0.02  # the default of 0.5 s between polls takes ten times as long
CHUNK = 1000


async def enrich(ctx: dict[str, Any], number: int) -> None:
    """Process one deployment."""
    await ctx["task"].process(number)


async def open_task(ctx: dict[str, Any]) -> None:
    """Open the clients of the task."""
    ctx["task"] = PeerTask()
    print("ready", flush=True)


def work() -> None:
    """Work until the process is killed."""
    asyncio.set_event_loop(uvloop.new_event_loop())
    Worker(
        functions=[func(enrich, name="enrich", keep_result=0)],
        redis_settings=RedisSettings.from_dsn(REDIS_URL),
        max_jobs=CONCURRENCY,
        poll_delay=POLL_S,
        keep_result=0,
        on_startup=open_task,
        health_check_interval=3600,
    ).run()


async def fill(numbers: range) -> None:
    """Enqueue the deployments."""
    pool = await create_pool(RedisSettings.from_dsn(REDIS_URL))
    for start in range(numbers.start, numbers.stop, CHUNK):
        chunk = range(start, min(start + CHUNK, numbers.stop))
        await asyncio.gather(*(pool.enqueue_job("enrich", number) for number in chunk))
    await pool.aclose()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work()
    else:
        first, count = map(int, sys.argv[2:])
        asyncio.run(fill(range(first, first + count)))
        print("filled", flush=True)
