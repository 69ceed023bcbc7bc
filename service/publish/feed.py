"""Where do a reader's entries come from? The stream itself, or its part as member of a group."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct
from redis.exceptions import ResponseError

from service.publish.line import Line
from service.publish.reading import StreamEntry, Unreadable
from service.store.exchange import Command

_BLOCK_S = 5.0


class Habits(Struct, frozen=True, kw_only=True):
    """How a reader reads.

    It fetches up to ``prefetch`` records at once and knows the last ``remember`` ids again. A
    consumer of its group that did nothing for ``take_over_after_s`` is taken for dead, and what it
    left is taken over: make this longer than your slowest loop body. ``on_unreadable`` hears of
    entries that are no records and lets them pass; without it they are raised.
    """

    prefetch: int = 100
    take_over_after_s: float = 60.0
    remember: int = 10_000
    on_unreadable: Callable[[Unreadable], None] | None = None


class Feed(Protocol):
    """What gives entries, and hears what became of them."""

    async def fetch(self, line: Line) -> list[StreamEntry]:
        """Give the next entries; none when nothing came for a while."""

    def note_done(self, position: bytes) -> None:
        """Hear that an entry was read to the end."""

    def note_cut(self) -> None:
        """Hear that the connection was cut, and what was fetched is forgotten."""

    async def refresh(self, line: Line, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Give those of the held entries that are still ours to read."""

    async def leave(self, line: Line, held: Sequence[bytes]) -> None:
        """End, and hand back what is held."""


