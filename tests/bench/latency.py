"""How long from webhook to record while nothing else happens, beside a script that just does it?"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.keys import Keys
from tests.bench.contestants import configure_ours
from tests.bench.job import STREAM
from tests.bench.places import OURS
from tests.bench.shots import read_head, write_request
from tests.bench.stand import Stand

SHOTS = 100
WARM_UP = 50
_PAUSE_S = 0.01  # so that each finds the system idle
_BLOCK_MS = 5000

Pull = Callable[[int], Awaitable[None]]


class Watch:
    """Waits for the next entry of a stream on a connection of its own."""

    def __init__(self, client: Redis, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._last = "0"

    async def time_s(self, pull: Pull, number: int) -> float:
        """Give the seconds from pulling the trigger until the record is seen."""
        seen = asyncio.ensure_future(self._next())
        await asyncio.sleep(_PAUSE_S)
        begun = time.perf_counter()
        await pull(number)
        await seen
        return time.perf_counter() - begun

    async def _next(self) -> None:
        read: Any = await self._client.xread({self._stream: self._last}, block=_BLOCK_MS)
        if not read:
            raise TimeoutError("no record came")
        self._last = read[self._stream.encode()][-1][0].decode()


class Pair(Struct, frozen=True):
    """Both ways, each idle: post a webhook, or tell the script; and who watches for the record."""

    post: Pull
    tell: Pull
    ours: Watch
    theirs: Watch

    async def take_turns(self, numbers: range) -> list[tuple[float, float]]:
        """Give the ms of each shot, ours and the script's in turn."""
        return [
            (
                await self.ours.time_s(self.post, number) * 1000,
                await self.theirs.time_s(self.tell, number) * 1000,
            )
            for number in numbers
        ]


async def measure_latency(stand: Stand, turns: Iterable[int]) -> list[list[tuple[float, float]]]:
    """Give the ms of every shot (ours, the script's), round by round."""
    await stand.clear()
    async with open_pair(stand) as pair:
        await pair.take_turns(range(WARM_UP))
        starts = (WARM_UP + turn * SHOTS for turn in turns)
        return [await pair.take_turns(range(start, start + SHOTS)) for start in starts]


@asynccontextmanager
async def open_pair(stand: Stand) -> AsyncIterator[Pair]:
    """Start our door and our worker, and the script."""
    environ = configure_ours(stand)
    door = stand.start(OURS, ("-m", "service", "serve"), name="door", environ=environ)
    worker = stand.start(OURS, ("-m", "service", "work"), name="worker", environ=environ)
    script = stand.start(OURS, ("-m", "tests.bench.straight", "one"), name="script")
    clients = [open_client(stand.redis_url, reply_timeout_s=30) for _ in range(2)]
    try:
        url = (await door.wait_for("door_opened")).partition('"url":"')[2].partition('"')[0]
        await asyncio.gather(worker.wait_for("worker_started"), script.wait_for("ready"))
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)

        async def post(number: int) -> None:
            writer.write(write_request(f"{url}/webhooks/native", number))
            _, length = read_head(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(length)

        async def tell(number: int) -> None:
            script.say(f"{number} 1")

        ours = Watch(clients[0], Keys("deployments").enriched)
        yield Pair(post, tell, ours, Watch(clients[1], STREAM))
        writer.close()
    finally:
        for process in (door, worker, script):
            stand.end(process)
        for client in clients:
            await client.aclose()
