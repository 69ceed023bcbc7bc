"""How is the one job done on Celery? Without asyncio: urllib3 and redis-py as they block.

The worker is its own command; `python -m tests.bench.peers.with_celery fill FIRST COUNT` here.
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
    """Open what the job needs, once in each process."""
    headers = {"Authorization": "api-token", "LD-API-Version": "beta", "User-Agent": "bench"}
    http = urllib3.PoolManager(maxsize=CONCURRENCY, block=True, headers=headers)
    return http, redis.Redis.from_url(REDIS_URL)


def _enrich(number: int) -> None:
    http, client = open_clients()
    answer = http.request("GET", deployment_url(number))
    if answer.status != 200:
        raise OSError(answer.status)
    client.xadd(STREAM, build_entry_fields(answer.data))  # type: ignore[arg-type] # invariant


enrich = app.task(name="enrich")(_enrich)


def tell_ready(**_: object) -> None:
    """Say that it works."""
    print("ready", flush=True)


worker_ready.connect(tell_ready)


if __name__ == "__main__":
    first, count = map(int, sys.argv[2:])
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(first, first + count):
            enrich.apply_async((number,), producer=producer)
    print("filled", flush=True)
