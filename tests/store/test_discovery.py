"""Tests of master discovery through Sentinel and Cluster, and of connections to the master."""

import asyncio
import itertools
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, MovedError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from service.store import RedisMisconfigured
from service.store.connect import MASTER_CHECK_INTERVAL_S, describe_error, open_client
from service.store.discovery import (
    MasterConnection,
    MasterTlsConnection,
    cluster_discovery,
    sentinel_discovery,
)
from service.store.url import HostPort
from tests.faults.topology import SENTINEL_SERVICE, RedisNode
from tests.store.conftest import OpenGroup

A, B, C = HostPort("a", 1), HostPort("b", 2), HostPort("c", 3)


class RecordedReplies:
    """The nodes to ask: each has a reply or an error. Keeps the order of the questions."""

    def __init__(self, replies: dict[HostPort, Any]) -> None:
        self.replies = replies
        self.order: list[HostPort] = []

    async def __call__(self, address: HostPort, *_: str) -> Any:
        """Return the reply of a node."""
        self.order.append(address)
        reply = self.replies[address]
        if isinstance(reply, Exception):
            raise reply
        return reply


async def test_find_master_on_each_call_asks_another_node_first() -> None:
    """A wrong node is not asked first twice in a row."""
    nodes = RecordedReplies({A: [b"x", b"1"], B: [b"x", b"2"], C: [b"x", b"3"]})
    find_master = sentinel_discovery([A, B, C], master_name="m", query=nodes)
    assert [(await find_master()).port for _ in range(4)] == [1, 2, 3, 1]
    assert nodes.order == [A, B, C, A]


async def test_find_master_when_a_node_fails_asks_the_next_one() -> None:
    """A silent node and a node that knows no master are skipped."""
    nodes = RecordedReplies({A: TimeoutError(), B: None, C: [b"x", b"3"]})
    find_master = sentinel_discovery([A, B, C], master_name="m", query=nodes)
    assert await find_master() == HostPort("x", 3)
    assert nodes.order == [A, B, C]


async def test_find_master_when_every_node_fails_names_each_reason() -> None:
    """The error shows an operator which nodes to repair."""
    nodes = RecordedReplies({A: TimeoutError(), B: None, C: ResponseError("ERR unknown command")})
    with pytest.raises(RedisConnectionError) as caught:
        await sentinel_discovery([A, B, C], master_name="m", query=nodes)()
    assert str(caught.value) == (
        "no node knows the master: no answer from a:1; b:2 knows no master for our keys; "
        "ERR unknown command"
    )


async def test_find_master_when_every_node_denies_the_command_refuses_with_the_fix() -> None:
    """Some managed services deny CLUSTER, because one address serves all nodes."""
    denial = ResponseError("User default has no permissions to run the 'cluster|slots' command")
    nodes = RecordedReplies({A: denial, B: ResponseError("unknown command 'CLUSTER'")})
    with pytest.raises(RedisMisconfigured, match=r"CLUSTER SLOTS fails .* use redis:// or rediss"):
        await cluster_discovery([A, B], slot=0, query=nodes)()


async def test_find_master_with_a_wrong_password_raises_at_once() -> None:
    """The other nodes would reject the same password."""
    nodes = RecordedReplies({A: AuthenticationError("WRONGPASS"), B: [b"x", b"1"]})
    with pytest.raises(AuthenticationError):
        await sentinel_discovery([A, B], master_name="m", query=nodes)()


async def wait_until_blocked(node: RedisNode) -> None:
    """Wait until a client is blocked on a server."""
    async with asyncio.timeout(20):
        while not (await node.execute("INFO", "clients"))["blocked_clients"]:
            await asyncio.sleep(0.01)


def cluster_slots_reply(*ranges: tuple[int, int, str]) -> list[Any]:
    """Return a reply of CLUSTER SLOTS; the nodes of a range are letters, the master first."""
    return [
        [first, last, *([name.encode(), number, b"id"] for number, name in enumerate(nodes, 1))]
        for first, last, nodes in ranges
    ]


async def test_cluster_discovery_when_the_seeds_are_gone_asks_the_other_nodes() -> None:
    """The nodes of the URL may all be replaced in time."""
    nodes = RecordedReplies(
        {A: cluster_slots_reply((0, 9, "xy"), (10, 20, "vw")), B: OSError("gone")}
    )
    find_master = cluster_discovery([A, B], slot=10, query=nodes)
    assert await find_master() == HostPort("v", 1)
    nodes.replies = dict.fromkeys([A, B], OSError("gone"))
    new_slots = cluster_slots_reply((0, 20, "y"))
    nodes.replies |= {HostPort("x", 1): OSError("gone"), HostPort("y", 2): new_slots}
    nodes.replies |= {HostPort("v", 1): OSError("gone"), HostPort("w", 2): new_slots}
    assert await find_master() == HostPort("y", 1)


