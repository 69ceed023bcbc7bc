"""The fixtures of all tests: a Redis of their own, an empty namespace, and leak checks."""

import asyncio
import itertools
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import hypothesis
import pytest
import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from service import app
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.ticket import REFRESH_END
from service.enrich.budget import Budget, load_budget_prelude
from service.enrich.verdict import RepeatPolicy, RetryPolicy
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

_NAMESPACES = itertools.count()
_SHARED_MEMORY, _ROOM_BYTES = Path("/dev/shm"), 1 << 30  # noqa: S108 - its subdirectory is private

# No test asserts a timing: a busy machine is no failure.
hypothesis.settings.register_profile(
    "project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")

# Keys that may exist without a TTL: the output, the failed tickets, the counts and the clock.
_KEYS_WITHOUT_TTL = (
    *(":enriched", ":failed", ":failed:data", ":failed:raw"),
    *(":counts", ":milestones", ":clock"),
)


def pytest_configure() -> None:
    """Let Ctrl-C reach the commands of tests, even where a shell started pytest in the background.

    Such a shell has it ignored, and each command would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def open_connections() -> Iterator[WeakSet[AbstractConnection]]:
    """Collect every Redis connection that this process opens."""
    seen: WeakSet[AbstractConnection] = WeakSet()
    original_init = AbstractConnection.__init__

    def recording_init(self: AbstractConnection, *args: Any, **kwargs: Any) -> None:
        seen.add(self)
        original_init(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(AbstractConnection, "__init__", recording_init)
        yield seen


@pytest.fixture(autouse=True)
def no_connection_left(open_connections: WeakSet[AbstractConnection]) -> Iterator[None]:
    """Fail the test that leaves a connection open, not the test that collects it."""
    yield
    still_open = [repr(connection) for connection in open_connections if connection.is_connected]
    assert not still_open, f"connections were left open: {still_open}"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Start a Redis server for this session on a Unix socket.

    Where there is room, its data are in memory: its thousands of syncs to a disk would only wait.
    """
    in_memory = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > _ROOM_BYTES
    with (
        tempfile.TemporaryDirectory(dir=_SHARED_MEMORY if in_memory else None) as folder,
        EmbeddedServer(Path(folder)) as server,
    ):
        yield server.url


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Start a Redis server for one test, which may kill or restart it."""
    with EmbeddedServer(tmp_path / "redis") as embedded_server:
        yield embedded_server


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """Return a plain client to observe Redis and to break it."""
    client = open_client(redis_url)
    yield client
    await client.aclose()


async def _only_refreshes_wait(redis: Redis, keys: Keys) -> bool:
    """Return whether refreshes are all that waits: one that falls due as a worker stops is kept."""
    tickets: Any = await redis.hvals(keys.tickets)
    return bool(tickets) and all(ticket.endswith(REFRESH_END) for ticket in tickets)


@pytest.fixture
async def keys(redis: Redis) -> AsyncIterator[Keys]:
    """Return the keys of a namespace of its own; fail the test when a key has no TTL."""
    namespace_keys = Keys(f"test{next(_NAMESPACES)}")
    yield namespace_keys
    remaining = [
        key.decode()
        async for key in redis.scan_iter(match=f"{{{namespace_keys.namespace}}}:*", count=1000)
        if await redis.ttl(key) == -1  # -2: the key has expired meanwhile
    ]
    unexpected = [key for key in remaining if not key.endswith(_KEYS_WITHOUT_TTL)]
    if await _only_refreshes_wait(redis, namespace_keys):
        unexpected = [key for key in unexpected if not key.endswith((":backlog", ":tickets"))]
    await redis.delete(*remaining) if remaining else None
    assert not unexpected, f"keys without TTL were left: {unexpected}"


@pytest.fixture
async def group_commit(redis: Redis) -> AsyncIterator[GroupCommit]:
    """Return the connection that groups concurrent script calls."""
    group_commit = GroupCommit(
        redis, durability="fsync", clock=time.monotonic, log=structlog.get_logger()
    )
    yield group_commit
    await group_commit.aclose()


@pytest.fixture
def backlog_config() -> BacklogConfig:
    """Return a configuration with short times, so that leases expire within a test."""
    return BacklogConfig(
        lease_ms=300,
        delivery_ttl_ms=60_000,
        failed_ttl_ms=60_000,
        call_ttl_ms=300,
        max_tickets=1000,
        rate_limit_share=1.0,
    )


@pytest.fixture
def backlog(group_commit: GroupCommit, keys: Keys, backlog_config: BacklogConfig) -> Backlog:
    """Return a backlog with a budget that knows no limit yet."""
    tokens = itertools.count()
    return Backlog(
        group_commit,
        keys=keys,
        config=backlog_config,
        budget_lua=load_budget_prelude(),
        new_token=lambda: f"{next(tokens):016d}",
    )


@pytest.fixture
def budget(group_commit: GroupCommit, keys: Keys) -> Budget:
    """Return a budget with the whole quota and a seeded random source."""
    return Budget(group_commit, keys=keys, share=1.0, rng=random.Random(1).random)


@pytest.fixture
def quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a service repeat its failed calls to LaunchDarkly within milliseconds."""
    repeats = RepeatPolicy(min_wait_s=0.0, max_wait_s=0.02)
    monkeypatch.setattr(app, "RetryPolicy", partial(RetryPolicy, repeats=repeats))


Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Return a function that waits for a condition, never for a duration."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await condition():
                await asyncio.sleep(0.01)

    return wait
