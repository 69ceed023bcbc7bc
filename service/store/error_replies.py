"""Error replies of a Redis server: their text, and whether a command is denied there."""

from redis.exceptions import ResponseError

_MAX_LENGTH = 160
# redis-py removes the code NOPERM.
_DENIED = ("no permissions", "unknown command", "not supported", "not allowed", "disabled")


def format_error(error: ResponseError) -> str:
    """Return an error reply as one short line."""
    return " ".join(str(error).split())[:_MAX_LENGTH].rstrip(".,: ")


def is_denied(error: ResponseError) -> bool:
    """Return whether the server lacks a command, or denies it to this user."""
    text = str(error).lower()
    return any(word in text for word in _DENIED)
