"""Where do a reader's entries come from? The stream itself, or its part as member of a group."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct
from redis.exceptions import ResponseError

from ..store.exchange import Command
from .connection import Connection
from .entry import InvalidEntry, StreamEntry

_BLOCK_S = 5.0


class ReaderOptions(Struct, frozen=True, kw_only=True):
    """How a reader reads.

    It fetches up to ``prefetch`` records at once and knows the last ``remember`` ids again. A
    consumer of its group that did nothing for ``take_over_after_s`` is taken for dead, and what it
    left is taken over: make this longer than your slowest loop body. ``on_unreadable`` hears of
    entries that are no records and lets them pass; without it they are raised.
    """

    prefetch: int = 100
    claim_after_s: float = 60.0
    recent_ids: int = 10_000
    on_invalid_entry: Callable[[InvalidEntry], None] | None = None


class EntrySource(Protocol):
    """What gives entries, and hears what became of them."""

    async def fetch(self, connection: Connection) -> list[StreamEntry]:
        """Give the next entries; none when nothing came for a while."""

    def mark_done(self, position: bytes) -> None:
        """Hear that an entry was read to the end."""

    def on_disconnect(self) -> None:
        """Hear that the connection was cut, and what was fetched is forgotten."""

    async def renew(self, connection: Connection, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Give those of the held entries that are still ours to read."""

    async def release(self, connection: Connection, held: Sequence[bytes]) -> None:
        """End, and hand back what is held."""


