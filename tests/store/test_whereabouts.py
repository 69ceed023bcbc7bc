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

from service.store import Refused
from service.store.address import Place
from service.store.connect import LOOK_EVERY_S, describe_trouble, open_client
from service.store.whereabouts import (
    FoundConnection,
    FoundTlsConnection,
    find_by_sentinel,
    find_by_slot,
)
from tests.faults.topology import SERVICE, Node
from tests.store.conftest import OpenGroup

A, B, C = Place("a", 1), Place("b", 2), Place("c", 3)


class Asked:
    """Those who are asked: each has its reply, or an error; who was asked is kept."""

    def __init__(self, replies: dict[Place, Any]) -> None:
        self.replies = replies
        self.order: list[Place] = []

    async def __call__(self, place: Place, *_: str) -> Any:
        """Give the reply of a place."""
        self.order.append(place)
        reply = self.replies[place]
        if isinstance(reply, Exception):
            raise reply
        return reply


async def test_each_time_another_is_asked_first() -> None:
    """One that is wrong is not believed twice in a row."""
    asked = Asked({A: [b"x", b"1"], B: [b"x", b"2"], C: [b"x", b"3"]})
    find = find_by_sentinel([A, B, C], service="m", ask=asked)
    assert [(await find()).port for _ in range(4)] == [1, 2, 3, 1]
    assert asked.order == [A, B, C, A]


async def test_who_is_silent_or_knows_nothing_is_passed_over() -> None:
    """The next one is asked at once."""
    asked = Asked({A: TimeoutError(), B: None, C: [b"x", b"3"]})
    find = find_by_sentinel([A, B, C], service="m", ask=asked)
    assert await find() == Place("x", 3)
    assert asked.order == [A, B, C]


async def test_when_nobody_tells_every_reason_is_told() -> None:
    """A person sees whom to mend."""
    asked = Asked({A: TimeoutError(), B: None, C: ResponseError("ERR unknown command")})
    with pytest.raises(RedisConnectionError) as caught:
        await find_by_sentinel([A, B, C], service="m", ask=asked)()
    assert str(caught.value) == (
        "nobody tells where the master is: no answer from a:1; b:2 knows of no master of ours; "
        "ERR unknown command"
    )


async def test_a_wrong_password_is_told_as_such() -> None:
    """Asking the others with it would not help."""
    asked = Asked({A: AuthenticationError("WRONGPASS"), B: [b"x", b"1"]})
    with pytest.raises(AuthenticationError):
        await find_by_sentinel([A, B], service="m", ask=asked)()


async def until_blocked(node: Node) -> None:
    """Wait until somebody waits for something of a server."""
    async with asyncio.timeout(20):
        while not (await node.ask("INFO", "clients"))["blocked_clients"]:
            await asyncio.sleep(0.01)


def slots(*ranges: tuple[int, int, str]) -> list[Any]:
    """Write a reply of CLUSTER SLOTS: first, last, and the nodes as letters, the master first."""
    return [
        [first, last, *([name.encode(), number, b"id"] for number, name in enumerate(nodes, 1))]
        for first, last, nodes in ranges
    ]


async def test_the_master_of_the_slot_is_found_and_the_other_nodes_are_remembered() -> None:
    """Those that were named in the beginning may all be gone one day."""
    asked = Asked({A: slots((0, 9, "xy"), (10, 20, "vw")), B: OSError("gone")})
    find = find_by_slot([A, B], slot=10, ask=asked)
    assert await find() == Place("v", 1)
    asked.replies = dict.fromkeys([A, B], OSError("gone"))
    later = slots((0, 20, "y"))
    asked.replies |= {Place("x", 1): OSError("gone"), Place("y", 2): later}
    asked.replies |= {Place("v", 1): OSError("gone"), Place("w", 2): later}
    assert await find() == Place("y", 1)


@pytest.mark.parametrize("name", [None, b"", b"?"])
async def test_a_node_that_knows_no_name_of_its_own_is_where_it_was_asked(
    name: bytes | None,
) -> None:
    """Behind a load balancer or just started."""
    asked = Asked({A: [[0, 16383, [name, 7, b"id"]]]})
    assert await find_by_slot([A], slot=1, ask=asked)() == Place("a", 7)


