"""TCP connections: keepalive, a check after an idle time, and servers that lack SELECT.

A load balancer, a NAT gateway or a firewall forgets a connection that was idle for some minutes
(AWS: 350 s, Azure: 240 s), and many close it without telling either side. What is sent on it
then vanishes. Keepalive packets stop most of them from forgetting. The check finds the rest.
"""

import asyncio
import socket

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from . import RedisMisconfigured
from .error_replies import format_error

IDLE_CHECK_S = 30.0
"""A connection that received nothing for this long is checked before it is used."""

PING_TIMEOUT_S = 1.0
_SELECT_ERRORS = ("select", "db index")

_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 30, 10, 3


def keepalive_options() -> dict[int, int]:
    """Return the options of TCP keepalive that this platform has, for ``setsockopt``.

    After 30 s without data the kernel sends a probe every 10 s; after 3 without an answer the
    connection is broken. macOS calls the idle time TCP_KEEPALIVE.
    """
    values = {
        "TCP_KEEPIDLE": _KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": _KEEPALIVE_INTERVAL_S,
        "TCP_KEEPCNT": _KEEPALIVE_PROBES,
    }
    if not hasattr(socket, "TCP_KEEPIDLE"):
        values["TCP_KEEPALIVE"] = values.pop("TCP_KEEPIDLE")
    return {getattr(socket, name): value for name, value in values.items() if hasattr(socket, name)}


async def is_alive(connection: AbstractConnection) -> bool:
    """Return whether a connection may be used: it was used lately, or answers a PING in time."""
    interval_s = connection.health_check_interval
    if not interval_s or asyncio.get_running_loop().time() <= connection.next_health_check:
        return True
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await connection.send_command("PING", check_health=False)
            await connection.read_response()
    except ResponseError:  # PING is not allowed, but something answers
        return True
    except (RedisError, OSError, TimeoutError):
        return False
    return True


class TcpConnection(Connection):
    """A TCP connection that is opened again if it was idle and is dead when a command is sent.

    redis-py's own check waits for the reply timeout, and then raises.
    """

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[no-untyped-call] # redis-py
        # redis-py would check a new connection too.
        now = asyncio.get_running_loop().time()
        self.next_health_check = now + self.health_check_interval

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in and set up the connection. Raises the errors of redis-py."""
        try:
            await super().on_connect_check_health(check_health=check_health)
        except ResponseError as error:
            if self.db and any(message in str(error).lower() for message in _SELECT_ERRORS):
                refusal = _explain_select(self.db, error)
                raise RedisConnectionError(str(refusal)) from refusal  # redis-py passes this on
            raise

    async def check_health(self) -> None:
        """Check the connection if it was idle. Raises the errors of opening a new one."""
        if not await is_alive(self):
            await self.disconnect(nowait=True)
            await self.connect()  # type: ignore[no-untyped-call] # redis-py


def _explain_select(database: int | str, error: ResponseError) -> RedisMisconfigured:
    return RedisMisconfigured(
        f"Redis has no database {database}, which ENRICHER_REDIS_URL names "
        f"({format_error(error)}). Remove it from the URL, so that database 0 is used."
    )


class TlsConnection(TcpConnection, SSLConnection):
    """A TLS connection that is opened again if it was idle and is dead when a command is sent."""