class PlainConsumer:
    """Reads for itself, from a position on; nobody else hears of it."""

    def __init__(self, stream: str, *, since: str, options: ReaderOptions) -> None:
        self._stream = stream
        self._last_fetched = self._last_done = since
        self._options = options

    async def fetch(self, connection: Connection) -> list[StreamEntry]:
        """Read on behind the last entry."""
        if self._last_fetched == "$":  # asked for twice, it would be two ends of two moments
            (reply,) = await connection.exchange(("XREVRANGE", self._stream, "+", "-", "COUNT", 1))
            newest: Any = _raise_on_error(reply)
            self._last_fetched = self._last_done = newest[0][0].decode() if newest else "0-0"
        block_ms, count = round(_BLOCK_S * 1000), self._options.prefetch
        command = (
            "XREAD",
            "COUNT",
            count,
            "BLOCK",
            block_ms,
            "STREAMS",
            self._stream,
            self._last_fetched,
        )
        (reply,) = await connection.exchange(command, block_s=_BLOCK_S)
        entries = parse_entries(_raise_on_error(reply))
        if entries:
            self._last_fetched = entries[-1].position.decode()
        return entries

    def mark_done(self, position: bytes) -> None:
        """Remember how far it was read."""
        self._last_done = position.decode()

    def on_disconnect(self) -> None:
        """Begin again behind what was read to the end."""
        self._last_fetched = self._last_done

    async def renew(self, _: Connection, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Keep all: nobody takes them over."""
        return list(held)

    async def release(self, connection: Connection, held: Sequence[bytes]) -> None:
        """End; there is nobody to tell."""


class GroupConsumer:
    """Reads as one consumer of a group: each entry goes to one of them, until it is done.

    ``since`` is where a group that is not there yet begins.
    """

    def __init__(
        self, stream: str, group: str, *, consumer: str, since: str, options: ReaderOptions
    ) -> None:
        self._stream, self._group, self._consumer = stream, group, consumer
        self._since = since
        self._options = options
        self._has_group = False
        self._own_cursor: bytes | None = (
            None  # behind what is ours from before; None: all of it is seen
        )
        self._autoclaim_cursor: bytes = b"0-0"
        self._autoclaim_at = 0.0
        self._unacknowledged: list[bytes] = []

    async def fetch(self, connection: Connection) -> list[StreamEntry]:
        """Give what is ours from before, else what the dead left, else what is new."""
        if not self._has_group:
            await self._create_group(connection)
        if self._own_cursor is not None:
            return await self._read_own_pending(connection)
        if time.monotonic() >= self._autoclaim_at:
            claimed = await self._claim_abandoned(connection)
            if claimed:
                return claimed
        block_s = max(0.001, min(_BLOCK_S, self._autoclaim_at - time.monotonic()))
        return await self._read_group(connection, b">", block_s=block_s)

    def mark_done(self, position: bytes) -> None:
        """Keep it, to be acknowledged along with the next exchange."""
        self._unacknowledged.append(position)

    def on_disconnect(self) -> None:
        """See anew what is ours: nobody knows what the lost replies gave us."""
        self._own_cursor = b"0"

    async def renew(self, connection: Connection, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Acknowledge, and show that what is held is being worked on; leave out what is not ours.

        A loop body may take long: without this, a fellow would take over what waits behind it.
        """
        pending = await self._list_own_pending(connection, [entry.position for entry in held])
        if pending:
            await self._acknowledge_and_send(connection, self._claim_command(pending, "JUSTID"))
        pending_positions = set(pending)
        return [entry for entry in held if entry.position in pending_positions]

    async def release(self, connection: Connection, held: Sequence[bytes]) -> None:
        """Acknowledge, and let the others take over at once what is left."""
        pending = await self._list_own_pending(connection, held)
        if pending:
            idle_ms = round(self._options.claim_after_s * 1000)
            await self._acknowledge_and_send(
                connection, self._claim_command(pending, "IDLE", idle_ms, "JUSTID")
            )

    async def delete_consumer(self, connection: Connection) -> None:
        """Have the group forget this consumer, unless something is still its own."""
        group_key = (self._stream, self._group)
        _, pending = await self._acknowledge_and_send(
            connection, ("XPENDING", *group_key, "-", "+", 1, self._consumer)
        )
        if not pending:
            await connection.exchange(("XGROUP", "DELCONSUMER", *group_key, self._consumer))

    async def _create_group(self, connection: Connection) -> None:
        """Make the group, and the stream, unless they are there."""
        command = ("XGROUP", "CREATE", self._stream, self._group, self._since, "MKSTREAM")
        (reply,) = await connection.exchange(command)
        if not str(reply).startswith("BUSYGROUP"):
            _raise_on_error(reply)
        self._has_group, self._own_cursor = True, b"0"
        if self._since == "$":
            self._since = "0"  # a group that has to be made again: rather twice than never

    async def _read_own_pending(self, connection: Connection) -> list[StreamEntry]:
        entries = await self._read_group(connection, self._own_cursor or b"0")
        self._own_cursor = entries[-1].position if entries else None
        return entries

    async def _claim_abandoned(self, connection: Connection) -> list[StreamEntry]:
        idle_ms = round(self._options.claim_after_s * 1000)
        command = (
            "XAUTOCLAIM",
            self._stream,
            self._group,
            self._consumer,
            idle_ms,
            self._autoclaim_cursor,
        )
        _, reply = await self._acknowledge_and_send(
            connection, (*command, "COUNT", self._options.prefetch)
        )
        cursor, entries, *_ = reply
        self._autoclaim_cursor = cursor
        if cursor == b"0-0":
            self._autoclaim_at = time.monotonic() + self._options.claim_after_s / 2
        return [StreamEntry(*entry) for entry in entries if entry is not None]

    async def _read_group(
        self, connection: Connection, after: bytes, *, block_s: float = 0.0
    ) -> list[StreamEntry]:
        command: list[str | bytes | int] = ["XREADGROUP", "GROUP", self._group, self._consumer]
        command += ["COUNT", self._options.prefetch]
        command += ["BLOCK", round(block_s * 1000)] if block_s else []
        command += ["STREAMS", self._stream, after]
        _, reply = await self._acknowledge_and_send(connection, command, block_s=block_s)
        return parse_entries(reply)

    async def _list_own_pending(self, connection: Connection, held: Sequence[bytes]) -> list[bytes]:
        """Acknowledge what is done, and give what of the held is still pending as ours."""
        first, last = (held[0], held[-1]) if held else ("-", "-")
        count = max(1, len(held))
        command = ("XPENDING", self._stream, self._group, first, last, count, self._consumer)
        _, reply = await self._acknowledge_and_send(connection, command)
        return [pending[0] for pending in reply]

    def _claim_command(self, positions: Iterable[bytes], *options: str | int) -> Command:
        consumer_key = (self._stream, self._group, self._consumer)
        return ("XCLAIM", *consumer_key, 0, *positions, *options)

    async def _acknowledge_and_send(
        self, connection: Connection, command: Command, *, block_s: float = 0.0
    ) -> list[Any]:
        """Acknowledge what is done and send one command, in one round trip."""
        acknowledged = tuple(self._unacknowledged)
        acknowledge_command: Command = (
            "XACK",
            self._stream,
            self._group,
            *(acknowledged or (b"0-0",)),
        )
        acknowledge_reply, reply = await connection.exchange(
            acknowledge_command, command, block_s=block_s
        )
        if isinstance(reply, ResponseError) and str(reply).startswith("NOGROUP"):
            self._has_group = False  # somebody removed the group or the stream: it is made anew
            raise GroupMissing from None
        replies = [_raise_on_error(acknowledge_reply), _raise_on_error(reply)]
        del self._unacknowledged[: len(acknowledged)]
        return replies


class GroupMissing(Exception):
    """The group was gone."""


def parse_entries(reply: Any) -> list[StreamEntry]:
    """List the entries of an XREAD reply, as RESP2 or RESP3 has it."""
    if not reply:
        return []
    entries_by_stream = (
        reply.values()
        if isinstance(reply, dict)
        else [stream_entries for _, stream_entries in reply]
    )
    return [StreamEntry(*entry) for entries in entries_by_stream for entry in entries]


def _raise_on_error(reply: object) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
