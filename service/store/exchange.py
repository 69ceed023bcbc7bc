"""Commands and replies on one raw connection, without redis-py's own handling of either."""

import math
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec

from msgspec import Raw
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

Command = Sequence[str | bytes | int | float]
Buffer = bytes | Raw | memoryview

_PIECE_BYTES = 1 << 18

# The client may be installed without hiredis; then redis-py encodes, several times slower.
_PACK_COMMAND: Callable[[Command], bytes] | None = (
    import_module("hiredis").pack_command if find_spec("hiredis") else None
)


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
    not lost.
    """
    for piece in cut_pieces(encoded_commands, _PIECE_BYTES):
        await connection.send_packed_command(piece, check_health=False)  # type: ignore[arg-type] # it joins buffers of any type
    return [await _read_reply(connection) for _ in range(replies)]


async def _read_reply(connection: AbstractConnection) -> object:
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
