"""How do commands and replies pass over one connection? Packed at once, several in a round trip.

hiredis packs in C what redis-py does in Python, and replies stay as they come.
"""

import math
from collections.abc import Sequence

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

Command = Sequence[str | bytes | int | float]


def encode_command(command: Command) -> bytes:
    """Give the bytes of a command; raises TypeError for what cannot be one."""
    encoded: bytes = pack_command(tuple(command))  # type: ignore[arg-type] # its stub knows too few
    return encoded


async def exchange(
    connection: AbstractConnection, encoded_commands: Sequence[bytes]
) -> list[object]:
    """Send packed commands, give their replies; a server's error for one of them is its reply.

    The caller says how long all of it may take.
    """
    await connection.send_packed_command(encoded_commands, check_health=False)
    return [await _read_reply(connection) for _ in encoded_commands]


async def _read_reply(connection: AbstractConnection) -> object:
    """Read one reply; a server's error for one command must not cost the others theirs."""
    try:
        return await connection.read_response(timeout=math.inf, disconnect_on_error=True)
    except ResponseError as error:
        return error
