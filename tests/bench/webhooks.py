"""What does one accepted webhook cost, beside a handler that only reads, and the usual way?"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from service.store.keys import Keys
from tests.bench.contestants import configure_ours
from tests.bench.places import OURS
from tests.bench.records import WrongWork
from tests.bench.stand import Stand

WARM_UP = 500
CONNECTIONS = 32
_SETTLING_S = 0.2

Count = Callable[[Stand], Awaitable[int]]


class Door(Struct, frozen=True, kw_only=True):
    """One way to take webhooks; ``kept`` counts what it has kept, ``marks`` its delivery marks."""

    name: str
    words: tuple[str, ...]
    url: str = "ready "
    path: str = "/webhooks/native"
    kept: Count | None = None
    python: Path = OURS
    environ: Mapping[str, str] = {}


async def _count_tickets(stand: Stand) -> int:
    return int(await stand.redis.hlen(Keys("deployments").tickets))


def list_own_doors() -> tuple[Door, Door]:
    """Give the real door, and the handler that only reads the body."""
    return (
        Door(name="ours", words=("-m", "service", "serve"), url='"url":', kept=_count_tickets),
        Door(name="only reads", words=("-m", "tests.bench.straight", "door")),
    )


async def measure_door(stand: Stand, door: Door, *, items: int) -> float:
    """Give the CPU ms of one accepted webhook: started afresh, warmed up, then shot at."""
    await stand.clear()
    process = stand.start(
        door.python,
        door.words,
        name=door.name.replace(" ", "-"),
        environ={**configure_ours(stand), **door.environ},
    )
    try:
        line = await process.wait_for(door.url)
        url = line.partition(door.url)[2].strip().strip('"').split('"')[0].split()[0] + door.path
        await shoot(stand, url, range(WARM_UP))
        before = process.read_cpu_s()
        await shoot(stand, url, range(WARM_UP, WARM_UP + items))
        await asyncio.sleep(_SETTLING_S)
        spent = process.read_cpu_s() - before
    finally:
        stand.end(process)
    if door.kept is not None and await door.kept(stand) != WARM_UP + items:
        raise WrongWork(f"{door.name} kept {await door.kept(stand)} of {WARM_UP + items}")
    return spent / items * 1000


async def measure_doors(
    stand: Stand, doors: Sequence[Door], turns: Iterable[int], *, items: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Measure every door in turn, again and again; gives samples by name, and who broke and how."""
    samples: dict[str, list[float]] = {door.name: [] for door in doors}
    broken: dict[str, str] = {}
    for _ in turns:
        for door in doors:
            if door.name not in broken:
                try:
                    samples[door.name].append(await measure_door(stand, door, items=items))
                except Exception as error:  # noqa: BLE001 - one that breaks is told in the table
                    broken[door.name] = f"{type(error).__name__}: {error}"
    return samples, broken


async def shoot(stand: Stand, url: str, numbers: range) -> None:
    """Post so many webhooks from a process of its own, and see each accepted."""
    words = ("-m", "tests.bench.shots", url, *map(str, (numbers.start, len(numbers), CONNECTIONS)))
    shots = stand.start(OURS, words, name="shots")
    try:
        await shots.wait_for("all accepted")
    finally:
        stand.end(shots)
