"""What do an answer's headers say about the budget?

LaunchDarkly enforces limits in families; "a response can include one, several, or none of these
headers" (API docs, "Rate limiting"). Both Reset headers are epoch milliseconds. Any of them may
be missing, in the past or malformed.
"""

from collections.abc import Callable, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache

from msgspec import Struct

ReadHeader = Callable[[str], Sequence[str]]
"""Give every value of one header, none when it is absent."""

_LONGEST_NUMBER = 15


class Window(Struct, frozen=True):
    """What one family says: calls left, of how many, until when (the server's epoch ms)."""

    family: str
    limit: int | None
    left: int
    reset_ms: int | None


class Hints(Struct, frozen=True):
    """All that one answer says of the budget; times are ms, the server's where they are moments."""

    windows: tuple[Window, ...] = ()
    retry_after_ms: int | None = None
    resume_at_ms: int | None = None
    date_ms: int | None = None


def read_hints(read: ReadHeader, *, route: str, now_ms: int) -> Hints:
    """Read the hints of one answer to a call of ``route``.

    ``now_ms`` (epoch) stands in for a missing Date header when Retry-After is a date.
    """
    reset = _largest(read("X-Ratelimit-Reset"))
    token_reset = _largest(read("X-Ratelimit-Auth-Token-Reset"))
    families = (
        _window("global", read, "X-Ratelimit-Global", reset),
        _window(f"route:{route}", read, "X-Ratelimit-Route", reset),
        _window("token", read, "X-Ratelimit-Auth-Token", token_reset),
    )
    date_ms = _read_date(read("Date"))
    return Hints(
        windows=tuple(window for window in families if window is not None),
        retry_after_ms=_read_retry_after(read("Retry-After"), date_ms or now_ms),
        resume_at_ms=_find_resumption(*families, reset=reset, token_reset=token_reset),
        date_ms=date_ms,
    )


def _window(family: str, read: ReadHeader, prefix: str, reset: int | None) -> Window | None:
    left = _smallest(read(f"{prefix}-Remaining"))
    if left is None:
        return None
    limit = _largest(read(f"{prefix}-Limit"))
    return Window(family=family, limit=limit or None, left=left, reset_ms=reset)


def _find_resumption(
    shared: Window | None,
    route: Window | None,
    token: Window | None,
    *,
    reset: int | None,
    token_reset: int | None,
) -> int | None:
    """Find when a refused call may be made again: the latest reset of what is used up.

    As LaunchDarkly's own newest client reads it: a Reset counts when its Remaining is 0 or unknown
    (find-code-references-in-pull-request, internal/ldclient/retry.go).
    """
    moments = []
    lefts = [window.left for window in (shared, route) if window is not None]
    if reset is not None and (not lefts or 0 in lefts):
        moments.append(reset)
    if token_reset is not None and (token is None or token.left == 0):
        moments.append(token_reset)
    return max(moments, default=None)


def _read_retry_after(values: Sequence[str], now_ms: int) -> int | None:
    """Read seconds or an HTTP date (RFC 9110) as ms from now; the longest of several."""
    waits = []
    for value in values:
        seconds = _number(value)
        moment = _read_date([value]) if seconds is None else None
        if seconds is not None:
            waits.append(seconds * 1000)
        elif moment is not None and moment > now_ms:
            waits.append(moment - now_ms)
    return max(waits, default=None)


def _read_date(values: Sequence[str]) -> int | None:
    moments = (_parse_date(value) for value in values)
    return next((moment for moment in moments if moment is not None), None)


@lru_cache(maxsize=64)  # many answers carry the Date of one second
def _parse_date(value: str) -> int | None:
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None


def _number(text: str) -> int | None:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER:
        return int(text)
    return None


def _numbers(values: Sequence[str]) -> list[int]:
    if not values:
        return []
    parts = (part for value in values for part in value.split(","))
    return [number for number in map(_number, parts) if number is not None]


def _largest(values: Sequence[str]) -> int | None:
    return max(_numbers(values), default=None)


def _smallest(values: Sequence[str]) -> int | None:
    return min(_numbers(values), default=None)
