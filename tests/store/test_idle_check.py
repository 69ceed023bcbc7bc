"""Tests of idle connections: one that was dropped silently is replaced before it is used."""

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial

import pytest
from redis.asyncio import Redis

from service.client import stream
from service.client.group import ReaderOptions
from service.client.stream import EnrichedStream
from service.settings import Settings
from service.store import tcp_connection
from service.store.connect import CONNECT_TIMEOUT_S, REPLY_TIMEOUT_S, open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from service.store.tcp_connection import keepalive_options
from tests.faults.bad_network import FaultyProxy
from tests.publish.sample_records import append_records
from tests.tcp_proxy import connect_to_socket

IDLE_S = 0.05


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    """Start a proxy that can drop its open connections silently."""
    async with FaultyProxy(connect_to_socket(server.socket)) as running:
        yield running


@pytest.fixture
async def client(proxy: FaultyProxy) -> AsyncIterator[Redis]:
    """Yield a client whose connections are checked when they were idle for a moment."""
    async with open_client(f"redis://{proxy.address}", idle_check_s=IDLE_S) as opened:
        yield opened


async def test_command_on_a_dropped_idle_connection_is_sent_on_another(
    proxy: FaultyProxy, client: Redis
) -> None:
    """The clients of the console and of a worker's wakeup use pooled connections."""
    await client.set("key", "value")
    proxy.drop_open_connections()
    await asyncio.sleep(2 * IDLE_S)
    assert await client.get("key") == b"value"
    assert proxy.connection_count == 2


async def test_command_on_a_living_idle_connection_is_sent_on_it(
    proxy: FaultyProxy, client: Redis
) -> None:
    """The answer to one PING is enough."""
    for _ in range(2):
        await client.set("key", "value")
        await asyncio.sleep(2 * IDLE_S)
    assert proxy.connection_count == 1
    assert (await client.info("commandstats"))["cmdstat_ping"]["calls"] >= 1


async def test_command_on_a_connection_in_use_costs_no_ping(proxy: FaultyProxy) -> None:
    """Neither the first command of a connection nor the next one is preceded by a PING."""
    async with open_client(f"redis://{proxy.address}", idle_check_s=3600.0) as client:
        await client.config_resetstat()
        for _ in range(3):
            await client.set("key", "value")
        assert "cmdstat_ping" not in await client.info("commandstats")


async def test_idle_connection_that_may_not_ping_is_used(proxy: FaultyProxy, client: Redis) -> None:
    """An ACL without PING answers with an error, which is an answer."""
    await client.execute_command("ACL", "SETUSER", "default", "-ping")  # type: ignore[no-untyped-call] # redis-py
    await asyncio.sleep(2 * IDLE_S)
    await client.set("key", "value")
    assert proxy.connection_count == 1


async def test_reader_on_a_dropped_idle_connection_reads_on_another(
    proxy: FaultyProxy, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that works on one record for minutes does not wait for the reply timeout."""
    monkeypatch.setattr(tcp_connection, "PING_TIMEOUT_S", 0.1)
    monkeypatch.setattr(stream, "open_client", partial(open_client, idle_check_s=IDLE_S))
    failures: list[Exception] = []
    await append_records(client, Keys("deployments").enriched, 1, 2)
    options = ReaderOptions(prefetch=1, on_unavailable=failures.append)
    async with EnrichedStream(f"redis://{proxy.address}", group="g", options=options) as records:
        first = await anext(records)
        proxy.drop_open_connections()
        await asyncio.sleep(2 * IDLE_S)
        assert (await anext(records)).id != first.id
    assert not failures


async def test_connection_sends_keepalive_probes(client: Redis) -> None:
    """The kernel notices a dead connection that nobody uses."""
    await client.set("key", "value")
    pool = client.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
    raw_socket = connection._writer.transport.get_extra_info("socket")
    assert raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    for option, value in keepalive_options().items():
        assert raw_socket.getsockopt(socket.IPPROTO_TCP, option) == value
    await pool.release(connection)


def test_keepalive_options_on_macos_name_the_idle_time_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MacOS has TCP_KEEPALIVE in place of TCP_KEEPIDLE."""
    monkeypatch.delattr(socket, "TCP_KEEPIDLE", raising=False)
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 16, raising=False)
    assert keepalive_options()[16] == 30


def test_time_limits_of_redis_fit_into_the_wait_of_a_webhook() -> None:
    """A connection that dies in use is replaced before the receiver gives up, and GitHub (10 s)."""
    settings = Settings()
    assert REPLY_TIMEOUT_S + CONNECT_TIMEOUT_S < settings.enqueue_timeout < 10
    assert tcp_connection.PING_TIMEOUT_S + CONNECT_TIMEOUT_S < REPLY_TIMEOUT_S
