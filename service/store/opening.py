"""How is the connection for our acts opened? Looked at first: what can the server promise?"""

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from service.store.durability import Barrier, Durability, choose_barrier
from service.store.fitness import check_server


async def open_connection(
    client: Redis, durability: Durability
) -> tuple[AbstractConnection, Barrier | None, list[str]]:
    """Give a connection, what closes a group of durable writes on it, and what should be mended.

    After a failover the server is another one and promises other things, so each connection is
    looked at. Raises Refused, or redis's errors; an unknown server must not be written to.
    """
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call] # redis-py

    async def send_command(*command: str | int) -> object:
        await connection.send_command(*command)
        return await connection.read_response()

    try:
        warnings = await check_server(send_command, durability)
        return connection, await choose_barrier(send_command, durability), warnings
    except BaseException:
        await close_connection(client, connection)
        raise


async def close_connection(client: Redis, connection: AbstractConnection) -> None:
    """Cut a connection, whatever is under way on it."""
    await connection.disconnect(nowait=True)
    await client.connection_pool.release(connection)
