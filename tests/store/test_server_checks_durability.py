"""Is "kept" said only of what the server has promised to keep?"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.store import RedisMisconfigured, RedisUnavailable, server_checks
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.server_checks import Barrier, Durability, choose_barrier
from tests.store.conftest import OpenGroup, execute
from tests.store.faulty_proxy import FaultProxy
from tests.store.test_group_commit import REMEMBER

WAITAOF = ("WAITAOF", 1, 0, server_checks.BARRIER_TIMEOUT_MS)
WAIT = ("WAIT", 1, server_checks.BARRIER_TIMEOUT_MS)


@pytest.fixture
async def everysec_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """Start a server that syncs its disk once in a second."""
    async with EmbeddedServer(tmp_path / "lazy", appendfsync="everysec") as running:
        yield running


async def choose_for(url: str, required: Durability) -> Barrier | None:
    """Ask a server what makes it keep our writes."""
    async with open_client(url) as client:
        return await choose_barrier(client.execute_command, required)


async def count_barriers(client: Redis) -> int:
    """Count the WAITAOF that a server has answered."""
    stats = await client.info("commandstats")
    return int(stats.get("cmdstat_waitaof", {}).get("calls", 0))


def submit_write(
    group_commit: GroupCommit, member: str, *, durable: bool = True
) -> asyncio.Future[object]:
    """Submit one small act."""
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
def test_a_barrier_is_met_by_enough_copies(reply: object, met: bool) -> None:
    """WAIT gives a number, WAITAOF two, and anything else is no promise."""
    assert Barrier((WAITAOF,)).is_met_by([reply]) is met


@pytest.mark.parametrize(
    ("disk", "replica", "met"), [(1, 1, True), (1, 0, False), (0, 1, False), (0, 0, False)]
)
def test_a_barrier_of_disk_and_replica_is_met_by_both(disk: int, replica: int, met: bool) -> None:
    """Neither stands for the other."""
    assert Barrier((WAITAOF, WAIT)).is_met_by([[disk, 0], replica]) is met


async def test_a_server_that_always_syncs_needs_no_barrier(server: EmbeddedServer) -> None:
    """It answers after the fsync; and who asks for memory only is given that."""
    assert await choose_for(server.url, "fsync") is None
    assert await choose_for(server.url, "memory") is None
    assert await choose_for(server.url, "replica") == Barrier((WAIT,))
    assert await choose_for(server.url, "fsync+replica") == Barrier((WAIT,))


@pytest.mark.parametrize(
    "spoil",
    [
        ("CONFIG", "SET", "appendfsync", "everysec"),
        ("CONFIG", "SET", "appendfsync", "no"),
        ("CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"),
        ("ACL", "SETUSER", "default", "-config"),
    ],
    ids=" ".join,
)
async def test_a_server_that_syncs_later_or_keeps_it_to_itself_needs_one(
    server: EmbeddedServer, direct_client: Redis, spoil: tuple[str, ...]
) -> None:
    """One WAITAOF then closes every group, and one WAIT after it where a replica is wanted."""
    await execute(direct_client, *spoil)
    assert await choose_for(server.url, "fsync") == Barrier((WAITAOF,))
    assert await choose_for(server.url, "fsync+replica") == Barrier((WAITAOF, WAIT))


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_server_that_writes_to_no_disk_is_refused_with_the_fix(
    server: EmbeddedServer, direct_client: Redis, open_group: OpenGroup, hidden: bool
) -> None:
    """Even one that does not let us see its settings."""
    await direct_client.config_set("appendonly", "no")
    if hidden:
        await execute(direct_client, "ACL", "SETUSER", "default", "-config")
    async with open_group(server.url) as commits:
        with pytest.raises(
            RedisMisconfigured, match=r"appendfsync always.*ENRICHER_DURABILITY=memory"
        ):
            await commits.connect()
        with pytest.raises(RedisMisconfigured, match="appendfsync always"):
            await choose_for(server.url, "fsync+replica")
        with pytest.raises(RedisUnavailable, match="RedisMisconfigured"):
            await submit_write(commits, "x")
    assert await direct_client.exists("set") == 0


async def test_a_server_without_waitaof_is_refused_with_the_fix(
    everysec_server: EmbeddedServer,
) -> None:
    """An everysec server that cannot tell when it has synced can promise nothing."""
    async with open_client(everysec_server.url) as client:
        await execute(client, "ACL", "SETUSER", "default", "-waitaof")
    with pytest.raises(RedisMisconfigured, match=r"everysec.*appendfsync always.*7\.2"):
        await choose_for(everysec_server.url, "fsync")


async def test_a_wrong_password_is_refused(server: EmbeddedServer, open_group: OpenGroup) -> None:
    """No patience helps against it."""
    async with open_client(server.url) as client:
        await client.config_set("requirepass", "right")
        async with open_group(f"{server.url}?password=wrong") as commits:
            with pytest.raises(RedisMisconfigured, match="does not let us in"):
                await commits.connect()
        await client.config_set("requirepass", "")


async def test_a_group_of_writes_is_closed_by_one_barrier(
    everysec_server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """Sent for durable acts only, and once for all that go together."""
    async with (
        open_client(everysec_server.url) as client,
        open_group(everysec_server.url) as commits,
    ):
        await submit_write(commits, "first", durable=False)
        asked = await count_barriers(client)
        await submit_write(commits, "second", durable=False)
        assert await count_barriers(client) == asked
        await asyncio.gather(*(submit_write(commits, str(number)) for number in range(100)))
        assert 1 <= await count_barriers(client) - asked <= 3


async def test_a_barrier_that_is_not_met_is_never_a_success(
    server: EmbeddedServer, open_group: OpenGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written but not confirmed is Unavailable, however often it is asked again."""
    monkeypatch.setattr(server_checks, "BARRIER_TIMEOUT_MS", 30)
    async with open_group(server.url, durability="replica") as commits:
        assert await submit_write(commits, "light", durable=False) == b"light"
        with pytest.raises(RedisUnavailable, match="did not confirm"):
            await submit_write(commits, "heavy")


async def test_a_connection_whose_barrier_is_unknown_is_not_written_to(
    everysec_server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """A first look at the server that failed is taken again before anything is called kept."""
    async with (
        FaultProxy(everysec_server.socket) as proxy,
        open_client(everysec_server.url) as client,
        open_group(proxy.url) as commits,
    ):
        proxy.lose_reply(b"CONFIG")
        with pytest.raises(RedisUnavailable):
            await commits.connect()
        before = await count_barriers(client)
        await submit_write(commits, "kept")
        assert await count_barriers(client) >= before + 2  # one to see whether it can, one for us
