"""Is the master found whoever is asked, and left when it is the master no more?"""

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
    """Those who are asked: each has its reply, or an error; who was asked is kept."""

    def __init__(self, replies: dict[HostPort, Any]) -> None:
        self.replies = replies
        self.order: list[HostPort] = []

    async def __call__(self, address: HostPort, *_: str) -> Any:
        """Give the reply of a place."""
        self.order.append(address)
        reply = self.replies[address]
        if isinstance(reply, Exception):
            raise reply
        return reply


async def test_each_time_another_is_asked_first() -> None:
    """One that is wrong is not believed twice in a row."""
    asked = RecordedReplies({A: [b"x", b"1"], B: [b"x", b"2"], C: [b"x", b"3"]})
    find = sentinel_discovery([A, B, C], master_name="m", query=asked)
    assert [(await find()).port for _ in range(4)] == [1, 2, 3, 1]
    assert asked.order == [A, B, C, A]


async def test_who_is_silent_or_knows_nothing_is_passed_over() -> None:
    """The next one is asked at once."""
    asked = RecordedReplies({A: TimeoutError(), B: None, C: [b"x", b"3"]})
    find = sentinel_discovery([A, B, C], master_name="m", query=asked)
    assert await find() == HostPort("x", 3)
    assert asked.order == [A, B, C]


async def test_when_nobody_tells_every_reason_is_told() -> None:
    """A person sees whom to mend."""
    asked = RecordedReplies({A: TimeoutError(), B: None, C: ResponseError("ERR unknown command")})
    with pytest.raises(RedisConnectionError) as caught:
        await sentinel_discovery([A, B, C], master_name="m", query=asked)()
    assert str(caught.value) == (
        "nobody tells where the master is: no answer from a:1; b:2 knows of no master of ours; "
        "ERR unknown command"
    )


async def test_a_wrong_password_is_told_as_such() -> None:
    """Asking the others with it would not help."""
    asked = RecordedReplies({A: AuthenticationError("WRONGPASS"), B: [b"x", b"1"]})
    with pytest.raises(AuthenticationError):
        await sentinel_discovery([A, B], master_name="m", query=asked)()


async def wait_until_blocked(node: RedisNode) -> None:
    """Wait until somebody waits for something of a server."""
    async with asyncio.timeout(20):
        while not (await node.execute("INFO", "clients"))["blocked_clients"]:
            await asyncio.sleep(0.01)


def cluster_slots_reply(*ranges: tuple[int, int, str]) -> list[Any]:
    """Write a reply of CLUSTER SLOTS: first, last, and the nodes as letters, the master first."""
    return [
        [first, last, *([name.encode(), number, b"id"] for number, name in enumerate(nodes, 1))]
        for first, last, nodes in ranges
    ]


async def test_the_master_of_the_slot_is_found_and_the_other_nodes_are_remembered() -> None:
    """Those that were named in the beginning may all be gone one day."""
    asked = RecordedReplies(
        {A: cluster_slots_reply((0, 9, "xy"), (10, 20, "vw")), B: OSError("gone")}
    )
    find = cluster_discovery([A, B], slot=10, query=asked)
    assert await find() == HostPort("v", 1)
    asked.replies = dict.fromkeys([A, B], OSError("gone"))
    later = cluster_slots_reply((0, 20, "y"))
    asked.replies |= {HostPort("x", 1): OSError("gone"), HostPort("y", 2): later}
    asked.replies |= {HostPort("v", 1): OSError("gone"), HostPort("w", 2): later}
    assert await find() == HostPort("y", 1)


@pytest.mark.parametrize("name", [None, b"", b"?"])
async def test_a_node_that_knows_no_name_of_its_own_is_where_it_was_asked(
    name: bytes | None,
) -> None:
    """Behind a load balancer or just started."""
    asked = RecordedReplies({A: [[0, 16383, [name, 7, b"id"]]]})
    assert await cluster_discovery([A], slot=1, query=asked)() == HostPort("a", 7)


async def test_a_slot_that_nobody_has_is_waited_for() -> None:
    """A hole in the slots is trouble that passes."""
    asked = RecordedReplies({A: cluster_slots_reply((0, 9, "x"))})
    with pytest.raises(RedisConnectionError, match="a:1 knows of no master of ours"):
        await cluster_discovery([A], slot=10, query=asked)()


