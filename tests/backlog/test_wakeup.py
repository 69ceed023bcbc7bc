"""Tests of the wakeup: when an idle worker wakes, also if its server fails."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from redis.asyncio import Redis

from service.backlog.wakeup import MAX_BLOCK_S, Wakeup
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.faults.bad_network import FaultyProxy
from tests.tcp_proxy import connect_to_socket

KEYS = Keys("wakeup")


def build_wakeup(client: Redis) -> Wakeup:
    """Return the wakeup of one worker."""
    group_commit = GroupCommit(
        client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
    )
    return Wakeup(client, group_commit, keys=KEYS, token="one")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """Start a server that this test may demote."""
    async with EmbeddedServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def faulty_network(server: EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    """Return a proxy before the server."""
    async with FaultyProxy(connect_to_socket(server.socket)) as proxy:
        yield proxy


@pytest.fixture
async def client(faulty_network: FaultyProxy) -> AsyncIterator[Redis]:
    """Return a client with a long reply timeout."""
    async with open_client(f"redis://{faulty_network.address}", reply_timeout_s=100) as redis:
        yield redis


@pytest.mark.parametrize("element", ["1", "x y", "1.5 2 three four", "1.5 2 3"])
async def test_wait_ends_at_a_wakeup(client: Redis, element: str) -> None:
    """The length of the sleep does not matter, and no element ends a worker."""
    wakeup = build_wakeup(client)
    waiting = asyncio.create_task(wakeup.wait(1000))
    await client.lpush(KEYS.wakeup, element)
    assert await waiting is None
    assert not await client.exists(KEYS.wakeup)


async def test_wait_on_a_silent_server_ends_after_its_timeout(
    client: Redis, faulty_network: FaultyProxy
) -> None:
    """A connection that is open and silent costs only a moment."""
    wakeup = build_wakeup(client)
    await wakeup.wait(0.01)
    faulty_network.set_fault("silent")
    async with asyncio.timeout(20):
        await wakeup.wait(0.01)
    faulty_network.set_fault("clear")
    await wakeup.wait(0.01)
    assert faulty_network.connection_count == 2


async def test_wait_on_a_demoted_master_opens_a_new_connection(
    client: Redis, server: EmbeddedServer, faulty_network: FaultyProxy
) -> None:
    """The next sleep uses a new connection, which leads to the current master."""
    wakeup = build_wakeup(client)
    for _ in range(2):
        await wakeup.wait(0.01)
    assert faulty_network.connection_count == 1
    async with open_client(server.url) as direct_client:
        await direct_client.replicaof("127.0.0.1", 1)
    await wakeup.wait(0.01)
    await wakeup.wait(0.01)
    assert faulty_network.connection_count == 2


class SlowRedis(Redis):
    """A server that ends a BLPOP one tick late, as an idle server does."""

    blocked_s = 0.0

    async def blpop(self, _: object, timeout: float | None = 0) -> None:  # noqa: ASYNC109 - redis-py's own
        """Record the timeout and return at once."""
        self.blocked_s = timeout or 0.0


@pytest.mark.parametrize("timeout_s", [0.25, 0.4])
async def test_wait_ends_on_time_although_blpop_ends_late(timeout_s: float) -> None:
    """BLPOP ends one tick early and a plain sleep follows; the total is never shorter."""
    slow = SlowRedis()
    started_at = time.monotonic()
    await build_wakeup(slow).wait(timeout_s)
    assert time.monotonic() - started_at >= timeout_s - 0.01
    assert slow.blocked_s == pytest.approx(timeout_s - 0.1)


async def test_wait_without_a_due_ticket_blocks_to_its_end() -> None:
    """A webhook that arrives at an idle worker wakes it at once."""
    slow = SlowRedis()
    await build_wakeup(slow).wait(3600.0)
    assert slow.blocked_s == MAX_BLOCK_S