@pytest.mark.parametrize("name", [None, b"", b"?"])
async def test_cluster_discovery_of_a_node_without_a_name_uses_the_asked_host(
    name: bytes | None,
) -> None:
    """A node just started, or behind a load balancer, may not know its own name."""
    nodes = RecordedReplies({A: [[0, 16383, [name, 7, b"id"]]]})
    assert await cluster_discovery([A], slot=1, query=nodes)() == HostPort("a", 7)


async def test_cluster_discovery_of_an_unassigned_slot_raises_a_connection_error() -> None:
    """The error is temporary, so callers retry."""
    nodes = RecordedReplies({A: cluster_slots_reply((0, 9, "x"))})
    with pytest.raises(RedisConnectionError, match="a:1 knows no master for our keys"):
        await cluster_discovery([A], slot=10, query=nodes)()


async def test_sentinel_url_with_two_passwords_uses_each_for_its_server(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """A wrong password for either is reported as a wrong setting, not retried."""
    master = RedisNode(tmp_path / "master", "--appendonly", "yes")
    with ExitStack() as stack:
        stack.callback(master.kill)
        await master.start()
        sentinel = RedisNode(
            tmp_path / "sentinel",
            sentinel=(
                f"sentinel monitor {SENTINEL_SERVICE} 127.0.0.1 {master.port} 1\n"
                "requirepass theirs\n"
            ),
        )
        stack.callback(sentinel.kill)
        await sentinel.start()
        await master.execute("CONFIG", "SET", "requirepass", "ours")
        host = f"127.0.0.1:{sentinel.port}/{SENTINEL_SERVICE}/2"
        async with open_client(f"redis+sentinel://:ours@{host}?sentinel_password=theirs") as client:
            await client.set("here", "1")
            assert (await client.client_info())["db"] == 2
        for url in (
            f"redis+sentinel://:ours@{host}",
            f"redis+sentinel://:ours@{host}?sentinel_password=wrong",
            f"redis+sentinel://:wrong@{host}?sentinel_password=theirs",
        ):
            async with open_group(url) as group_commit:
                with pytest.raises(RedisMisconfigured, match="rejected the login"):
                    await group_commit.connect()


async def test_master_connection_when_the_master_is_replaced_is_closed(tmp_path: Path) -> None:
    """The blocked call to the old, living master fails; the next call reaches the new one."""
    old, new = RedisNode(tmp_path / "old"), RedisNode(tmp_path / "new")
    with ExitStack() as stack:
        stack.callback(old.kill)
        stack.callback(new.kill)
        await old.start()
        await new.start()
        masters = [old]

        async def find_master() -> HostPort:
            return HostPort("127.0.0.1", masters[-1].port)

        options: dict[str, Any] = {"find_master": find_master, "check_interval_s": 0.02}
        pool = ConnectionPool(MasterConnection, retry=Retry(NoBackoff(), 0), **options)
        async with Redis.from_pool(pool) as client:
            blocked_call = asyncio.ensure_future(client.blpop(["nothing"], timeout=100))
            await wait_until_blocked(old)
            masters.append(new)
            async with asyncio.timeout(20):
                with pytest.raises(RedisConnectionError):
                    await blocked_call
            assert (await client.info("server"))["tcp_port"] == new.port
    assert "watch-master" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_master_connection_when_one_sentinel_is_wrong_stays_open(tmp_path: Path) -> None:
    """The connection is closed only if a second node confirms the new master."""
    server = RedisNode(tmp_path / "server")
    with ExitStack() as stack:
        stack.callback(server.kill)
        await server.start()
        answers = itertools.cycle([HostPort("127.0.0.1", server.port), HostPort("wrong", 1)])
        call_counter = itertools.count()

        async def find_master() -> HostPort:
            next(call_counter)
            return next(answers)

        options: dict[str, Any] = {"find_master": find_master, "check_interval_s": 0.005}
        async with Redis.from_pool(ConnectionPool(MasterConnection, **options)) as client:
            before = await client.client_id()
            while next(call_counter) < 40:
                await asyncio.sleep(0.005)
            assert await client.client_id() == before


def test_open_client_checks_the_master_repeatedly_only_with_sentinel() -> None:
    """A replaced Cluster node learns it from the other nodes and replies MOVED."""
    options = open_client("redis+sentinel://h/name").connection_pool.connection_kwargs
    assert options["check_interval_s"] == MASTER_CHECK_INTERVAL_S
    assert (
        "check_interval_s" not in open_client("redis+cluster://h").connection_pool.connection_kwargs
    )


@pytest.mark.parametrize("url", ["rediss+sentinel://h/name", "rediss+cluster://h"])
def test_open_client_with_tls_verifies_the_certificate_of_the_master(url: str) -> None:
    """The certificate is checked, as with rediss://."""
    connection = open_client(url).connection_pool.make_connection()  # type: ignore[no-untyped-call] # redis-py
    assert isinstance(connection, MasterTlsConnection)
    assert connection.ssl_context.get().verify_mode is ssl.CERT_REQUIRED


def test_describe_error_for_moved_names_the_cluster_url() -> None:
    """MOVED alone does not name the fix."""
    assert "redis+cluster://" in describe_error(MovedError("1234 127.0.0.1:7001"))
