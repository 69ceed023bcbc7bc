"""The common recipe: tasks, a semaphore and retries with backoff, in each process.

It is written with care. It obeys Retry-After and X-Ratelimit-Reset, and its backoff grows and has
jitter. A waiting call keeps its slot, so that a refused process slows down.
"""

import asyncio
import email.utils
import os
import random
import sys
import time
from collections.abc import Mapping

import aiohttp
from redis.asyncio import Redis

QUEUE, OUTPUT = "recipe:queue", "recipe:output"
READY_EVENT = "recipe_started"
_BACKOFF_BASE_S, _BACKOFF_CAP_S = 0.5, 30.0
_POLL_TIMEOUT_S = 1.0


async def main() -> None:
    """Fetch the deployments of the queue until the process ends."""
    environ = os.environ
    headers = {"Authorization": environ["RECIPE_TOKEN"], "LD-API-Version": "beta"}
    redis = Redis.from_url(environ["RECIPE_REDIS_URL"], decode_responses=True)
    concurrency = int(environ["RECIPE_CONCURRENCY"])
    async with redis, aiohttp.ClientSession(environ["RECIPE_URL"], headers=headers) as session:
        await redis.ping()
        sys.stderr.write(f'{{"event": "{READY_EVENT}"}}\n')
        sys.stderr.flush()
        semaphore = asyncio.Semaphore(concurrency)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await semaphore.acquire()
                popped = await redis.blpop([QUEUE], timeout=_POLL_TIMEOUT_S)
                if popped is None:
                    semaphore.release()
                    continue
                task = tasks.create_task(enrich(session, redis, str(popped[1])))
                task.add_done_callback(lambda _: semaphore.release())


async def enrich(session: aiohttp.ClientSession, redis: Redis, deployment: str) -> None:
    """Fetch one deployment and append it."""
    path = f"/api/v2/engineering-insights/deployments/{deployment}"
    attempt = 0
    while True:
        async with session.get(f"{path}?expand=pullRequests,flagReferences") as response:
            body = await response.read()
            if response.ok:
                break
            wait_s = compute_wait_s(response.headers, attempt)
        attempt += 1
        await asyncio.sleep(wait_s)
    await redis.xadd(OUTPUT, {"data": body})


def compute_wait_s(headers: Mapping[str, str], attempt: int) -> float:
    """Return the time that the headers ask for, plus a backoff with jitter."""
    backoff_s = random.uniform(0, min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2**attempt))
    return max(parse_retry_after_s(headers), parse_reset_s(headers), 0.0) + backoff_s


def parse_retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds of Retry-After, from a number or from an HTTP date."""
    value = headers.get("Retry-After", "0")
    if value.isdigit():
        return float(value)
    return email.utils.parsedate_to_datetime(value).timestamp() - time.time()


def parse_reset_s(headers: Mapping[str, str]) -> float:
    """Return the seconds until the end of the window. The header is in epoch milliseconds."""
    value = headers.get("X-Ratelimit-Reset", "")
    return int(value) / 1000 - time.time() if value.isdigit() else 0.0


if __name__ == "__main__":
    asyncio.run(main())
