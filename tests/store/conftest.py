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
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.server_checks import Durability
from tests.store.faulty_proxy import FaultProxy

OpenGroup = Callable[..., AbstractAsyncContextManager[GroupCommit]]


class RecordingLog:
    """Remembers the facts it was told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        """Write a fact."""
        assert fields is not None
        self.events.append(event)

    warning = info


async def execute(client: Redis, *arguments: str) -> None:
    """Send one command of any kind."""
    await client.execute_command(*arguments)  # type: ignore[no-untyped-call] # redis-py


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Start a server that this test alone may break."""
    with EmbeddedServer(tmp_path / "data") as running:
        yield running


@pytest.fixture
async def direct_client(server: EmbeddedServer) -> AsyncIterator[Redis]:
    """Give a plain client past the proxy."""
    async with open_client(server.url) as client:
        yield client


@pytest.fixture
async def fault_proxy(server: EmbeddedServer) -> AsyncIterator[FaultProxy]:
    """Put a proxy before the server."""
    async with FaultProxy(server.socket) as proxy_before_server:
        yield proxy_before_server


@pytest.fixture
def recording_log() -> RecordingLog:
    """Give a log that can be read."""
    return RecordingLog()


@pytest.fixture
def open_group(recording_log: RecordingLog) -> OpenGroup:
    """Open connections on which acts share round trips, closed at the end of their block."""

    @contextlib.asynccontextmanager
    async def open_one(url: str, *, durability: Durability = "fsync") -> AsyncIterator[GroupCommit]:
        async with open_client(url) as client:
            group_commit = GroupCommit(
                client, durability=durability, clock=time.monotonic, log=recording_log
            )
            try:
                yield group_commit
            finally:
                async with asyncio.timeout(5):
                    await group_commit.aclose()

    return open_one


@pytest.fixture
def new_token() -> Callable[[], str]:
    """Give tokens that are never the same."""
    counter = itertools.count()
    return lambda: f"{next(counter):016d}"
