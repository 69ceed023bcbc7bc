"""Do two workers do twice as much as one, and how busy was the machine meanwhile?"""

import time
from pathlib import Path

from msgspec import Struct

from service.store.keys import Keys
from tests.bench.contestants import add_tickets, configure_ours
from tests.bench.places import OURS
from tests.bench.stand import Stand

WARM_UP = 400


class Pace(Struct, frozen=True):
    """Records a second, and the share of all cores that was in use by anybody."""

    per_s: float
    busy: float


async def measure_pace(stand: Stand, *, workers: int, items: int) -> Pace:
    """Let so many workers empty a backlog that was filled while they were paused."""
    await stand.clear()
    environ = configure_ours(stand)
    words = ("-m", "service", "work")
    running = [
        stand.start(OURS, words, name=f"worker-{n}", environ=environ) for n in range(workers)
    ]
    stream = Keys("deployments").enriched
    try:
        for worker in running:
            await worker.wait_for("worker_started")
        await add_tickets(stand, range(WARM_UP), project="default", with_id=True)
        await stand.wait_until(stream, WARM_UP, watch=running[0])
        for worker in running:
            worker.pause()
        numbers = range(WARM_UP, WARM_UP + items)
        await add_tickets(stand, numbers, project="default", with_id=True)
        before, begun = _read_ticks(), time.perf_counter()
        for worker in running:
            worker.resume()
        await stand.wait_until(stream, WARM_UP + items, watch=running[0])
        took_s, after = time.perf_counter() - begun, _read_ticks()
    finally:
        for worker in running:
            stand.end(worker)
    idle, total = (after[part] - before[part] for part in (0, 1))
    return Pace(items / took_s, 1 - idle / total)


def _read_ticks() -> tuple[int, int]:
    """Read how long all cores were idle, and how long it was in all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
