"""Commands and replies on one raw connection, without redis-py's own handling of either.

redis-py opens the connection and logs in. Its way to send and to read starts a task for each
command and awaits four coroutines for each reply. Here a batch of replies needs one read.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from msgspec import Raw
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

Command = Sequence[str | bytes | int | float]
Buffer = bytes | Raw | memoryview

_PIECE_BYTES = 1 << 18
_READ_BYTES = 1 << 18

# The client may be installed without hiredis; then redis-py encodes, several times slower.
_PACK_COMMAND: Callable[[Command], bytes] | None = (
    import_module("hiredis").pack_command if find_spec("hiredis") else None
)


class _ReplyReader(Protocol):
    """The reader of hiredis: it is fed bytes, and returns the replies that they hold."""

    def feed(self, received: bytes, /) -> None: ...

    def gets(self) -> object: ...


def encode_commands(connection: AbstractConnection, commands: Sequence[Command]) -> Sequence[bytes]:
    """Return the bytes of commands, in order; several commands may share one element."""
    if _PACK_COMMAND is None:
        return connection.pack_commands(commands)
    return [_PACK_COMMAND(tuple(command)) for command in commands]


async def exchange(
    connection: AbstractConnection, encoded_commands: Sequence[Buffer], *, replies: int
) -> list[object]:
    """Send encoded commands and return that number of replies; the caller sets the timeout.

    Large commands are sent in pieces, so that the event loop neither copies them as a whole nor
    waits for them. The server's error for one command is its reply, so that the other replies are
    not lost. Raise RedisConnectionError or OSError if the connection fails.

    An error or a cancellation closes the connection: the next exchange would read the replies
    that this one has not read.
    """
    try:
        await _send(connection, encoded_commands)
        return await _read_replies(connection, replies)
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


async def _send(connection: AbstractConnection, buffers: Sequence[Buffer]) -> None:
    writer = connection._writer  # noqa: SLF001 - redis-py's own stream, which it does not publish
    if writer is None:
        raise RedisConnectionError("The connection is closed.")
    for piece in cut_pieces(buffers, _PIECE_BYTES):
        writer.write(b"".join(piece))
        await writer.drain()


async def _read_replies(connection: AbstractConnection, count: int) -> list[object]:
    stream, parser = connection._reader, connection._parser  # noqa: SLF001 - as above
    if stream is None or not isinstance(parser, _AsyncHiredisParser):
        return [await _read_reply(connection) for _ in range(count)]
    reader = cast("_ReplyReader", parser._reader)  # noqa: SLF001 - as above
    replies: list[object] = []
    while len(replies) < count:
        reply = reader.gets()
        if reply is NOT_ENOUGH_DATA:
            received = await stream.read(_READ_BYTES)
            if not received:
                raise RedisConnectionError("Redis closed the connection.")
            reader.feed(received)
        elif isinstance(reply, RedisConnectionError):  # the server is loading, or logged us out
            raise reply
        else:
            replies.append(reply)
    now = asyncio.get_running_loop().time()
    connection.next_health_check = now + connection.health_check_interval
    return replies


async def _read_reply(connection: AbstractConnection) -> object:
    """Read one reply as redis-py does, which has a slow parser of its own without hiredis."""
    try:
        return await connection.read_response(timeout=math.inf, disconnect_on_error=True)
    except ResponseError as error:
        return error


def cut_pieces(buffers: Sequence[Buffer], piece_bytes: int) -> Iterator[Sequence[Buffer]]:
    """Yield the buffers in groups of at most ``piece_bytes``; a larger buffer is cut."""
    views = [memoryview(buffer) for buffer in buffers]
    if sum([view.nbytes for view in views]) <= piece_bytes:
        yield buffers
        return
    piece: list[Buffer] = []
    room = piece_bytes
    for view in views:
        rest = view
        while rest.nbytes > room:
            yield [*piece, rest[:room]]
            rest, piece, room = rest[room:], [], piece_bytes
        piece.append(rest)
        room -= rest.nbytes
    yield piece


def decode_text(value: object) -> str:
    """Return a Redis reply as text; bytes that are not UTF-8 become replacement characters."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
