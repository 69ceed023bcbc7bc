"""The task on Celery, without asyncio: blocking urllib3 and redis-py.

Celery has its own worker command. `python -m tests.bench.peers.with_celery fill FIRST COUNT` fills.
"""

import sys
from functools import cache

import redis
import urllib3
from celery import Celery
from celery.signals import worker_ready

from tests.bench.peer_task import CONCURRENCY, REDIS_URL, STREAM, build_entry_fields, deployment_url

app = Celery("bench", broker=REDIS_URL.replace("unix://", "redis+socket://"))
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)


@cache
def open_clients() -> tuple[urllib3.PoolManager, redis.Redis]:
    """Open the clients of the task, once in each process."""
    headers = {"Authorization": "api-token", "LD-API-Version": "beta", "User-Agent": "bench"}
    http = urllib3.PoolManager(maxsize=CONCURRENCY, block=True, headers=headers)
    return http, redis.Redis.from_url(REDIS_URL)


def _enrich(number: int) -> None:
    http, client = open_clients()
    response = http.request("GET", deployment_url(number))
    if response.status != 200:
        raise OSError(response.status)
    client.xadd(STREAM, build_entry_fields(response.data))  # type: ignore[arg-type] # the dict type is invariant


enrich = app.task(name="enrich")(_enrich)


def print_ready(**_: object) -> None:
    """Print that the worker is ready."""
    print("ready", flush=True)


worker_ready.connect(print_ready)


if __name__ == "__main__":
    first, count = map(int, sys.argv[2:])
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(first, first + count):
            enrich.apply_async((number,), producer=producer)
    print("filled", flush=True)
