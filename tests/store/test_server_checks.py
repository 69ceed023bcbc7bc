"""Tests of the server checks: unusable servers are rejected, doubtful settings are warned of."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.store import RedisMisconfigured
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.server_checks import check_server, check_server_info, read_info
from service.store.services import Durability
from tests.faults.topology import RedisNode, wait_until_replicated
from tests.store.conftest import OpenGroup, RecordingLog, execute

LRU = {"maxmemory": "1000000", "maxmemory_policy": "allkeys-lru"}
VOLATILE = {"maxmemory": "1000000", "maxmemory_policy": "volatile-ttl"}


async def check_url(url: str, durability: Durability = "fsync") -> list[str]:
    """Return the warnings about a real server."""
    async with open_client(url) as client:
        connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call] # redis-py

        async def send_command(*command: str | int) -> object:
            await connection.send_command(*command)
            return await connection.read_response()

        try:
            return await check_server(send_command, durability, await read_info(send_command))
        finally:
            await client.connection_pool.release(connection)


@asynccontextmanager
async def running_node(node: RedisNode) -> AsyncIterator[RedisNode]:
    """Start a server, and kill it at the end."""
    try:
        await node.start()
        yield node
    finally:
        node.kill()


async def test_check_server_of_the_embedded_server_returns_no_warning(
    server: EmbeddedServer,
) -> None:
    """The embedded server has the right settings."""
    assert await check_url(server.url) == []


async def test_check_server_that_evicts_any_key_raises_with_the_fix(
    server: EmbeddedServer, direct_client: Redis, open_group: OpenGroup
) -> None:
    """The start fails, unless the user accepts the loss: then there is only a warning."""
    await direct_client.config_set("maxmemory-policy", "allkeys-lfu")
    assert await check_url(server.url) == []  # nothing is evicted while there is no limit
    await direct_client.config_set("maxmemory", "100mb")
    async with open_group(server.url) as group_commit:
        with pytest.raises(
            RedisMisconfigured, match=r"allkeys-lfu.*noeviction.*ENRICHER_DURABILITY=memory"
        ):
            await group_commit.connect()
    (warning,) = await check_url(server.url, "memory")
    assert "noeviction" in warning


async def test_connect_to_a_server_that_evicts_marks_logs_one_warning(
    server: EmbeddedServer, direct_client: Redis, open_group: OpenGroup, recording_log: RecordingLog
) -> None:
    """Opening the connection again does not repeat the warning."""
    await direct_client.config_set("maxmemory-policy", "volatile-lru")
    await direct_client.config_set("maxmemory", "100mb")
    async with open_group(server.url) as group_commit:
        await group_commit.connect()
        await group_commit._disconnect()
        await group_commit.connect()
    assert recording_log.events == ["redis_misconfigured"]


@pytest.mark.parametrize(
    ("version", "is_rejected"),
    [("6.2.14", True), ("6.9", True), ("7.0.15", False), ("8.2.3", False), ("255.255.255", False)],
)
def test_check_server_info_by_version_rejects_servers_before_7_0(
    version: str, is_rejected: bool
) -> None:
    """A version that cannot be parsed is accepted."""
    if is_rejected:
        with pytest.raises(RedisMisconfigured, match=rf"{version}.*Redis 7\.0 or newer"):
            check_server_info({"redis_version": version}, "fsync")
    else:
        assert check_server_info({"redis_version": version}, "fsync") == []
    assert check_server_info({"redis_version": "unstable"}, "fsync") == []


async def test_check_server_by_replicas_and_durability_warns_with_the_fix(tmp_path: Path) -> None:
    """`fsync` with a replica may lose writes at a failover; `replica` needs a replica."""
    first = RedisNode(tmp_path / "first", "--repl-diskless-sync-delay", "0")
    async with running_node(first):
        assert await check_url(first.url) == []
        (warning,) = await check_url(first.url, "fsync+replica")
        assert warning == (await check_url(first.url, "replica"))[0]
        assert "no replica" in warning
        second = RedisNode(tmp_path / "second", "--replicaof", f"127.0.0.1 {first.port}")
        async with running_node(second):
            await wait_until_replicated(first)
            (warning,) = await check_url(first.url)
            assert "ENRICHER_DURABILITY=fsync+replica" in warning
            assert await check_url(first.url, "fsync+replica") == []
            assert await check_url(first.url, "memory") == []


async def test_check_server_without_info_returns_no_warning(
    server: EmbeddedServer, direct_client: Redis
) -> None:
    """An ACL may forbid INFO, which is needed for warnings only."""
    await execute(direct_client, "ACL", "SETUSER", "default", "-info")
    assert await check_url(server.url) == []


def test_check_server_info_with_two_problems_returns_both_warnings() -> None:
    """Neither warning hides the other, and an error goes before both."""
    assert len(check_server_info(VOLATILE | {"connected_slaves": "1"}, "fsync")) == 2
    with pytest.raises(RedisMisconfigured):
        check_server_info(LRU | {"connected_slaves": "1"}, "fsync")
