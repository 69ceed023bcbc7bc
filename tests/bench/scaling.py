"""The throughput of one worker and of two, and the load of the machine meanwhile."""

import time
from pathlib import Path

from msgspec import Struct

from service.store.keys import Keys
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import add_tickets, service_environ
from tests.bench.paths import SERVICE_PYTHON

WARM_UP = 400


class Throughput(Struct, frozen=True):
    """The records per second, and the share of all cores in use by any process."""

    per_s: float
    busy_share: float


async def measure_throughput(env: BenchEnvironment, *, workers: int, items: int) -> Throughput:
    """Let the workers drain a backlog that was filled while they were paused."""
    await env.clear()
    environ = service_environ(env)
    command = ("-m", "service", "work")
    processes = [
        env.start(SERVICE_PYTHON, command, name=f"worker-{n}", environ=environ)
        for n in range(workers)
    ]
    stream = Keys("deployments").enriched
    try:
        for process in processes:
            await process.wait_for_log("worker_started")
        await add_tickets(env, range(WARM_UP), project="default", with_id=True)
        await env.wait_for_count(stream, WARM_UP, watch=processes[0])
        for process in processes:
            process.pause()
        numbers = range(WARM_UP, WARM_UP + items)
        await add_tickets(env, numbers, project="default", with_id=True)
        ticks_before, started_s = _read_cpu_ticks(), time.perf_counter()
        for process in processes:
            process.resume()
        await env.wait_for_count(stream, WARM_UP + items, watch=processes[0])
        took_s, ticks_after = time.perf_counter() - started_s, _read_cpu_ticks()
    finally:
        for process in processes:
            env.stop(process)
    idle, total = (ticks_after[index] - ticks_before[index] for index in (0, 1))
    return Throughput(items / took_s, 1 - idle / total)


def _read_cpu_ticks() -> tuple[int, int]:
    """Return the idle ticks of all cores, and all ticks."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
