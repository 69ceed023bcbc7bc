"""Reader options, and where a reader's entries come from: the whole stream or a group."""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Protocol

from msgspec import Struct
from redis.exceptions import ResponseError

from ..store.exchange import Command
from .connection import Connection
from .entry import InvalidEntry, StreamEntry

_BLOCK_S = 5.0


class ReaderOptions(Struct, frozen=True, kw_only=True):
    """The options of a reader.

    ``prefetch``: the most records per fetch. ``recent_ids``: how many ids it remembers to skip
    duplicates; at least the last half of them. ``claim_after_s``: after so many idle seconds a
    consumer of the group counts as dead and others claim its records. Make this longer than the
    slowest loop body. ``on_invalid_entry`` is called with each entry that is not a record, which is
    then skipped; without it the reader raises. ``on_unavailable`` is called with the error once per
    outage of Redis.
    """

    prefetch: int = 100
    claim_after_s: float = 60.0
    recent_ids: int = 10_000
    on_invalid_entry: Callable[[InvalidEntry], None] | None = None
    on_unavailable: Callable[[Exception], None] | None = None


class EntrySource(Protocol):
    """Where a reader fetches entries, and what it reports about them."""

    async def fetch(self, connection: Connection) -> list[StreamEntry]:
        """Return the next entries; none when no entry came in time."""

    def mark_done(self, position: bytes) -> None:
        """Record that an entry was read completely."""

    def on_disconnect(self) -> None:
        """Discard what was fetched: the connection was closed."""

    async def renew(self, connection: Connection, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Return those of the held entries that still belong to this reader."""

    async def release(self, connection: Connection, held: Sequence[bytes]) -> None:
        """Return the held entries to the source and stop."""


class PlainConsumer:
    """Reads the whole stream from a position on, without a group."""

    def __init__(self, stream: str, *, since: str, options: ReaderOptions) -> None:
        self._stream = stream
        self._last_fetched = self._last_done = since
        self._options = options

    async def fetch(self, connection: Connection) -> list[StreamEntry]:
        """Return the entries after the last one fetched."""
        if self._last_fetched == "$":  # resolved once: a second `$` would skip entries
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
        """Advance the position from which reading resumes."""
        self._last_done = position.decode()

    def on_disconnect(self) -> None:
        """Resume after the last entry that was read completely."""
        self._last_fetched = self._last_done

    async def renew(self, _: Connection, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Return all of them: no other consumer can claim them."""
        return list(held)

    async def release(self, connection: Connection, held: Sequence[bytes]) -> None:
        """Do nothing: there is no group to release entries to."""


class GroupConsumer:
    """Reads as one consumer of a group, which delivers each entry to one of its consumers.

    ``since`` is where a new group begins; an existing group keeps its position.
    """

    def __init__(
        self, stream: str, group: str, *, consumer: str, since: str, options: ReaderOptions
    ) -> None:
        self._stream, self._group, self._consumer = stream, group, consumer
        self._since = since
        self._options = options
        self._has_group = False
        # Position in this consumer's own pending entries; None when all of them were fetched.
        self._own_cursor: bytes | None = None
        self._autoclaim_cursor: bytes = b"0-0"
        self._autoclaim_at = 0.0
        self._unacknowledged: list[bytes] = []

    async def fetch(self, connection: Connection) -> list[StreamEntry]:
        """Return own pending entries first, then those of dead consumers, then new entries."""
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
        """Queue the acknowledgement; the next exchange sends it."""
        self._unacknowledged.append(position)

    def on_disconnect(self) -> None:
        """Read the own pending entries again: a lost reply may have delivered some."""
        self._own_cursor = b"0"

    async def renew(self, connection: Connection, held: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Acknowledge, reset the idle time of the held entries, and return those still owned.

        Without this, another consumer would claim the prefetched entries during a slow loop body.
        """
        pending = await self._list_own_pending(connection, [entry.position for entry in held])
        if pending:
            await self._acknowledge_and_send(connection, self._claim_command(pending, "JUSTID"))
        pending_positions = set(pending)
        return [entry for entry in held if entry.position in pending_positions]

    async def release(self, connection: Connection, held: Sequence[bytes]) -> None:
        """Acknowledge, and make the rest claimable by other consumers at once."""
        pending = await self._list_own_pending(connection, held)
        if pending:
            idle_ms = round(self._options.claim_after_s * 1000)
            await self._acknowledge_and_send(
                connection, self._claim_command(pending, "IDLE", idle_ms, "JUSTID")
            )

    async def delete_consumer(self, connection: Connection) -> None:
        """Delete this consumer from the group unless it still has pending entries."""
        group_key = (self._stream, self._group)
        _, pending = await self._acknowledge_and_send(
            connection, ("XPENDING", *group_key, "-", "+", 1, self._consumer)
        )
        if not pending:
            await connection.exchange(("XGROUP", "DELCONSUMER", *group_key, self._consumer))

    async def _create_group(self, connection: Connection) -> None:
        """Create the group, and the stream, unless they exist."""
        command = ("XGROUP", "CREATE", self._stream, self._group, self._since, "MKSTREAM")
        (reply,) = await connection.exchange(command)
        if not str(reply).startswith("BUSYGROUP"):
            _raise_on_error(reply)
        self._has_group, self._own_cursor = True, b"0"
        if self._since == "$":
            self._since = "0"  # if the group is deleted later, duplicates are better than gaps

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
        cursor, entries, *trimmed = reply
        self._autoclaim_cursor = cursor
        if cursor == b"0-0":
            self._autoclaim_at = time.monotonic() + self._options.claim_after_s / 2
        # Since Redis 7 the reply ends with those that were trimmed, older than the others.
        missing = [StreamEntry(position, None) for position in chain(*trimmed)]
        return missing + [StreamEntry(*entry) for entry in entries if entry is not None]

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
        """Acknowledge, and return which of the held positions this consumer still owns."""
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
        """Acknowledge and send one command in the same round trip; return both replies."""
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
            # The group or the stream was deleted: the next fetch creates both.
            self._has_group = False
            raise GroupMissing from None
        replies = [_raise_on_error(acknowledge_reply), _raise_on_error(reply)]
        del self._unacknowledged[: len(acknowledged)]
        return replies


class GroupMissing(Exception):
    """The group or the stream was deleted."""


def parse_entries(reply: Any) -> list[StreamEntry]:
    """Return the entries of an XREAD reply in the form of RESP2 or RESP3."""
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
