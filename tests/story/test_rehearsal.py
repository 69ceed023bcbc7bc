"""Does a demo start with a clean table, on a Redis that others use too?"""

import os
from collections.abc import AsyncIterator

import pytest
import structlog
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.sources import Source
from service.configured import read_sources
from service.operate.pipeline import Pace
from service.rehearsal import rehearse, set_up_upstream
from service.settings import Secret, Settings
from service.store.keys import Keys
from tests.deploy.permissions import list_keys

LEFT = b"left by an earlier demo"


@pytest.fixture
async def table(redis: Redis, keys: Keys) -> AsyncIterator[Keys]:
    """Give the namespace of a demo, which may hold whatever it likes."""
    yield (laid := Keys(f"{keys.namespace}-demo"))
    await redis.delete(*await list_left(redis, laid))


async def list_left(redis: Redis, keys: Keys) -> list[bytes]:
    """List every key of a namespace."""
    return [key async for key in redis.scan_iter(match=f"{{{keys.namespace}}}:*", count=1000)]


async def play(redis_url: str, keys: Keys) -> None:
    """Play a short demo, the same each time."""
    settings = Settings(redis_url=Secret(redis_url), namespace=keys.namespace, port=0)

    def make_sources(secret: str) -> dict[str, Source]:
        return read_sources(replace(settings, webhook_secret=Secret(secret)), os.environ)

    await rehearse(
        settings,
        set_up_upstream(seed=1, calls_per_window=500),
        pace=Pace(per_second=50, events=2),
        log=structlog.get_logger(),
        make_sources=make_sources,
    )


@pytest.mark.usefixtures("capsys")
async def test_a_second_demo_starts_clean(
    redis: Redis, redis_url: str, keys: Keys, table: Keys
) -> None:
    """Of all kinds of keys that there are none stays; nobody else's is touched."""
    kinds = [name.replace("*", "earlier") for name in list_keys(table.namespace)]
    await redis.mset(dict.fromkeys(kinds, LEFT))
    await redis.set(keys.probe, LEFT, px=60_000)
    assert table.readers in kinds
    assert table.published("earlier") in kinds
    await play(redis_url, keys)
    strings = [key for key in await list_left(redis, table) if await redis.type(key) == b"string"]
    assert LEFT not in [await redis.get(key) for key in strings]
    assert await redis.get(keys.probe) == LEFT
    assert await redis.xlen(table.enriched) >= 2
