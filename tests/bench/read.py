"""The benchmark of reading: the client compared with a bare loop. `python3 run.py bench read`.

The bare loop is XREADGROUP by redis-py with the same batch size, json.loads of each record, and one
XACK a batch. Both read the same stream in separate groups, alternately, in one process.
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

from service.client.stream import EnrichedStream
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.bench.spread import check_goal, compare_rounds, format_table, measure_spread
from tests.bench.summary import Report, compare_with
from tests.publish.sample_records import entry_fields

STREAM = Keys("deployments").enriched
_BATCH = 100
_GOAL = 0.4
_SAMPLE_FILE = Path(__file__).resolve().parents[1] / "samples" / "deployment_as_documented.json"


class ReadCost(Struct, frozen=True):
    """The cost of a round: CPU time and elapsed time in seconds."""

    cpu_s: float
    wall_s: float


async def read_with_redis_py(url: str, group: str, count: int) -> None:
    """Read with redis-py, as a simple consumer does."""
    async with Redis.from_url(url) as redis:
        await redis.xgroup_create(STREAM, group, id="0")
        seen = 0
        while seen < count:
            reply: Any = await redis.xreadgroup(group, "reader", {STREAM: ">"}, count=_BATCH)
            entries = [entry for batch in _entry_batches(reply) for entry in batch]
            for _, fields in entries:
                json.loads(fields[b"data"])
                seen += 1
            await redis.xack(STREAM, group, *(position for position, _ in entries))


def _entry_batches(reply: Any) -> list[Any]:
    """Return the entries by stream, from a RESP2 or RESP3 reply."""
    streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply]
    return [
        entries[0] if entries and isinstance(entries[0][0], list | tuple) else entries
        for entries in streams
    ]


async def read_with_client(url: str, group: str, count: int) -> None:
    """Read with the client and its defaults."""
    async with EnrichedStream(url, group=group) as stream:
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == count:
                await stream.acknowledge()
                break


async def read_and_decode_deployments(url: str, group: str, count: int) -> None:
    """Read with the client, and decode the deployment of each record too."""
    async with EnrichedStream(url, group=group) as stream:
        seen = 0
        async for record in stream:
            assert record.deployment.id
            seen += 1
            if seen == count:
                await stream.acknowledge()
                break


async def measure_round(read_stream: Callable[[], Awaitable[None]]) -> ReadCost:
    """Measure one round."""
    cpu_before_s, wall_before_s = time.process_time(), time.perf_counter()
    await read_stream()
    return ReadCost(time.process_time() - cpu_before_s, time.perf_counter() - wall_before_s)


async def append_records(url: str, count: int) -> int:
    """Append records to the stream; return the bytes of the data of one."""
    deployment = json.loads(_SAMPLE_FILE.read_text())
    async with open_client(url) as redis:
        for first in range(0, count, _BATCH):
            pipeline = redis.pipeline(transaction=False)
            for number in range(first, min(count, first + _BATCH)):
                fields: dict[Any, Any] = {**entry_fields(number, **deployment)}
                pipeline.xadd(STREAM, fields | {"id": f"{number}:1"})
            await pipeline.execute()
    return len(entry_fields(0, **deployment)["data"])


_CLIENT, _BASELINE = "client", "XREADGROUP, json.loads"
_READERS = {
    _CLIENT: read_with_client,
    "client, deployment decoded": read_and_decode_deployments,
    _BASELINE: read_with_redis_py,
}


async def compare_readers(url: str, rounds: int, count: int) -> Report:
    """Let all readers read alternately; report the costs."""
    size = await append_records(url, count)
    costs: dict[str, list[ReadCost]] = {name: [] for name in _READERS}
    for round_number in range(rounds):
        readers = [*_READERS.items()]
        for name, read in readers if round_number % 2 else reversed(readers):
            read_stream = partial(read, url, f"{read.__name__}-{round_number}", count)
            costs[name].append(await measure_round(read_stream))
    samples = {name: [cost.cpu_s for cost in round_costs] for name, round_costs in costs.items()}
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    title = (
        f"## Reading {count:,} records of {size:,} bytes, {rounds} alternating rounds ({load})\n\n"
    )
    return Report(
        title + _format_costs(costs, count),
        compare_with(samples, _BASELINE, what="reading a record", beside=_BASELINE, goal=_GOAL),
    )


def _format_costs(costs: dict[str, list[ReadCost]], count: int) -> str:
    baseline = costs[_BASELINE]
    rows = []
    for name, round_costs in costs.items():
        us_per_record = measure_spread([cost.cpu_s / count * 1e6 for cost in round_costs]).format(1)
        per_s = measure_spread([count / cost.wall_s for cost in round_costs]).format(0)
        ratio = compare_rounds(
            [cost.cpu_s for cost in round_costs], [cost.cpu_s for cost in baseline]
        )
        goal_cells = (
            ["", "", ""]
            if name != _CLIENT
            else [ratio.format(), f"<= {_GOAL}", check_goal(ratio, _GOAL)]
        )
        rows.append([name, us_per_record, per_s, *goal_cells])
    header = [
        "",
        "CPU µs per record: median (quartiles)",
        "records per second",
        "CPU / bare loop",
    ]
    return format_table([*header, "goal", ""], rows)


def main() -> None:
    """Parse the arguments and run the benchmark."""
    parser = argparse.ArgumentParser(prog="run.py bench read", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each reader")
    parser.add_argument("--items", type=int, default=5000, help="records per round")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        EmbeddedServer(Path(folder), appendfsync="no") as server,
    ):
        print(asyncio.run(compare_readers(server.url, options.rounds, options.items)).text)


if __name__ == "__main__":
    main()
