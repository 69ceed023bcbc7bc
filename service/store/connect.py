"""Redis connections: opened by URL, and set up so that they never repeat a command."""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from . import RedisMisconfigured, RedisUnavailable
from .discovery import (
    MasterConnection,
    MasterTlsConnection,
    cluster_discovery,
    node_query,
    sentinel_discovery,
)
from .durability import Barrier, SendCommand, choose_barrier
from .keys import Keys
from .server_checks import check_server, read_info
from .services import Durability, check_service, find_service
from .tcp_connection import IDLE_CHECK_S, TcpConnection, TlsConnection, keepalive_options
from .url import RedisUrl, parse_redis_url

_RESP2 = 2  # RESP3 needs HELLO, which some services lack, and gives us nothing

CONNECT_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 5.0
MASTER_CHECK_INTERVAL_S = 1.0

# What redis-py raises when the server is unavailable. An error reply is a ResponseError instead.
UNAVAILABLE_ERRORS = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)

# ASK is not followed: nearly every script names a key that does not exist yet. While a slot moves,
# both nodes answer TRYAGAIN to such a script. So it is repeated until the slot has moved.
_RETRYABLE_ERRORS = (
    *(ReadOnlyError, OutOfMemoryError),
    *(MovedError, AskError, TryAgainError, ClusterDownError),  # MASTERDOWN is a ClusterDownError
)
_REPLICA_ERROR = "with replica instances"  # WAIT and WAITAOF on a server that is no master
# The server answers, and refuses this command for now: a new connection would change nothing.
_REFUSALS = (OutOfMemoryError, TryAgainError)
_REFUSAL_CODES = ("OOM", "MISCONF", "NOREPLICAS", "BUSY ")
_RETRYABLE_CODES = ("MISCONF", "NOREPLICAS", "BUSY ", "READONLY", "OOM", "LOADING", "UNBLOCKED")


def open_client(
    url: str,
    *,
    namespace: str = "",
    reply_timeout_s: float = REPLY_TIMEOUT_S,
    idle_check_s: float = IDLE_CHECK_S,
) -> Redis:
    """Open a client for any URL that :func:`parse_redis_url` accepts, without sending anything.

    The client never retries, although redis-py retries ten times by default: a lost reply and a
    silent retry would run a command twice. GroupCommit repeats its idempotent scripts instead.
    In a Cluster, the client connects only to the master that holds the keys of ``namespace``.
    A TCP connection that was idle for ``idle_check_s`` is checked before it is used.
    """
    redis_url = parse_redis_url(url)
    options: dict[str, Any] = {
        "protocol": _RESP2,
        **parse_url(redis_url.server_url),
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": reply_timeout_s,
        "legacy_responses": False,
    }
    connection_class = options.pop("connection_class", TcpConnection)
    if connection_class is not UnixDomainSocketConnection:
        connection_class = TlsConnection if connection_class is SSLConnection else TcpConnection
        options = {
            "health_check_interval": idle_check_s,
            "socket_keepalive": True,
            "socket_keepalive_options": keepalive_options(),
            **options,
        }
    options["connection_class"] = connection_class
    if redis_url.kind != "server":
        options = _add_master_discovery(redis_url, options, namespace=namespace)
    return Redis.from_pool(ConnectionPool(**options))


def _add_master_discovery(
    redis_url: RedisUrl, options: dict[str, Any], *, namespace: str
) -> dict[str, Any]:
    """Return options with which each connection is opened to the current master."""
    connection_class = options.pop("connection_class")
    query_options = {name: value for name, value in options.items() if name != "host"}
    if redis_url.kind == "sentinel":
        for master_option in ("db", "username", "password"):
            query_options.pop(master_option, None)
        query = node_query(connection_class, **query_options, **redis_url.sentinel_login)
        find_master = sentinel_discovery(
            redis_url.seeds, master_name=redis_url.master_name, query=query
        )
        options["check_interval_s"] = MASTER_CHECK_INTERVAL_S
    else:
        slot = key_slot(Keys(namespace).write_probe.encode())
        find_master = cluster_discovery(
            redis_url.seeds, slot=slot, query=node_query(connection_class, **query_options)
        )
    return options | {
        "connection_class": MasterTlsConnection
        if connection_class is TlsConnection
        else MasterConnection,
        "find_master": find_master,
        "seed_hosts": tuple(seed.host for seed in redis_url.seeds),
    }


