"""Does an idle worker wake when it should, whatever becomes of the server that it listens to?"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.backlog.backlog import MAX_BLOCK_S, Wakeup
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from tests.faults.bad_network import FaultyProxy
from tests.tcp_proxy import connect_to_socket


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """Start a server that this test may demote."""
    async with EmbeddedServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def faulty_network(server: EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    """Put a network before it."""
    async with FaultyProxy(connect_to_socket(server.socket)) as between:
        yield between


@pytest.fixture
async def client(faulty_network: FaultyProxy) -> AsyncIterator[Redis]:
    """Give a client that is very patient itself."""
    async with open_client(f"redis://{faulty_network.address}", reply_timeout_s=100) as patient:
        yield patient


async def test_it_rings_at_once(client: Redis) -> None:
    """However long the sleep was meant to be."""
    bell = Wakeup(client, "bell")
    listening = asyncio.create_task(bell.wait(1000))
    await client.lpush("bell", "1")
    await listening
    assert not await client.exists("bell")


async def test_nobody_oversleeps_for_a_server_that_hangs(
    client: Redis, faulty_network: FaultyProxy
) -> None:
    """A connection that is open and silent costs no more than a moment."""
    bell = Wakeup(client, "bell")
    await bell.wait(0.01)
    faulty_network.set_fault("silent")
    async with asyncio.timeout(20):
        await bell.wait(0.01)
    faulty_network.set_fault("clear")
    await bell.wait(0.01)
    assert faulty_network.connection_count == 2


async def test_a_master_that_was_demoted_is_left(
    client: Redis, server: EmbeddedServer, faulty_network: FaultyProxy
) -> None:
    """The next sleep is on a new connection, which leads to whoever is the master then."""
    bell = Wakeup(client, "bell")
    for _ in range(2):
        await bell.wait(0.01)
    assert faulty_network.connection_count == 1
    async with open_client(server.url) as direct:
        await direct.replicaof("127.0.0.1", 1)
    await bell.wait(0.01)
    await bell.wait(0.01)
    assert faulty_network.connection_count == 2


class SlowRedis(Redis):
    """A server that looks at its clients a tick late, as an idle one does."""

    blocked_s = 0.0

    async def blpop(self, _: object, timeout: float | None = 0) -> None:  # noqa: ASYNC109 - redis-py's own
        """Note for how long we are blocked, and end that at once."""
        self.blocked_s = timeout or 0.0


@pytest.mark.parametrize("for_s", [0.25, 0.4])
async def test_a_sleep_does_not_wait_for_the_servers_next_look(for_s: float) -> None:
    """The block ends a tick early and the rest is slept here; it is never cut short."""
    slow = SlowRedis()
    since = time.monotonic()
    await Wakeup(slow, "bell").wait(for_s)
    assert time.monotonic() - since >= for_s - 0.01
    assert slow.blocked_s == pytest.approx(for_s - 0.1)


async def test_who_has_nothing_to_wait_for_is_never_deaf() -> None:
    """A webhook that comes to an idle house is heard at once."""
    slow = SlowRedis()
    await Wakeup(slow, "bell").wait(3600.0)
    assert slow.blocked_s == MAX_BLOCK_S
