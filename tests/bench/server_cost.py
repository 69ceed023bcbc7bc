"""What one record or webhook costs Redis: script calls and CPU, as the server counts them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct
from redis.asyncio import Redis

from tests.bench.spread import format_table, measure_spread


class ServerCost(Struct, frozen=True):
    """The cost of one item to Redis: script calls, and CPU of its main thread (µs)."""

    script_calls: float
    server_us: float


class ServerCosts:
    """The costs to Redis of each contestant, one sample per round."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._samples: dict[str, list[ServerCost]] = {}

    @asynccontextmanager
    async def measure(self, name: str, *, items: int) -> AsyncIterator[None]:
        """Measure what Redis does during the block, for so many items."""
        before = await self._read()
        yield
        after = await self._read()
        cost = ServerCost((after[0] - before[0]) / items, (after[1] - before[1]) / items)
        self._samples.setdefault(name, []).append(cost)

    def take(self) -> Mapping[str, Sequence[ServerCost]]:
        """Return the samples since the last call."""
        samples, self._samples = self._samples, {}
        return samples

    async def _read(self) -> tuple[int, float]:
        """Return the script calls so far, and the CPU time of the main thread in microseconds."""
        info = await self._redis.info("everything")
        calls = info.get("cmdstat_evalsha", {"calls": 0})["calls"]
        main_thread = (f"used_cpu_{kind}_main_thread" for kind in ("user", "sys"))
        return int(calls), sum(float(info[name]) for name in main_thread) * 1e6


def format_server_costs(samples: Mapping[str, Sequence[ServerCost]]) -> str:
    """Return the costs to Redis as a table."""
    rows = [
        [
            name,
            measure_spread([cost.script_calls for cost in costs]).format(),
            measure_spread([cost.server_us for cost in costs]).format(1),
        ]
        for name, costs in samples.items()
    ]
    return format_table(["", "script calls each", "CPU µs of Redis each"], rows)
