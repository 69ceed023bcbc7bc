"""Which server is the master at the moment? Asked anew whenever a connection is opened.

Why not redis-py's own clients: we need one raw connection (a group of acts is one write) and, as
all our keys are in one slot, one server. RedisCluster routes every single command and repeats it by
itself, which we must not; its Sentinel always begins with whoever answered last, right or wrong.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from .url import HostPort

_QUERY_TIMEOUT_S = 1.0

QueryNode = Callable[..., Awaitable[Any]]
"""Send one command to a place, give its reply."""

FindMaster = Callable[[], Awaitable[HostPort]]
"""Give the place of the master; raises ConnectionError when nobody knows it."""


class Discovered(Struct, frozen=True):
    """What one who was asked said: where the master is, and who else can be asked."""

    master: HostPort | None
    other_nodes: Sequence[HostPort] = ()


class MasterDiscovery:
    """Asks those who know; each time another is the first, so that one who errs is no obstacle.

    ``read`` understands the reply of a place to ``question``.
    """

    def __init__(
        self,
        seeds: Sequence[HostPort],
        *,
        query: QueryNode,
        command: Sequence[str],
        parse: Callable[[Any, HostPort], Discovered],
    ) -> None:
        self._seeds = tuple(seeds)
        self._known_nodes = self._seeds
        self._next_node = 0
        self._query = query
        self._command = command
        self._parse = parse

    async def find_master(self) -> HostPort:
        """Find the master; raises ConnectionError with the reason of each who did not tell."""
        reasons = []
        first = self._next_node % len(self._known_nodes)
        self._next_node += 1
        for node in (*self._known_nodes[first:], *self._known_nodes[:first]):
            try:
                discovered = self._parse(await self._query(node, *self._command), node)
            except AuthenticationError:
                raise
            except (RedisError, OSError) as error:
                reasons.append(str(error) or f"no answer from {node.host}:{node.port}")
                continue
            if discovered.master is not None:
                self._known_nodes = tuple(dict.fromkeys((*self._seeds, *discovered.other_nodes)))
                return discovered.master
            reasons.append(f"{node.host}:{node.port} knows of no master of ours")
        raise RedisConnectionError(f"nobody tells where the master is: {'; '.join(reasons)}")


def sentinel_discovery(
    seeds: Sequence[HostPort], *, master_name: str, query: QueryNode
) -> FindMaster:
    """Ask Sentinel, which knows the master by the name of its service."""

    def parse(reply: Any, _: HostPort) -> Discovered:
        return Discovered(HostPort(reply[0].decode(), int(reply[1])) if reply else None)

    command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master_name)
    return MasterDiscovery(seeds, query=query, command=command, parse=parse).find_master


def cluster_discovery(seeds: Sequence[HostPort], *, slot: int, query: QueryNode) -> FindMaster:
    """Ask the nodes of a Cluster for the master of one slot."""

    def parse(reply: Any, asked_node: HostPort) -> Discovered:
        candidates = [
            (first_slot <= slot <= last_slot and rank == 0, _parse_node(node, asked_node))
            for first_slot, last_slot, *replicas in reply
            for rank, node in enumerate(replicas)
        ]
        masters = [address for is_master, address in candidates if is_master]
        return Discovered(masters[0] if masters else None, [address for _, address in candidates])

    return MasterDiscovery(
        seeds, query=query, command=("CLUSTER", "SLOTS"), parse=parse
    ).find_master


def _parse_node(node: Any, asked_node: HostPort) -> HostPort:
    """Read a node of CLUSTER SLOTS; one that knows no name of its own has that of who was asked."""
    host = (node[0] or b"").decode()
    return HostPort(asked_node.host if host in {"", "?"} else host, int(node[1]))


def node_query(connection_class: type[Connection], **options: Any) -> QueryNode:
    """Ask each time on a connection of its own, and not for long: the next one may know better."""

    async def query(node: HostPort, *command: str) -> Any:
        connection = connection_class(host=node.host, port=node.port, **options)
        try:
            async with asyncio.timeout(_QUERY_TIMEOUT_S):
                await connection.connect()  # type: ignore[no-untyped-call] # redis-py
                await connection.send_command(*command)
                return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)

    return query


class MasterConnection(Connection):
    """A connection to wherever the master is when it is opened.

    ``look_every_s``: how often to look whether it is there still, and else to cut the connection. A
    master that Sentinel replaced while it was alive takes itself for the master for ten seconds
    more, and what is written to it meanwhile is lost.
    """

    def __init__(
        self, *, find_master: FindMaster, check_interval_s: float = math.inf, **options: Any
    ) -> None:
        super().__init__(**options)
        self._find_master = find_master
        self._check_interval_s = check_interval_s
        self._watch_task: asyncio.Task[None] | None = None

    async def _connect(self) -> None:
        master = await self._find_master()
        self.host, self.port = master.host, master.port
        await super()._connect()  # type: ignore[no-untyped-call] # redis-py
        if self._check_interval_s < math.inf and self._writer is not None:
            watch = self._disconnect_when_moved(master, self._writer)
            self._watch_task = asyncio.create_task(watch, name="watch-master")

    async def _disconnect_when_moved(self, master: HostPort, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            await asyncio.sleep(self._check_interval_s)
            with suppress(RedisError, OSError):
                if (
                    await self._find_master() != master and await self._find_master() != master
                ):  # two say so
                    writer.transport.abort()  # whoever reads from it hears that it is gone

    async def disconnect(self, *args: Any, **options: Any) -> None:
        """Disconnect, and look no more."""
        if self._watch_task is not None:
            self._watch_task.cancel()
            self._watch_task = None
        await super().disconnect(*args, **options)


class MasterTlsConnection(MasterConnection, SSLConnection):
    """The same over TLS."""
