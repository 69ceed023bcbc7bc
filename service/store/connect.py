"""How is a Redis client opened? By URL, and so that it never repeats a command by itself."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

CONNECT_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 5.0

# What redis-py raises when the server is away, as opposed to when we asked nonsense.
AWAY = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)

_NOT_NOW = (ReadOnlyError, OutOfMemoryError, TryAgainError, ClusterDownError)
_NOT_NOW_CODES = ("MISCONF", "NOREPLICAS", "BUSY ", "READONLY", "OOM", "LOADING", "UNBLOCKED")


def open_client(url: str, *, reply_timeout_s: float = REPLY_TIMEOUT_S) -> Redis:
    """Open a client on ``redis://``, ``rediss://`` or ``unix://``; nothing is sent yet.

    A lost reply plus a silent retry is a duplicate (redis-py retries ten times by default),
    so the client never retries: every script is idempotent and we repeat it ourselves.
    """
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=reply_timeout_s,
        legacy_responses=False,
    )


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
