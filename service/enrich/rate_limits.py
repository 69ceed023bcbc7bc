"""Rate limits as the headers of a LaunchDarkly response report them.

LaunchDarkly enforces limits in families; "a response can include one, several, or none of these
headers" (https://launchdarkly.com/docs/api#rate-limiting). Both Reset headers are epoch
milliseconds. Any header may be missing, in the past or malformed.
"""

from collections.abc import Callable, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache

from msgspec import Struct

HeaderValues = Callable[[str], Sequence[str]]
"""Returns every value of one header, none when it is absent."""

_MAX_DIGITS = 15


class RateLimitWindow(Struct, frozen=True):
    """The window of one family: calls left, the limit, and its end (the server's epoch ms)."""

    family: str
    limit: int | None
    remaining: int
    reset_ms: int | None


class RateLimitHeaders(Struct, frozen=True):
    """All rate-limit facts of one response. Moments are epoch ms by the server's clock."""

    windows: tuple[RateLimitWindow, ...] = ()
    retry_after_ms: int | None = None
    resume_at_ms: int | None = None
    date_ms: int | None = None


def parse_rate_limits(header_values: HeaderValues, *, route: str, now_ms: int) -> RateLimitHeaders:
    """Parse the rate-limit headers of the response to a call of ``route``.

    ``now_ms`` (epoch) stands in for a missing Date header when Retry-After is a date.
    """
    reset_ms = _largest(header_values("X-Ratelimit-Reset"))
    token_reset_ms = _largest(header_values("X-Ratelimit-Auth-Token-Reset"))
    windows = (
        _parse_window("global", header_values, "X-Ratelimit-Global", reset_ms),
        _parse_window(f"route:{route}", header_values, "X-Ratelimit-Route", reset_ms),
        _parse_window("token", header_values, "X-Ratelimit-Auth-Token", token_reset_ms),
    )
    date_ms = _parse_first_date(header_values("Date"))
    return RateLimitHeaders(
        windows=tuple(window for window in windows if window is not None),
        retry_after_ms=_parse_retry_after(header_values("Retry-After"), date_ms or now_ms),
        resume_at_ms=_resume_time(*windows, reset_ms=reset_ms, token_reset_ms=token_reset_ms),
        date_ms=date_ms,
    )


def _parse_window(
    family: str, header_values: HeaderValues, prefix: str, reset_ms: int | None
) -> RateLimitWindow | None:
    remaining = _smallest(header_values(f"{prefix}-Remaining"))
    if remaining is None:
        return None
    limit = _largest(header_values(f"{prefix}-Limit"))
    return RateLimitWindow(
        family=family, limit=limit or None, remaining=remaining, reset_ms=reset_ms
    )


def _resume_time(
    global_window: RateLimitWindow | None,
    route_window: RateLimitWindow | None,
    token_window: RateLimitWindow | None,
    *,
    reset_ms: int | None,
    token_reset_ms: int | None,
) -> int | None:
    """Return when a refused call may be repeated: the latest reset of the used-up windows.

    A Reset counts when its Remaining is 0 or unknown, as in LaunchDarkly's own newest client
    (find-code-references-in-pull-request, internal/ldclient/retry.go).
    """
    resets = []
    remaining = [window.remaining for window in (global_window, route_window) if window is not None]
    if reset_ms is not None and (not remaining or 0 in remaining):
        resets.append(reset_ms)
    if token_reset_ms is not None and (token_window is None or token_window.remaining == 0):
        resets.append(token_reset_ms)
    return max(resets, default=None)


def _parse_retry_after(values: Sequence[str], now_ms: int) -> int | None:
    """Parse seconds or an HTTP date (RFC 9110) to ms from now; return the longest of several."""
    waits_ms = []
    for value in values:
        seconds = _parse_number(value)
        date_ms = _parse_first_date([value]) if seconds is None else None
        if seconds is not None:
            waits_ms.append(seconds * 1000)
        elif date_ms is not None and date_ms > now_ms:
            waits_ms.append(date_ms - now_ms)
    return max(waits_ms, default=None)


def _parse_first_date(values: Sequence[str]) -> int | None:
    dates = (_parse_date(value) for value in values)
    return next((date_ms for date_ms in dates if date_ms is not None), None)


@lru_cache(maxsize=64)  # many responses carry the Date of the same second
def _parse_date(value: str) -> int | None:
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return int(date.timestamp() * 1000)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None


def _parse_number(text: str) -> int | None:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    return None


def _parse_numbers(values: Sequence[str]) -> list[int]:
    if not values:
        return []
    parts = (part for value in values for part in value.split(","))
    return [number for number in map(_parse_number, parts) if number is not None]


def _largest(values: Sequence[str]) -> int | None:
    return max(_parse_numbers(values), default=None)


def _smallest(values: Sequence[str]) -> int | None:
    return min(_parse_numbers(values), default=None)
