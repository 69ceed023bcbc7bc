"""How is a Redis client opened? By URL, and so that it never repeats a command by itself."""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
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
from redis.maint_notifications import MaintNotificationsConfig

from service.store.address import Address, read_address
from service.store.keys import Keys
from service.store.whereabouts import (
    FoundConnection,
    FoundTlsConnection,
    ask_by,
    find_by_sentinel,
    find_by_slot,
)

CONNECT_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 5.0
LOOK_EVERY_S = 1.0

# What redis-py raises when the server is away, as opposed to when we asked nonsense.
AWAY = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)

# ASK is not followed: nearly every act names a key that is not there yet, and while a slot moves,
# both sides answer TRYAGAIN to such an act. So it waits until the slot has moved.
_NOT_NOW = (
    *(ReadOnlyError, OutOfMemoryError),
    *(MovedError, AskError, TryAgainError, ClusterDownError),  # MASTERDOWN is a ClusterDownError
)
_NOT_NOW_CODES = ("MISCONF", "NOREPLICAS", "BUSY ", "READONLY", "OOM", "LOADING", "UNBLOCKED")


def open_client(
    url: str, *, namespace: str = "", reply_timeout_s: float = REPLY_TIMEOUT_S
) -> Redis:
    """Open a client on any address that :func:`read_address` takes; nothing is sent yet.

    A lost reply plus a silent retry is a duplicate (redis-py retries ten times by default),
    so the client never retries: every script is idempotent and we repeat it ourselves.
    In a Cluster it speaks with the master of ``namespace`` alone, where all of its keys are.
    """
    address = read_address(url)
    options: dict[str, Any] = {
        **parse_url(address.plain),
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": reply_timeout_s,
        "legacy_responses": False,
    }
    if address.kind != "server":
        options = _find_master(address, options, namespace=namespace)
    return Redis.from_pool(ConnectionPool(**options))


def _find_master(address: Address, options: dict[str, Any], *, namespace: str) -> dict[str, Any]:
    """Change the options so that each connection is opened to the master of the moment."""
    kind = options.pop("connection_class", Connection)
    to_ask = {name: value for name, value in options.items() if name != "host"}
    if address.kind == "sentinel":
        for of_the_master in ("db", "username", "password"):
            to_ask.pop(of_the_master, None)
        ask = ask_by(kind, **to_ask, **address.login)
        find = find_by_sentinel(address.places, service=address.service, ask=ask)
        options["look_every_s"] = LOOK_EVERY_S
    else:
        slot = key_slot(Keys(namespace).probe.encode())
        find = find_by_slot(address.places, slot=slot, ask=ask_by(kind, **to_ask))
    return options | {
        "connection_class": FoundTlsConnection if kind is SSLConnection else FoundConnection,
        "find": find,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),  # another finder
    }


async def leave(client: Redis) -> None:
    """Let idle connections go: whoever answered an error may be the master no more."""
    await client.connection_pool.disconnect(inuse_connections=False)


def is_not_now(error: ResponseError) -> bool:
    """Tell whether an error reply asks for patience (failing over, full) and not for a fix."""
    return isinstance(error, _NOT_NOW) or str(error).startswith(_NOT_NOW_CODES)


def is_bad_password(error: Exception) -> bool:
    """Tell whether the server is there and refuses who we are.

    While it connects, redis-py raises a ConnectionError whose cause is the refusal.
    """
    return isinstance(error, AuthenticationError) or isinstance(
        error.__cause__, AuthenticationError
    )


def describe_trouble(error: Exception) -> str:
    """Say what went wrong with Redis, and the fix where redis-py's words do not tell it."""
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, MovedError):
        return f"{told} (a Cluster: name it by redis+cluster:// and we follow our keys)"
    return told
