"""What do the tests of the store stand on? A server to break, and a proxy before it."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.durability import Durability
from service.store.embedded import EmbeddedServer
from service.store.group import GroupCommit
from tests.store.proxy import Proxy

OpenGroup = Callable[..., AbstractAsyncContextManager[GroupCommit]]


class Log:
    """Remembers the facts it was told."""

    def __init__(self) -> None:
        self.facts: list[str] = []

    def info(self, event: str, **facts: object) -> None:
        """Write a fact."""
        assert facts is not None
        self.facts.append(event)

    warning = info


async def command(client: Redis, *words: str) -> None:
    """Send one command of any kind."""
    await client.execute_command(*words)  # type: ignore[no-untyped-call] # redis-py


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Start a server that this test alone may break."""
    with EmbeddedServer(tmp_path / "data") as running:
        yield running


@pytest.fixture
async def direct(server: EmbeddedServer) -> AsyncIterator[Redis]:
    """Give a plain client past the proxy."""
    async with open_client(server.url) as client:
        yield client


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[Proxy]:
    """Put a proxy before the server."""
    async with Proxy(server.socket) as between:
        yield between


@pytest.fixture
def log() -> Log:
    """Give a log that can be read."""
    return Log()


@pytest.fixture
def open_group(log: Log) -> OpenGroup:
    """Open connections on which acts share round trips, closed at the end of their block."""

    @contextlib.asynccontextmanager
    async def opening(url: str, *, durability: Durability = "fsync") -> AsyncIterator[GroupCommit]:
        async with open_client(url) as client:
            commits = GroupCommit(client, durability=durability, clock=time.monotonic, log=log)
            try:
                yield commits
            finally:
                async with asyncio.timeout(5):
                    await commits.aclose()

    return opening


@pytest.fixture
def new_token() -> Callable[[], str]:
    """Give tokens that are never the same."""
    numbers = itertools.count()
    return lambda: f"{next(numbers):016d}"
