"""Is a server that cannot serve refused with the fix, and one that could do better told so?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.store import RedisMisconfigured
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.server_checks import Durability, check_server, check_server_info
from tests.faults.topology import RedisNode, wait_until_replicated
from tests.store.conftest import OpenGroup, RecordingLog, execute

LRU = {"maxmemory": "1000000", "maxmemory_policy": "allkeys-lru"}
VOLATILE = {"maxmemory": "1000000", "maxmemory_policy": "volatile-ttl"}


async def check_url(url: str, durability: Durability = "fsync") -> list[str]:
    """Look at a real server."""
    async with open_client(url) as client:
        connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call] # redis-py

        async def ask(*command: str) -> object:
            await connection.send_command(*command)
            return await connection.read_response()

        try:
            return await check_server(ask, durability)
        finally:
            await client.connection_pool.release(connection)


@asynccontextmanager
async def running_node(node: RedisNode) -> AsyncIterator[RedisNode]:
    """Start a server, and end it."""
    try:
        await node.start()
        yield node
    finally:
        node.kill()


async def test_our_own_server_is_fit(server: EmbeddedServer) -> None:
    """Nothing to mend."""
    assert await check_url(server.url) == []


async def test_a_server_that_evicts_tickets_is_refused_with_the_fix(
    server: EmbeddedServer, direct_client: Redis, open_group: OpenGroup
) -> None:
    """Refused at start; who says that losing is fine is only warned."""
    await direct_client.config_set("maxmemory-policy", "allkeys-lfu")
    assert await check_url(server.url) == []  # nothing is evicted while there is no limit
    await direct_client.config_set("maxmemory", "100mb")
    async with open_group(server.url) as commits:
        with pytest.raises(
            RedisMisconfigured, match=r"allkeys-lfu.*noeviction.*ENRICHER_DURABILITY=memory"
        ):
            await commits.connect()
    (warning,) = await check_url(server.url, "memory")
    assert "noeviction" in warning


async def test_a_server_that_evicts_marks_is_warned_of_once(
    server: EmbeddedServer, direct_client: Redis, open_group: OpenGroup, recording_log: RecordingLog
) -> None:
    """However often the connection is opened again."""
    await direct_client.config_set("maxmemory-policy", "volatile-lru")
    await direct_client.config_set("maxmemory", "100mb")
    async with open_group(server.url) as commits:
        await commits.connect()
        await commits._disconnect()
        await commits.connect()
    assert recording_log.events == ["redis_misconfigured"]


@pytest.mark.parametrize(
    ("version", "refused"),
    [("6.2.14", True), ("6.9", True), ("7.0.15", False), ("8.2.3", False), ("255.255.255", False)],
)
def test_a_server_that_is_too_old_is_refused(version: str, refused: bool) -> None:
    """Redis 7.0 is the floor; what tells no version we can read is taken as it is."""
    if refused:
        with pytest.raises(RedisMisconfigured, match=rf"{version}.*Redis 7\.0 or newer"):
            check_server_info({"redis_version": version}, "fsync")
    else:
        assert check_server_info({"redis_version": version}, "fsync") == []
    assert check_server_info({"redis_version": "unstable"}, "fsync") == []


async def test_replicas_are_weighed_against_what_is_waited_for(tmp_path: Path) -> None:
    """With a replica `fsync` may lose at a failover; without one a `replica` never confirms."""
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


async def test_a_server_that_shows_nothing_is_taken_as_it_is(
    server: EmbeddedServer, direct_client: Redis
) -> None:
    """An ACL may forbid INFO, and we need it for advice only."""
    await execute(direct_client, "ACL", "SETUSER", "default", "-info")
    assert await check_url(server.url) == []


def test_warnings_are_told_together() -> None:
    """One does not hide the other."""
    assert len(check_server_info(VOLATILE | {"connected_slaves": "1"}, "fsync")) == 2
    with pytest.raises(RedisMisconfigured):
        check_server_info(LRU | {"connected_slaves": "1"}, "fsync")
