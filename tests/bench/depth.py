"""What does a full backlog cost? Of a claim and its settling, and of a ticket that waits."""

import asyncio
import time
from collections.abc import Iterable

from msgspec import Struct

from service.backlog.ticket import Lease
from service.enrich.budget import Budget
from service.enrich.ratelimit import Hints, Window
from service.house import House, open_house
from service.log import open_log
from service.publish.stream import OutputStream, Retention
from service.publish.writing import Entry
from service.settings import Secret, Settings
from tests.bench.contestants import keep_event, make_event
from tests.bench.stand import Stand

BATCH = 32
BATCHES = 20
_CHUNK = 512
_PLENTY = 10_000_000
_DAY_MS = 86_400_000


class Sample(Struct, frozen=True):
    """What one ticket cost, in microseconds: of the server's time, and of the clock on the wall."""

    server_us: float
    wall_us: float


class Memory(Struct, frozen=True):
    """What one ticket takes in Redis, in bytes: by itself, and with all that its webhook left."""

    ticket: float
    everything: float


class Depth:
    """A backlog of one namespace, and the hands to work on it."""

    def __init__(self, stand: Stand, house: House) -> None:
        self._stand = stand
        self._house = house
        self._output = OutputStream(
            house.group, keys=house.keys, retention=Retention(marks_ms=_DAY_MS, entries_ms=_DAY_MS)
        )
        self._budget = Budget(house.group, keys=house.keys, share=1.0, chance=lambda: 0.5)
        self._next = 0
        self._empty = 0

    async def open(self) -> None:
        """Remember what the server holds before anything is added."""
        self._empty = await self._read_used()

    async def fill(self, count: int) -> None:
        """Add so many tickets more, as the door does."""
        for start in range(self._next, self._next + count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, self._next + count))
            events = [make_event(number, "default", with_id=True) for number in chunk]
            await asyncio.gather(*(keep_event(self._house, event) for event in events))
        self._next += count

    async def sample(self) -> Sample:
        """Claim and settle some, measured, and put as many back, not measured."""
        await self._open_window()
        before, begun = await self._read_server_us(), time.perf_counter()
        for _ in range(BATCHES):
            claimed = await self._house.backlog.claim(BATCH)
            leases = [lease for lease in claimed.leases if isinstance(lease, Lease)]
            if len(leases) != BATCH:
                raise RuntimeError(f"claimed {len(leases)} of {BATCH}")
            settled = [self._output.append_and_settle(_entry_of(each), each) for each in leases]
            if {each.fate for each in await asyncio.gather(*settled)} != {"published"}:
                raise RuntimeError("a ticket was not settled")
        wall = time.perf_counter() - begun
        spent = await self._read_server_us() - before
        count = BATCH * BATCHES
        await self.fill(count)
        return Sample(spent / count, wall * 1e6 / count)

    async def weigh(self) -> Memory:
        """Give the bytes of one ticket that waits."""
        redis, keys = self._stand.redis, self._house.keys
        count = await redis.zcard(keys.backlog)
        own = [await redis.memory_usage(key, samples=0) for key in (keys.backlog, keys.tickets)]
        used = await self._read_used() - self._empty
        return Memory(sum(size or 0 for size in own) / count, used / count)

    async def _read_used(self) -> int:
        return int((await self._stand.redis.info("memory"))["used_memory"])

    async def _open_window(self) -> None:
        """Let the budget know of plenty: calls are not what is measured here."""
        reset = int(time.time() * 1000) + 60_000
        window = Window(family="global", limit=_PLENTY, left=_PLENTY, reset_ms=reset)
        await self._budget.learn("none", "fine", Hints(windows=(window,)))

    async def _read_server_us(self) -> int:
        stats = await self._stand.redis.info("commandstats")
        return int(stats["cmdstat_evalsha"]["usec"])


def _entry_of(lease: Lease) -> Entry:
    """Write a small entry: what is in a record costs the same at any depth."""
    wanted = lease.ticket.deployment_id or ""
    data = b'"deployment":{}}'
    return Entry(wanted, "digest", ("type", "deployment.enriched.v1"), data, complete=True)


async def measure_depths(
    stand: Stand, depths: tuple[int, int], turns: Iterable[int]
) -> tuple[list[list[Sample]], list[Memory]]:
    """Fill two namespaces on one server and work on both in turn."""
    await stand.clear()
    samples: list[list[Sample]] = [[], []]
    memories: list[Memory] = []
    settings = [
        Settings(redis_url=Secret(stand.redis_url), namespace=f"deep{depth}", backlog_limit=_PLENTY)
        for depth in depths
    ]
    log = open_log(level="error")
    async with open_house(settings[0], log) as one, open_house(settings[1], log) as other:
        sides = [Depth(stand, one), Depth(stand, other)]
        for side, depth in zip(sides, depths, strict=True):
            await side.open()
            await side.fill(depth)
            memories.append(await side.weigh())
        for _ in turns:
            for side, taken in zip(sides, samples, strict=True):
                taken.append(await side.sample())
    await stand.clear()
    return samples, memories
