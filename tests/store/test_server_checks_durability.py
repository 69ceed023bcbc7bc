"""Tests of durability: a write succeeds only after the server has confirmed it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.store import RedisMisconfigured, RedisUnavailable, durability
from service.store.connect import open_client
from service.store.durability import Barrier, choose_barrier
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.services import Durability
from tests.store.conftest import OpenGroup, execute
from tests.store.single_fault_proxy import SingleFaultProxy
from tests.store.test_group_commit import REMEMBER

WAITAOF = ("WAITAOF", 1, 0, durability.BARRIER_TIMEOUT_MS)
WAIT = ("WAIT", 1, durability.BARRIER_TIMEOUT_MS)


@pytest.fixture
async def everysec_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """Start a server that syncs to disk once a second."""
    async with EmbeddedServer(tmp_path / "lazy", appendfsync="everysec") as running:
        yield running


async def choose_for(url: str, required: Durability) -> Barrier | None:
    """Return the barrier for a server."""
    async with open_client(url) as client:
        return await choose_barrier(client.execute_command, required)


async def count_barriers(client: Redis) -> int:
    """Return how many WAITAOF a server has answered."""
    stats = await client.info("commandstats")
    return int(stats.get("cmdstat_waitaof", {}).get("calls", 0))


def submit_write(
    group_commit: GroupCommit, member: str, *, durable: bool = True
) -> asyncio.Future[object]:
    """Submit one small script."""
    return group_commit.submit(
        REMEMBER, keys=("set",), args=(member,), durable=durable, timeout_s=1.0
    )


@pytest.mark.parametrize(
    ("reply", "met"),
    [
        (1, True),
        (2, True),
        (0, False),
        ([1, 0], True),
        ([0, 3], False),
        (None, False),
        ("1", False),
    ],
)
def test_barrier_by_reply_is_met_by_one_copy(reply: object, met: bool) -> None:
    """WAIT returns a number, WAITAOF two; any other reply confirms nothing."""
    assert Barrier((WAITAOF,)).is_met_by([reply]) is met


@pytest.mark.parametrize(
    ("disk", "replica", "met"), [(1, 1, True), (1, 0, False), (0, 1, False), (0, 0, False)]
)
def test_barrier_of_disk_and_replica_is_met_only_by_both(
    disk: int, replica: int, met: bool
) -> None:
    """A copy of one kind does not replace the other."""
    assert Barrier((WAITAOF, WAIT)).is_met_by([[disk, 0], replica]) is met


async def test_choose_barrier_with_appendfsync_always_needs_no_waitaof(
    server: EmbeddedServer,
) -> None:
    """Redis replies after the fsync then; `memory` never needs a barrier."""
    assert await choose_for(server.url, "fsync") is None
    assert await choose_for(server.url, "memory") is None
    assert await choose_for(server.url, "replica") == Barrier((WAIT,))
    assert await choose_for(server.url, "fsync+replica") == Barrier((WAIT,))


@pytest.mark.parametrize(
    "command",
    [
        ("CONFIG", "SET", "appendfsync", "everysec"),
        ("CONFIG", "SET", "appendfsync", "no"),
        ("CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"),
        ("ACL", "SETUSER", "default", "-config"),
    ],
    ids=" ".join,
)
async def test_choose_barrier_without_appendfsync_always_uses_waitaof(
    server: EmbeddedServer, direct_client: Redis, command: tuple[str, ...]
) -> None:
    """One WAITAOF ends every batch, followed by one WAIT if a replica is required."""
    await execute(direct_client, *command)
    assert await choose_for(server.url, "fsync") == Barrier((WAITAOF,))
    assert await choose_for(server.url, "fsync+replica") == Barrier((WAITAOF, WAIT))


@pytest.mark.parametrize("hides_config", [False, True])
async def test_connect_to_a_server_without_appendonly_raises_with_the_fix(
    server: EmbeddedServer, direct_client: Redis, open_group: OpenGroup, hides_config: bool
) -> None:
    """A server that hides its settings is rejected too."""
    await direct_client.config_set("appendonly", "no")
    if hides_config:
        await execute(direct_client, "ACL", "SETUSER", "default", "-config")
    async with open_group(server.url) as group_commit:
        with pytest.raises(
            RedisMisconfigured, match=r"appendfsync always.*ENRICHER_DURABILITY=memory"
        ):
            await group_commit.connect()
        with pytest.raises(RedisMisconfigured, match="appendfsync always"):
            await choose_for(server.url, "fsync+replica")
        with pytest.raises(RedisUnavailable, match="RedisMisconfigured"):
            await submit_write(group_commit, "x")
    assert await direct_client.exists("set") == 0


async def test_choose_barrier_without_waitaof_raises_with_the_fix(
    everysec_server: EmbeddedServer,
) -> None:
    """A server with appendfsync everysec cannot confirm a sync without WAITAOF."""
    async with open_client(everysec_server.url) as client:
        await execute(client, "ACL", "SETUSER", "default", "-waitaof")
    with pytest.raises(RedisMisconfigured, match=r"everysec.*appendfsync always.*7\.2"):
        await choose_for(everysec_server.url, "fsync")


async def test_connect_with_a_wrong_password_raises_misconfigured(
    server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """Retrying would not help."""
    async with open_client(server.url) as client:
        await client.config_set("requirepass", "right")
        async with open_group(f"{server.url}?password=wrong") as group_commit:
            with pytest.raises(RedisMisconfigured, match="rejected the login"):
                await group_commit.connect()
        await client.config_set("requirepass", "")


async def test_submit_of_durable_writes_sends_one_barrier_per_batch(
    everysec_server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """The barrier is sent for durable scripts only, once per batch."""
    async with (
        open_client(everysec_server.url) as client,
        open_group(everysec_server.url) as group_commit,
    ):
        await submit_write(group_commit, "first", durable=False)
        count_before = await count_barriers(client)
        await submit_write(group_commit, "second", durable=False)
        assert await count_barriers(client) == count_before
        await asyncio.gather(*(submit_write(group_commit, str(number)) for number in range(100)))
        assert 1 <= await count_barriers(client) - count_before <= 3


async def test_submit_when_the_barrier_is_not_met_raises_unavailable(
    server: EmbeddedServer, open_group: OpenGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write without confirmation fails, however often it is repeated."""
    monkeypatch.setattr(durability, "BARRIER_TIMEOUT_MS", 30)
    async with open_group(server.url, durability="replica") as group_commit:
        assert await submit_write(group_commit, "light", durable=False) == b"light"
        with pytest.raises(RedisUnavailable, match="did not confirm"):
            await submit_write(group_commit, "heavy")


async def test_connect_when_the_check_fails_repeats_it_before_any_write(
    everysec_server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """The server is checked again before any write is confirmed."""
    async with (
        SingleFaultProxy(everysec_server.socket) as proxy,
        open_client(everysec_server.url) as client,
        open_group(proxy.url) as group_commit,
    ):
        proxy.lose_reply(b"CONFIG")
        with pytest.raises(RedisUnavailable):
            await group_commit.connect()
        count_before = await count_barriers(client)
        await submit_write(group_commit, "kept")
        assert (
            await count_barriers(client) >= count_before + 2
        )  # one for the check, one for the write