async def test_a_slot_that_nobody_has_is_waited_for() -> None:
    """A hole in the slots is trouble that passes."""
    asked = Asked({A: slots((0, 9, "x"))})
    with pytest.raises(RedisConnectionError, match="a:1 knows of no master of ours"):
        await find_by_slot([A], slot=10, ask=asked)()


async def test_sentinel_and_master_have_each_their_password(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """Both are given where they belong; a wrong one for either is refused, not waited for."""
    master = Node(tmp_path / "master", "--appendonly", "yes")
    with ExitStack() as ending:
        ending.callback(master.kill)
        await master.start()
        watch = Node(
            tmp_path / "sentinel",
            sentinel=f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 1\nrequirepass theirs\n",
        )
        ending.callback(watch.kill)
        await watch.start()
        await master.ask("CONFIG", "SET", "requirepass", "ours")
        host = f"127.0.0.1:{watch.port}/{SERVICE}/2"
        async with open_client(f"redis+sentinel://:ours@{host}?sentinel_password=theirs") as client:
            await client.set("here", "1")
            assert (await client.client_info())["db"] == 2
        for url in (
            f"redis+sentinel://:ours@{host}",
            f"redis+sentinel://:ours@{host}?sentinel_password=wrong",
            f"redis+sentinel://:wrong@{host}?sentinel_password=theirs",
        ):
            async with open_group(url) as commits:
                with pytest.raises(Refused, match="does not let us in"):
                    await commits.connect()


async def test_a_master_that_was_replaced_and_does_not_know_it_is_left(tmp_path: Path) -> None:
    """It is alive and answers as ever; what waits for it is cut, and goes on with the new one."""
    old, new = Node(tmp_path / "old"), Node(tmp_path / "new")
    with ExitStack() as ending:
        ending.callback(old.kill)
        ending.callback(new.kill)
        await old.start()
        await new.start()
        masters = [old]

        async def find() -> Place:
            return Place("127.0.0.1", masters[-1].port)

        options: dict[str, Any] = {"find": find, "look_every_s": 0.02}
        pool = ConnectionPool(FoundConnection, retry=Retry(NoBackoff(), 0), **options)
        async with Redis.from_pool(pool) as client:
            waiting = asyncio.ensure_future(client.blpop(["nothing"], timeout=100))
            await until_blocked(old)
            masters.append(new)
            async with asyncio.timeout(20):
                with pytest.raises(RedisConnectionError):
                    await waiting
            assert (await client.info("server"))["tcp_port"] == new.port
    assert "watch-master" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_one_sentinel_that_errs_costs_no_connection(tmp_path: Path) -> None:
    """What it says is believed only when the next one who is asked says so too."""
    server = Node(tmp_path / "server")
    with ExitStack() as ending:
        ending.callback(server.kill)
        await server.start()
        answers = itertools.cycle([Place("127.0.0.1", server.port), Place("wrong", 1)])
        asked = itertools.count()

        async def find() -> Place:
            next(asked)
            return next(answers)

        options: dict[str, Any] = {"find": find, "look_every_s": 0.005}
        async with Redis.from_pool(ConnectionPool(FoundConnection, **options)) as client:
            before = await client.client_id()
            while next(asked) < 40:
                await asyncio.sleep(0.005)
            assert await client.client_id() == before


def test_only_sentinel_is_asked_again_and_again() -> None:
    """A node of a Cluster that was replaced hears of it from the others, and says MOVED."""
    kept = open_client("redis+sentinel://h/name").connection_pool.connection_kwargs
    assert kept["look_every_s"] == LOOK_EVERY_S
    assert "look_every_s" not in open_client("redis+cluster://h").connection_pool.connection_kwargs


@pytest.mark.parametrize("url", ["rediss+sentinel://h/name", "rediss+cluster://h"])
def test_tls_is_spoken_to_the_master_that_was_found(url: str) -> None:
    """And its certificate is checked, as with rediss://."""
    connection = open_client(url).connection_pool.make_connection()  # type: ignore[no-untyped-call] # redis-py
    assert isinstance(connection, FoundTlsConnection)
    assert connection.ssl_context.get().verify_mode is ssl.CERT_REQUIRED


def test_a_cluster_named_as_a_server_is_told_with_the_fix() -> None:
    """MOVED alone says nothing to most people."""
    assert "redis+cluster://" in describe_trouble(MovedError("1234 127.0.0.1:7001"))
