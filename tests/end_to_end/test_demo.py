"""Tests of the demo on a shared Redis: it starts clean and deletes only its own keys."""

import os
from collections.abc import AsyncIterator

import pytest
import structlog
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.sources import Source
from service.cli.demo import build_simulator_options, run_demo
from service.cli.preconditions import read_sources
from service.settings import Secret, Settings
from service.simulate.pipeline import SendRate
from service.store.keys import Keys
from tests.deploy.permissions import list_keys

STALE_VALUE = b"left by an earlier demo"


@pytest.fixture
async def demo_keys(redis: Redis, keys: Keys) -> AsyncIterator[Keys]:
    """Return the keys of a demo namespace, and delete them afterwards."""
    yield (demo_keys := Keys(f"{keys.namespace}-demo"))
    await redis.delete(*await all_keys(redis, demo_keys))


async def all_keys(redis: Redis, keys: Keys) -> list[bytes]:
    """Return every key of a namespace."""
    return [key async for key in redis.scan_iter(match=f"{{{keys.namespace}}}:*", count=1000)]


async def run_short_demo(redis_url: str, keys: Keys) -> None:
    """Run a short demo with a fixed seed."""
    settings = Settings(redis_url=Secret(redis_url), namespace=keys.namespace, port=0)

    def make_sources(secret: str) -> dict[str, Source]:
        return read_sources(replace(settings, webhook_secret=Secret(secret)), os.environ)

    await run_demo(
        settings,
        build_simulator_options(seed=1, calls_per_window=500),
        rate=SendRate(per_second=50, max_events=2),
        log=structlog.get_logger(),
        build_sources=make_sources,
    )


async def test_second_demo_deletes_only_the_keys_of_the_first(
    redis: Redis,
    redis_url: str,
    keys: Keys,
    demo_keys: Keys,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No key of the first demo stays, and no other key is deleted. It names all addresses."""
    kinds = [name.replace("*", "earlier") for name in list_keys(demo_keys.namespace)]
    await redis.mset(dict.fromkeys(kinds, STALE_VALUE))
    await redis.set(keys.write_probe, STALE_VALUE, px=60_000)
    assert demo_keys.reader_groups in kinds
    assert demo_keys.published("earlier") in kinds
    await run_short_demo(redis_url, keys)
    printed = capsys.readouterr().out
    for name in ("webhooks     ", "console      ", "four measures", "LaunchDarkly "):
        assert f"\n{name} http://127.0.0.1:" in printed
    strings = [
        key for key in await all_keys(redis, demo_keys) if await redis.type(key) == b"string"
    ]
    assert STALE_VALUE not in [await redis.get(key) for key in strings]
    assert await redis.get(keys.write_probe) == STALE_VALUE
    assert await redis.xlen(demo_keys.enriched) >= 2
