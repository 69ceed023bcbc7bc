"""What does one enriched record cost, beside a bare loop and beside the same job on a queue?"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct

from tests.bench.bodies import name_deployment, write_body
from tests.bench.contestants import Contestant, configure_ours
from tests.bench.job import GOT
from tests.bench.stand import Stand

WARM_UP = 300
_SETTLING_S = 0.4  # what is acknowledged after the work is charged too
_BATCH = 500


class Data(Struct):
    """What every contestant's entry holds."""

    deployment: msgspec.Raw


class Named(Struct):
    """Which deployment it is."""

    id: str


class WrongWork(Exception):
    """A contestant did not do the work that it was measured for."""


async def measure_record(stand: Stand, contestant: Contestant, *, items: int) -> float:
    """Give the CPU ms of one record: started afresh, warmed up, filled while paused, checked."""
    await stand.clear()
    process = stand.start(
        contestant.python,
        contestant.words,
        name=contestant.name.replace(" ", "-"),
        environ={**configure_ours(stand), **contestant.environ},
    )
    try:
        await process.wait_for(contestant.ready)
        await contestant.fill(stand, process, range(WARM_UP))
        await stand.wait_until(contestant.done, WARM_UP, watch=process)
        await asyncio.sleep(_SETTLING_S)
        process.pause()
        await contestant.fill(stand, process, range(WARM_UP, WARM_UP + items))
        before = process.read_cpu_s()
        process.resume()
        await stand.wait_until(contestant.done, WARM_UP + items, watch=process)
        await asyncio.sleep(_SETTLING_S)
        spent = process.read_cpu_s() - before
    finally:
        stand.end(process)
    await check_work(stand, contestant, WARM_UP + items)
    return spent / items * 1000


async def check_work(stand: Stand, contestant: Contestant, count: int) -> None:
    """Look whether each deployment is in the stream once, as it was told."""
    if contestant.done == GOT:
        return
    wanted = {name_deployment(number): number for number in range(count)}
    last, redis = b"-", cast("Any", stand.redis)
    while entries := await redis.xrange(contestant.done, min=last, count=_BATCH):
        for _, fields in entries:
            told = bytes(msgspec.json.decode(fields[b"data"], type=Data).deployment)
            name = msgspec.json.decode(told, type=Named).id
            if name not in wanted or not is_same(told, write_body(wanted.pop(name))):
                raise WrongWork(f"{contestant.name} appended {name} twice, or other than it was")
        last = b"(" + entries[-1][0]
    if wanted:
        raise WrongWork(f"{contestant.name} left {len(wanted)} records out")


def is_same(one: bytes, other: bytes) -> bool:
    """Tell whether two pieces of JSON say the same, however they are written."""
    return one == other or msgspec.json.decode(one) == msgspec.json.decode(other)


async def measure_rounds(
    stand: Stand, contestants: Sequence[Contestant], turns: Iterable[int], *, items: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Measure everybody in turn, again and again; gives samples by name, and who broke and how."""
    samples: dict[str, list[float]] = {each.name: [] for each in contestants}
    broken: dict[str, str] = {}
    for _ in turns:
        for each in contestants:
            if each.name not in broken:
                try:
                    spent = await measure_record(stand, each, items=items)
                    samples[each.name].append(spent)
                except Exception as error:  # noqa: BLE001 - one that breaks is told in the table
                    broken[each.name] = f"{type(error).__name__}: {error}"
    return samples, broken
