"""What does reading cost? The typed reader beside a bare loop: `python3 run.py bench read`.

The bare side is XREADGROUP by redis-py with the same batch, json.loads of each record, and one XACK
a batch. Both read the same stream, each in a group of its own, in turn, in one process.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis

from service.publish.reader import EnrichedStream
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.bench.figures import compare, judge, measure_spread, write_table
from tests.publish.shelf import write_fields

STREAM = Keys("deployments").enriched
_BATCH = 100
_GOAL = 0.8
_SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "deployment_as_documented.json"


class Cost(Struct, frozen=True):
    """What a round cost: CPU and clock, in seconds."""

    cpu: float
    wall: float


async def read_bare(url: str, group: str, count: int) -> None:
    """Read as one would write it down at once."""
    async with Redis.from_url(url) as redis:
        await redis.xgroup_create(STREAM, group, id="0")
        seen = 0
        while seen < count:
            reply: Any = await redis.xreadgroup(group, "one", {STREAM: ">"}, count=_BATCH)
            entries = [entry for batch in _list_batches(reply) for entry in batch]
            for _, fields in entries:
                json.loads(fields[b"data"])
                seen += 1
            await redis.xack(STREAM, group, *(position for position, _ in entries))


def _list_batches(reply: Any) -> list[Any]:
    """Give the entries by stream, as RESP2 or RESP3 has them."""
    streams = reply.values() if isinstance(reply, dict) else [told for _, told in reply]
    return [told[0] if told and isinstance(told[0][0], list | tuple) else told for told in streams]


async def read_typed(url: str, group: str, count: int) -> None:
    """Read by the reader, with its own habits."""
    async with EnrichedStream(url, group=group) as stream:
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == count:
                await stream.acknowledge()
                break


async def read_whole(url: str, group: str, count: int) -> None:
    """Read by the reader, and decode LaunchDarkly's own part of each record too."""
    async with EnrichedStream(url, group=group) as stream:
        seen = 0
        async for record in stream:
            assert record.deployment.id
            seen += 1
            if seen == count:
                await stream.acknowledge()
                break


async def measure(act: Callable[[], Awaitable[None]]) -> Cost:
    """Measure one round."""
    cpu, wall = time.process_time(), time.perf_counter()
    await act()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


async def fill(url: str, count: int) -> int:
    """Append so many records; gives the bytes of the data of one."""
    told = json.loads(_SAMPLE.read_text())
    async with open_client(url) as redis:
        for first in range(0, count, _BATCH):
            pipeline = redis.pipeline(transaction=False)
            for number in range(first, min(count, first + _BATCH)):
                fields: dict[Any, Any] = {**write_fields(number, **told)}
                pipeline.xadd(STREAM, fields | {"id": f"{number}:1"})
            await pipeline.execute()
    return len(write_fields(0, **told)["data"])


_SIDES = {
    "the typed reader": read_typed,
    "the same, and its deployment decoded": read_whole,
    "XREADGROUP, json.loads": read_bare,
}


async def compare_readers(url: str, rounds: int, count: int) -> str:
    """Let both read in turn; gives the table."""
    size = await fill(url, count)
    costs: dict[str, list[Cost]] = {name: [] for name in _SIDES}
    for turn in range(rounds):
        sides = [*_SIDES.items()]
        for name, read in sides if turn % 2 else reversed(sides):
            act = partial(read, url, f"{read.__name__}-{turn}", count)
            costs[name].append(await measure(act))
    *_, bare = costs.values()
    rows = []
    for name, spent in costs.items():
        each_us = measure_spread([cost.cpu / count * 1e6 for cost in spent]).write(1)
        per_s = measure_spread([count / cost.wall for cost in spent]).write(0)
        ratio = compare([each.cpu for each in spent], [each.cpu for each in bare])
        told = (
            ["", "", ""] if spent is bare else [ratio.write(), f"<= {_GOAL}", judge(ratio, _GOAL)]
        )
        rows.append([name, each_us, per_s, *told])
    heads = [
        "",
        "CPU µs a record: median (quartiles)",
        "records a second",
        "CPU beside the bare loop",
    ]
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    title = f"## Reading {count:,} records of {size:,} bytes, {rounds} rounds in turn ({load})\n\n"
    return title + write_table([*heads, "goal", ""], rows)


def main() -> None:
    """Read what was typed, and measure."""
    parser = argparse.ArgumentParser(prog="run.py bench read", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="pairs")
    parser.add_argument("--items", type=int, default=5000, help="records in a round")
    typed = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        EmbeddedServer(Path(folder), appendfsync="no") as server,
    ):
        print(asyncio.run(compare_readers(server.url, typed.rounds, typed.items)))


if __name__ == "__main__":
    main()
