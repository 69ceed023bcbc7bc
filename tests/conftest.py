"""What does every test stand on? A real server of its own, a clean namespace, no leaks."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import hypothesis
import pytest
import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from service.backlog.backlog import Backlog, Terms
from service.enrich.budget import Budget, load_room
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group import GroupCommit
from service.store.keys import Keys

_NAMESPACES = itertools.count()

# Timings are never asserted: a busy machine is no failure.
hypothesis.settings.register_profile(
    "ours", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ours")

# Keys that may stay for ever: the output, what waits for a person, and how many there are.
_LASTING = (":enriched", ":failed", ":failed:data", ":counts", ":milestones")


@pytest.fixture(scope="session", autouse=True)
def connections() -> Iterator[WeakSet[AbstractConnection]]:
    """Note every connection to Redis that this process makes."""
    noted: WeakSet[AbstractConnection] = WeakSet()
    make = AbstractConnection.__init__

    def make_noted(self: AbstractConnection, *words: Any, **named: Any) -> None:
        noted.add(self)
        make(self, *words, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AbstractConnection, "__init__", make_noted)
        yield noted


@pytest.fixture(autouse=True)
def no_connection_left(connections: WeakSet[AbstractConnection]) -> Iterator[None]:
    """Fail the test that leaves one open, rather than the one in which it is collected."""
    yield
    left = [repr(one) for one in connections if one.is_connected]
    assert not left, f"connections were left open: {left}"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server of our own on a unix socket; nobody else's can be touched."""
    data_dir: Path = tmp_path_factory.mktemp("redis")
    with EmbeddedServer(data_dir) as server:
        yield server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """Give a plain client, for looking and for breaking things."""
    client = open_client(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def keys(redis: Redis) -> AsyncIterator[Keys]:
    """Give a namespace of this test's own; a key left in it without TTL fails the test."""
    names = Keys(f"test{next(_NAMESPACES)}")
    yield names
    left = [
        key.decode()
        async for key in redis.scan_iter(match=f"{{{names.namespace}}}:*", count=1000)
        if await redis.ttl(key) == -1  # -2 is gone by itself meanwhile
    ]
    forgotten = [key for key in left if not key.endswith(_LASTING)]
    await redis.delete(*left) if left else None
    assert not forgotten, f"keys without TTL were left: {forgotten}"


@pytest.fixture
async def group(redis: Redis) -> AsyncIterator[GroupCommit]:
    """Give the connection on which acts share round trips."""
    commits = GroupCommit(
        redis, durability="fsync", clock=time.monotonic, log=structlog.get_logger()
    )
    yield commits
    await commits.aclose()


@pytest.fixture
def terms() -> Terms:
    """Give short terms, so that leases run out within a test."""
    return Terms(lease_ms=300, mark_ms=60_000, failed_ms=60_000, call_ms=300, limit=1000, share=1.0)


@pytest.fixture
def backlog(group: GroupCommit, keys: Keys, terms: Terms) -> Backlog:
    """Give a backlog with a budget that knows no limit yet."""
    tokens = itertools.count()
    return Backlog(
        group, keys=keys, terms=terms, room=load_room(), new_token=lambda: f"{next(tokens):016d}"
    )


@pytest.fixture
def budget(group: GroupCommit, keys: Keys) -> Budget:
    """Give a budget of which everything is ours, with even luck."""
    return Budget(group, keys=keys, share=1.0, chance=random.Random(1).random)


Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Wait for a condition, never for a duration."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await condition():
                await asyncio.sleep(0.01)

    return wait
