"""Discovery of the current master through Sentinel or Cluster, for each new connection.

The clients of redis-py do not fit. GroupCommit needs one raw connection (a batch is one write) to
one server, because all keys are in one slot. RedisCluster routes each command by itself and
repeats it, which would run a command twice. Its Sentinel client always asks the Sentinel that
answered last, even if that one is wrong.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct
from redis.asyncio.connection import Connection
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from . import RedisMisconfigured
from .error_replies import format_error, is_denied
from .tcp_connection import TcpConnection, TlsConnection
from .url import HostPort

_QUERY_TIMEOUT_S = 1.0

QueryNode = Callable[..., Awaitable[Any]]
"""Sends one command to a node and returns the reply."""

FindMaster = Callable[[], Awaitable[HostPort]]
"""Returns the address of the master. Raises ConnectionError when no node knows it."""


class Discovered(Struct, frozen=True):
    """The answer of one node: the address of the master, and other nodes to ask."""

    master: HostPort | None
    other_nodes: Sequence[HostPort] = ()


class MasterDiscovery:
    """Asks the known nodes for the master, each time beginning with another node.

    So one node with an outdated answer does not block discovery. ``parse`` reads the reply of a
    node to ``command``.
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
        """Return the master. Raises ConnectionError with the reason of each node that failed.

        Raises RedisMisconfigured if every node denies the command.
        """
        reasons = []
        denials: list[ResponseError] = []
        first = self._next_node % len(self._known_nodes)
        self._next_node += 1
        for node in (*self._known_nodes[first:], *self._known_nodes[:first]):
            try:
                discovered = self._parse(await self._query(node, *self._command), node)
            except AuthenticationError:
                raise
            except (RedisError, OSError) as error:
                if isinstance(error, ResponseError) and is_denied(error):
                    denials.append(error)
                reasons.append(str(error) or f"no answer from {node.host}:{node.port}")
                continue
            if discovered.master is not None:
                self._known_nodes = tuple(dict.fromkeys((*self._seeds, *discovered.other_nodes)))
                return discovered.master
            reasons.append(f"{node.host}:{node.port} knows no master for our keys")
        if len(denials) == len(self._known_nodes):
            raise RedisMisconfigured(
                f"Redis does not say where the master is: {' '.join(self._command[:2])} fails "
                f"({format_error(denials[0])}). Allow it to this user, or use redis:// or "
                "rediss:// with the one address of the server."
            )
        raise RedisConnectionError(f"no node knows the master: {'; '.join(reasons)}")


def sentinel_discovery(
    seeds: Sequence[HostPort], *, master_name: str, query: QueryNode
) -> FindMaster:
    """Return a function that asks Sentinel for the master with this name."""

    def parse(reply: Any, _: HostPort) -> Discovered:
        return Discovered(HostPort(reply[0].decode(), int(reply[1])) if reply else None)

    command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master_name)
    return MasterDiscovery(seeds, query=query, command=command, parse=parse).find_master


def cluster_discovery(seeds: Sequence[HostPort], *, slot: int, query: QueryNode) -> FindMaster:
    """Return a function that asks the nodes of a Cluster for the master of one slot."""

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
    """Parse a node of CLUSTER SLOTS; a node without a host name is the node that was asked."""
    host = (node[0] or b"").decode()
    return HostPort(asked_node.host if host in {"", "?"} else host, int(node[1]))


def node_query(connection_class: type[Connection], **options: Any) -> QueryNode:
    """Return a function that sends one command on a new connection, within one second."""

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


class MasterConnection(TcpConnection):
    """A connection to the server that is the master when it is opened.

    Every ``check_interval_s`` the master is looked up again, and the connection is closed if it
    moved. A living master that Sentinel replaced still acts as master for ten seconds, and every
    write to it during that time is lost.
    """

    def __init__(
        self,
        *,
        find_master: FindMaster,
        seed_hosts: Sequence[str] = (),
        check_interval_s: float = math.inf,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.seed_hosts = seed_hosts
        self._find_master = find_master
        self._check_interval_s = check_interval_s
        self._watch_task: asyncio.Task[None] | None = None

    async def _connect(self) -> None:
        master = await self._find_master()
        self.host, self.port = master.host, master.port
        await super()._connect()
        if self._check_interval_s < math.inf and self._writer is not None:
            watch = self._disconnect_when_moved(master, self._writer)
            self._watch_task = asyncio.create_task(watch, name="watch-master")

    async def _disconnect_when_moved(self, master: HostPort, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            await asyncio.sleep(self._check_interval_s)
            with suppress(RedisError, OSError, RedisMisconfigured):
                # Two nodes must agree, since one may be outdated.
                if await self._find_master() != master and await self._find_master() != master:
                    writer.transport.abort()  # pending reads fail with a connection error

    async def disconnect(self, *args: Any, **options: Any) -> None:
        """Disconnect, and stop looking up the master."""
        if self._watch_task is not None:
            self._watch_task.cancel()
            self._watch_task = None
        await super().disconnect(*args, **options)


class MasterTlsConnection(MasterConnection, TlsConnection):
    """A connection over TLS to the server that is the master when it is opened."""
