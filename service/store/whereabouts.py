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

from service.store.address import Place

_ASK_S = 1.0

Ask = Callable[..., Awaitable[Any]]
"""Send one command to a place, give its reply."""

Find = Callable[[], Awaitable[Place]]
"""Give the place of the master; raises ConnectionError when nobody knows it."""


class Told(Struct, frozen=True):
    """What one who was asked said: where the master is, and who else can be asked."""

    master: Place | None
    others: Sequence[Place] = ()


class Finder:
    """Asks those who know; each time another is the first, so that one who errs is no obstacle.

    ``read`` understands the reply of a place to ``question``.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        ask: Ask,
        question: Sequence[str],
        read: Callable[[Any, Place], Told],
    ) -> None:
        self._named = tuple(places)
        self._known = self._named
        self._turn = 0
        self._ask = ask
        self._question = question
        self._read = read

    async def find(self) -> Place:
        """Find the master; raises ConnectionError with the reason of each who did not tell."""
        reasons = []
        first = self._turn % len(self._known)
        self._turn += 1
        for place in (*self._known[first:], *self._known[:first]):
            try:
                told = self._read(await self._ask(place, *self._question), place)
            except AuthenticationError:
                raise
            except (RedisError, OSError) as error:
                reasons.append(str(error) or f"no answer from {place.host}:{place.port}")
                continue
            if told.master is not None:
                self._known = tuple(dict.fromkeys((*self._named, *told.others)))
                return told.master
            reasons.append(f"{place.host}:{place.port} knows of no master of ours")
        raise RedisConnectionError(f"nobody tells where the master is: {'; '.join(reasons)}")


def find_by_sentinel(places: Sequence[Place], *, service: str, ask: Ask) -> Find:
    """Ask Sentinel, which knows the master by the name of its service."""

    def read(reply: Any, _: Place) -> Told:
        return Told(Place(reply[0].decode(), int(reply[1])) if reply else None)

    question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
    return Finder(places, ask=ask, question=question, read=read).find


def find_by_slot(places: Sequence[Place], *, slot: int, ask: Ask) -> Find:
    """Ask the nodes of a Cluster for the master of one slot."""

    def read(reply: Any, asked: Place) -> Told:
        nodes = [
            (first <= slot <= last and rank == 0, _read_node(node, asked))
            for first, last, *replicas in reply
            for rank, node in enumerate(replicas)
        ]
        masters = [place for is_master, place in nodes if is_master]
        return Told(masters[0] if masters else None, [place for _, place in nodes])

    return Finder(places, ask=ask, question=("CLUSTER", "SLOTS"), read=read).find


def _read_node(node: Any, asked: Place) -> Place:
    """Read a node of CLUSTER SLOTS; one that knows no name of its own has that of who was asked."""
    host = (node[0] or b"").decode()
    return Place(asked.host if host in {"", "?"} else host, int(node[1]))


def ask_by(kind: type[Connection], **options: Any) -> Ask:
    """Ask each time on a connection of its own, and not for long: the next one may know better."""

    async def ask(place: Place, *command: str) -> Any:
        connection = kind(host=place.host, port=place.port, **options)
        try:
            async with asyncio.timeout(_ASK_S):
                await connection.connect()  # type: ignore[no-untyped-call] # redis-py
                await connection.send_command(*command)
                return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)

    return ask


class FoundConnection(Connection):
    """A connection to wherever the master is when it is opened.

    ``look_every_s``: how often to look whether it is there still, and else to cut the connection. A
    master that Sentinel replaced while it was alive takes itself for the master for ten seconds
    more, and what is written to it meanwhile is lost.
    """

    def __init__(self, *, find: Find, look_every_s: float = math.inf, **options: Any) -> None:
        super().__init__(**options)
        self._find = find
        self._look_every_s = look_every_s
        self._watch: asyncio.Task[None] | None = None

    async def _connect(self) -> None:
        place = await self._find()
        self.host, self.port = place.host, place.port
        await super()._connect()  # type: ignore[no-untyped-call] # redis-py
        if self._look_every_s < math.inf and self._writer is not None:
            watching = self._cut_when_moved(place, self._writer)
            self._watch = asyncio.create_task(watching, name="watch-master")

    async def _cut_when_moved(self, place: Place, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            await asyncio.sleep(self._look_every_s)
            with suppress(RedisError, OSError):
                if await self._find() != place and await self._find() != place:  # two say so
                    writer.transport.abort()  # whoever reads from it hears that it is gone

    async def disconnect(self, *words: Any, **options: Any) -> None:
        """Disconnect, and look no more."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await super().disconnect(*words, **options)


class FoundTlsConnection(FoundConnection, SSLConnection):
    """The same over TLS."""