class Onlooker:
    """Reads for itself, from a position on; nobody else hears of it."""

    def __init__(self, stream: str, *, since: str, habits: Habits) -> None:
        self._stream = stream
        self._fetched = self._done = since
        self._habits = habits

    async def fetch(self, line: Line) -> list[StreamEntry]:
        """Read on behind the last entry."""
        if self._fetched == "$":  # asked for twice, it would be two ends of two moments
            (reply,) = await line.exchange(("XREVRANGE", self._stream, "+", "-", "COUNT", 1))
            newest: Any = _require(reply)
            self._fetched = self._done = newest[0][0].decode() if newest else "0-0"
        block, count = round(_BLOCK_S * 1000), self._habits.prefetch
        read = ("XREAD", "COUNT", count, "BLOCK", block, "STREAMS", self._stream, self._fetched)
        (reply,) = await line.exchange(read, block_s=_BLOCK_S)
        entries = list_entries(_require(reply))
        if entries:
            self._fetched = entries[-1].position.decode()
        return entries

    def note_done(self, position: bytes) -> None:
        """Remember how far it was read."""
        self._done = position.decode()

    def note_cut(self) -> None:
        """Begin again behind what was read to the end."""
        self._fetched = self._done

    async def refresh(self, _: Line, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Keep all: nobody takes them over."""
        return list(held)

    async def leave(self, line: Line, held: Sequence[bytes]) -> None:
        """End; there is nobody to tell."""


class Member:
    """Reads as one consumer of a group: each entry goes to one of them, until it is done.

    ``since`` is where a group that is not there yet begins.
    """

    def __init__(
        self, stream: str, group: str, *, consumer: str, since: str, habits: Habits
    ) -> None:
        self._stream, self._group, self._consumer = stream, group, consumer
        self._since = since
        self._habits = habits
        self._is_joined = False
        self._own: bytes | None = None  # behind what is ours from before; None: all of it is seen
        self._abandoned: bytes = b"0-0"
        self._look_at = 0.0
        self._done: list[bytes] = []

    async def fetch(self, line: Line) -> list[StreamEntry]:
        """Give what is ours from before, else what the dead left, else what is new."""
        if not self._is_joined:
            await self._join(line)
        if self._own is not None:
            return await self._fetch_own(line)
        if time.monotonic() >= self._look_at:
            taken = await self._take_over(line)
            if taken:
                return taken
        block_s = max(0.001, min(_BLOCK_S, self._look_at - time.monotonic()))
        return await self._read(line, b">", block_s=block_s)

    def note_done(self, position: bytes) -> None:
        """Keep it, to be acknowledged along with the next exchange."""
        self._done.append(position)

    def note_cut(self) -> None:
        """See anew what is ours: nobody knows what the lost replies gave us."""
        self._own = b"0"

    async def refresh(self, line: Line, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Acknowledge, and show that what is held is being worked on; leave out what is not ours.

        A loop body may take long: without this, a fellow would take over what waits behind it.
        """
        kept = await self._list_ours(line, [entry.position for entry in held])
        if kept:
            await self._exchange(line, self._claim(kept, "JUSTID"))
        ours = set(kept)
        return [entry for entry in held if entry.position in ours]

    async def leave(self, line: Line, held: Sequence[bytes]) -> None:
        """Acknowledge, and let the others take over at once what is left."""
        kept = await self._list_ours(line, held)
        if kept:
            idle = round(self._habits.take_over_after_s * 1000)
            await self._exchange(line, self._claim(kept, "IDLE", idle, "JUSTID"))

    async def retire(self, line: Line) -> None:
        """Have the group forget this consumer, unless something is still its own."""
        name = (self._stream, self._group)
        _, left = await self._exchange(line, ("XPENDING", *name, "-", "+", 1, self._consumer))
        if not left:
            await line.exchange(("XGROUP", "DELCONSUMER", *name, self._consumer))

    async def _join(self, line: Line) -> None:
        """Make the group, and the stream, unless they are there."""
        make = ("XGROUP", "CREATE", self._stream, self._group, self._since, "MKSTREAM")
        (reply,) = await line.exchange(make)
        if not str(reply).startswith("BUSYGROUP"):
            _require(reply)
        self._is_joined, self._own = True, b"0"
        if self._since == "$":
            self._since = "0"  # a group that has to be made again: rather twice than never

    async def _fetch_own(self, line: Line) -> list[StreamEntry]:
        entries = await self._read(line, self._own or b"0")
        self._own = entries[-1].position if entries else None
        return entries

    async def _take_over(self, line: Line) -> list[StreamEntry]:
        idle = round(self._habits.take_over_after_s * 1000)
        take = ("XAUTOCLAIM", self._stream, self._group, self._consumer, idle, self._abandoned)
        _, reply = await self._exchange(line, (*take, "COUNT", self._habits.prefetch))
        cursor, entries, *_ = reply
        self._abandoned = cursor
        if cursor == b"0-0":
            self._look_at = time.monotonic() + self._habits.take_over_after_s / 2
        return [StreamEntry(*entry) for entry in entries if entry is not None]

    async def _read(self, line: Line, behind: bytes, *, block_s: float = 0.0) -> list[StreamEntry]:
        words: list[str | bytes | int] = ["XREADGROUP", "GROUP", self._group, self._consumer]
        words += ["COUNT", self._habits.prefetch]
        words += ["BLOCK", round(block_s * 1000)] if block_s else []
        words += ["STREAMS", self._stream, behind]
        _, reply = await self._exchange(line, words, block_s=block_s)
        return list_entries(reply)

    async def _list_ours(self, line: Line, held: Sequence[bytes]) -> list[bytes]:
        """Acknowledge what is done, and give what of the held is still pending as ours."""
        first, last = (held[0], held[-1]) if held else ("-", "-")
        count = max(1, len(held))
        ask = ("XPENDING", self._stream, self._group, first, last, count, self._consumer)
        _, reply = await self._exchange(line, ask)
        return [pending[0] for pending in reply]

    def _claim(self, positions: Iterable[bytes], *how: str | int) -> Command:
        name = (self._stream, self._group, self._consumer)
        return ("XCLAIM", *name, 0, *positions, *how)

    async def _exchange(self, line: Line, command: Command, *, block_s: float = 0.0) -> list[Any]:
        """Acknowledge what is done and send one command, in one round trip."""
        done = tuple(self._done)
        acknowledge: Command = ("XACK", self._stream, self._group, *(done or (b"0-0",)))
        told, reply = await line.exchange(acknowledge, command, block_s=block_s)
        if isinstance(reply, ResponseError) and str(reply).startswith("NOGROUP"):
            self._is_joined = False  # somebody removed the group or the stream: it is made anew
            raise TryAgain from None
        replies = [_require(told), _require(reply)]
        del self._done[: len(done)]
        return replies


class TryAgain(Exception):
    """The group was gone."""


def list_entries(reply: Any) -> list[StreamEntry]:
    """List the entries of an XREAD reply, as RESP2 or RESP3 has it."""
    if not reply:
        return []
    streams = reply.values() if isinstance(reply, dict) else [told for _, told in reply]
    return [StreamEntry(*entry) for entries in streams for entry in entries]


def _require(reply: object) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
