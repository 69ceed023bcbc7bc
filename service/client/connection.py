"""The raw Redis connection of a reader: several commands share one round trip.

redis-py's own client turns every reply into nested dicts, which costs more than reading the reply.
"""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from ..store.connect import REPLY_TIMEOUT_S, close_connection
from ..store.exchange import Command, encode_commands, exchange


class Connection:
    """One connection, opened on first use. An interrupted exchange closes it."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._connection: AbstractConnection | None = None

    async def exchange(self, *commands: Command, block_s: float = 0.0) -> list[object]:
        """Send the commands and return their replies; an error reply is returned, not raised.

        ``block_s`` is how long a blocking command may keep the server from replying (s).
        """
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S + block_s):
                connection = await self._get_connection()
                encoded = encode_commands(connection, commands)
                return await exchange(connection, encoded, replies=len(commands))
        except BaseException:
            await self.disconnect()
            raise

    async def disconnect(self) -> None:
        """Close the connection; the next exchange opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_connection(self._client, connection)

    async def _get_connection(self) -> AbstractConnection:
        if self._connection is None:
            pool = self._client.connection_pool
            self._connection = await pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
        await self._connection.check_health()  # opens a dead connection again
        return self._connection