async def drop_idle_connections(client: Redis) -> None:
    """Close the idle connections: a server that replied with an error may not be master now."""
    await client.connection_pool.disconnect(inuse_connections=False)


def is_retryable(error: ResponseError) -> bool:
    """Return whether an error reply is temporary (failover, full memory) and needs no fix."""
    return isinstance(error, _RETRYABLE_ERRORS) or str(error).startswith(_RETRYABLE_CODES)


def is_refusal(error: ResponseError) -> bool:
    """Return whether the server refused a command for now and executed nothing of it.

    Its memory or disk is full, too few replicas follow it, a slot moves, or it is busy.
    """
    return isinstance(error, _REFUSALS) or str(error).startswith(_REFUSAL_CODES)


def is_bad_password(error: Exception) -> bool:
    """Return whether the server is reachable and rejects the login.

    While connecting, redis-py raises a ConnectionError whose cause is the AuthenticationError.
    """
    return isinstance(error, AuthenticationError) or isinstance(
        error.__cause__, AuthenticationError
    )


def describe_error(error: Exception) -> str:
    """Return the text of a Redis error, with the fix where redis-py does not name it."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, MovedError):
        return f"{message} (a Cluster: use a redis+cluster:// URL)"
    return message


async def open_connection(
    client: Redis, durability: Durability
) -> tuple[AbstractConnection, Barrier | None, list[str]]:
    """Return a connection, the barrier that makes its writes durable, and warnings.

    Each connection is checked, because after a failover the server is another one with other
    settings. Raises RedisMisconfigured, RedisUnavailable or the errors of redis-py: an unchecked
    server must not be written to.
    """
    connection = await _get_connection(client)
    send_command = command_sender(connection)
    try:
        info = await read_info(send_command)
        service = find_service(list_hosts(connection), info)
        warnings = await check_server(send_command, durability, info)
        barrier = await choose_barrier(send_command, durability, service)
    except BaseException:
        await close_connection(client, connection)
        raise
    if service_warning := check_service(service, durability):
        warnings.append(service_warning)
    return connection, barrier, warnings


async def _get_connection(client: Redis) -> AbstractConnection:
    """Return a pooled connection. redis-py wraps the errors of discovery; unwrap our own."""
    try:
        connection: AbstractConnection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
    except RedisConnectionError as error:
        if isinstance(error.__cause__, RedisMisconfigured):
            raise error.__cause__ from None
        raise
    return connection


def command_sender(connection: AbstractConnection) -> SendCommand:
    """Return a function that sends one command on a connection and returns its reply.

    It raises RedisUnavailable for an error reply that will pass, ResponseError for any other.
    """

    async def send_command(*command: str | int | bytes) -> object:
        await connection.send_command(*command)
        try:
            return await connection.read_response()
        except ResponseError as error:
            if is_retryable(error) or _REPLICA_ERROR in str(error):
                raise RedisUnavailable(describe_error(error)) from None
            raise

    return send_command


def list_hosts(connection: AbstractConnection) -> list[str]:
    """Return the names of a server: its own, and those in the URL that led to it."""
    hosts = (getattr(connection, "host", ""), *getattr(connection, "seed_hosts", ()))
    return [str(host) for host in hosts if host]


async def close_connection(client: Redis, connection: AbstractConnection) -> None:
    """Close a connection at once, even during an exchange."""
    await connection.disconnect(nowait=True)
    await client.connection_pool.release(connection)