async def test_sentinel_and_master_have_each_their_password(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """Both are given where they belong; a wrong one for either is refused, not waited for."""
    master = RedisNode(tmp_path / "master", "--appendonly", "yes")
    with ExitStack() as ending:
        ending.callback(master.kill)
        await master.start()
        watch = RedisNode(
            tmp_path / "sentinel",
            sentinel=(
                f"sentinel monitor {SENTINEL_SERVICE} 127.0.0.1 {master.port} 1\n"
                "requirepass theirs\n"
            ),
        )
        ending.callback(watch.kill)
        await watch.start()
        await master.execute("CONFIG", "SET", "requirepass", "ours")
        host = f"127.0.0.1:{watch.port}/{SENTINEL_SERVICE}/2"
        async with open_client(f"redis+sentinel://:ours@{host}?sentinel_password=theirs") as client:
            await client.set("here", "1")
            assert (await client.client_info())["db"] == 2
        for url in (
            f"redis+sentinel://:ours@{host}",
            f"redis+sentinel://:ours@{host}?sentinel_password=wrong",
            f"redis+sentinel://:wrong@{host}?sentinel_password=theirs",
        ):
            async with open_group(url) as commits:
                with pytest.raises(RedisMisconfigured, match="does not let us in"):
                    await commits.connect()


async def test_a_master_that_was_replaced_and_does_not_know_it_is_left(tmp_path: Path) -> None:
    """It is alive and answers as ever; what waits for it is cut, and goes on with the new one."""
    old, new = RedisNode(tmp_path / "old"), RedisNode(tmp_path / "new")
    with ExitStack() as ending:
        ending.callback(old.kill)
        ending.callback(new.kill)
        await old.start()
        await new.start()
        masters = [old]

        async def find() -> HostPort:
            return HostPort("127.0.0.1", masters[-1].port)

        options: dict[str, Any] = {"find_master": find, "check_interval_s": 0.02}
        pool = ConnectionPool(MasterConnection, retry=Retry(NoBackoff(), 0), **options)
        async with Redis.from_pool(pool) as client:
            waiting = asyncio.ensure_future(client.blpop(["nothing"], timeout=100))
            await wait_until_blocked(old)
            masters.append(new)
            async with asyncio.timeout(20):
                with pytest.raises(RedisConnectionError):
                    await waiting
            assert (await client.info("server"))["tcp_port"] == new.port
    assert "watch-master" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_one_sentinel_that_errs_costs_no_connection(tmp_path: Path) -> None:
    """What it says is believed only when the next one who is asked says so too."""
    server = RedisNode(tmp_path / "server")
    with ExitStack() as ending:
        ending.callback(server.kill)
        await server.start()
        answers = itertools.cycle([HostPort("127.0.0.1", server.port), HostPort("wrong", 1)])
        asked = itertools.count()

        async def find() -> HostPort:
            next(asked)
            return next(answers)

        options: dict[str, Any] = {"find_master": find, "check_interval_s": 0.005}
        async with Redis.from_pool(ConnectionPool(MasterConnection, **options)) as client:
            before = await client.client_id()
            while next(asked) < 40:
                await asyncio.sleep(0.005)
            assert await client.client_id() == before


def test_only_sentinel_is_asked_again_and_again() -> None:
    """A node of a Cluster that was replaced hears of it from the others, and says MOVED."""
    kept = open_client("redis+sentinel://h/name").connection_pool.connection_kwargs
    assert kept["check_interval_s"] == MASTER_CHECK_INTERVAL_S
    assert (
        "check_interval_s" not in open_client("redis+cluster://h").connection_pool.connection_kwargs
    )


@pytest.mark.parametrize("url", ["rediss+sentinel://h/name", "rediss+cluster://h"])
def test_tls_is_spoken_to_the_master_that_was_found(url: str) -> None:
    """And its certificate is checked, as with rediss://."""
    connection = open_client(url).connection_pool.make_connection()  # type: ignore[no-untyped-call] # redis-py
    assert isinstance(connection, MasterTlsConnection)
    assert connection.ssl_context.get().verify_mode is ssl.CERT_REQUIRED


def test_a_cluster_named_as_a_server_is_told_with_the_fix() -> None:
    """MOVED alone says nothing to most people."""
    assert "redis+cluster://" in describe_error(MovedError("1234 127.0.0.1:7001"))
