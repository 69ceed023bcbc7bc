"""Fixtures of the store tests: a server to break, a proxy in front of it, a recording log."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.services import Durability
from tests.store.single_fault_proxy import SingleFaultProxy

OpenGroup = Callable[..., AbstractAsyncContextManager[GroupCommit]]


class RecordingLog:
    """A log that keeps the names of its events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        """Keep the name of an event."""
        assert fields is not None
        self.events.append(event)

    warning = error = exception = info


async def execute(client: Redis, *arguments: str) -> None:
    """Send one command of any kind."""
    await client.execute_command(*arguments)  # type: ignore[no-untyped-call] # redis-py


@pytest.fixture
async def direct_client(server: EmbeddedServer) -> AsyncIterator[Redis]:
    """Yield a client that connects past the proxy."""
    async with open_client(server.url) as client:
        yield client


@pytest.fixture
async def fault_proxy(server: EmbeddedServer) -> AsyncIterator[SingleFaultProxy]:
    """Start a proxy in front of the server."""
    async with SingleFaultProxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def recording_log() -> RecordingLog:
    """Return a log whose events can be read."""
    return RecordingLog()


@pytest.fixture
def open_group(recording_log: RecordingLog) -> OpenGroup:
    """Return a context manager that opens a GroupCommit and closes it."""

    @contextlib.asynccontextmanager
    async def open_group_commit(
        url: str, *, durability: Durability = "fsync"
    ) -> AsyncIterator[GroupCommit]:
        async with open_client(url) as client:
            group_commit = GroupCommit(
                client, durability=durability, clock=time.monotonic, log=recording_log
            )
            try:
                yield group_commit
            finally:
                async with asyncio.timeout(5):
                    await group_commit.aclose()

    return open_group_commit


@pytest.fixture
def new_token() -> Callable[[], str]:
    """Return a function whose tokens are all different."""
    counter = itertools.count()
    return lambda: f"{next(counter):016d}"
