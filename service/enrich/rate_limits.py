"""Rate limits as the headers of a LaunchDarkly response report them.

LaunchDarkly enforces limits in families; "a response can include one, several, or none of these
headers" (https://launchdarkly.com/docs/api#rate-limiting). Both Reset headers are epoch
milliseconds. Any header may be missing, in the past or malformed.

A gateway in front may announce a limit with the IETF's fields instead
(draft-ietf-httpapi-ratelimit-headers). They are the family ``policy``, in each form that the draft
has had: ``RateLimit: "default";r=50;t=30`` with ``RateLimit-Policy: "default";q=100;w=60``,
``RateLimit: limit=100, remaining=50, reset=30``, and ``RateLimit-Limit``, ``-Remaining`` and
``-Reset``. Their times are seconds from the response.

A number of seconds from 1e9 on is an epoch, from 1e12 on in milliseconds: some servers send one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache

from msgspec import Struct

from service.enrich.structured_fields import BareItem, parse_dictionary, parse_list

HeaderValues = Mapping[str, Sequence[str]]
"""The values of each header that is read here, by its name in lower case."""

_GLOBAL, _ROUTE, _TOKEN = "x-ratelimit-global", "x-ratelimit-route", "x-ratelimit-auth-token"
_POLICY_NAMES = frozenset(
    {"ratelimit", "ratelimit-limit", "ratelimit-policy", "ratelimit-remaining", "ratelimit-reset"}
)
_NAMES = _POLICY_NAMES | {
    "date",
    "retry-after",
    "x-ratelimit-reset",
    f"{_TOKEN}-reset",
    *(f"{prefix}-limit" for prefix in (_GLOBAL, _ROUTE, _TOKEN)),
    *(f"{prefix}-remaining" for prefix in (_GLOBAL, _ROUTE, _TOKEN)),
}
_MAX_DIGITS = 15
_MIN_EPOCH_S, _MIN_EPOCH_MS = 10**9, 10**12


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


def parse_rate_limits(
    headers: Iterable[tuple[str, str]], *, route: str, now_ms: int
) -> RateLimitHeaders:
    """Parse the rate-limit headers of the response to a call of ``route``.

    ``headers`` are the names and values of all headers. ``now_ms`` (epoch) stands in for a missing
    Date header when Retry-After is a date.
    """
    values = _select_headers(headers)
    date_ms = _parse_first_date(values.get("date", ()))
    reset_ms = _to_epoch_ms(_largest(values.get("x-ratelimit-reset")))
    token_reset_ms = _to_epoch_ms(_largest(values.get(f"{_TOKEN}-reset")))
    policy = _parse_policy(values, date_ms or now_ms)
    windows = (
        _parse_window("global", values, _GLOBAL, reset_ms),
        _parse_window(f"route:{route}", values, _ROUTE, reset_ms),
        _parse_window("token", values, _TOKEN, token_reset_ms),
        None if policy is None else _policy_window(policy, date_ms or now_ms),
    )
    waits_ms = _parse_retry_after(values.get("retry-after", ()), date_ms or now_ms)
    if policy is not None and policy.remaining == 0 and policy.wait_ms is not None:
        waits_ms.append(policy.wait_ms)
    return RateLimitHeaders(
        windows=tuple([window for window in windows if window is not None]),
        retry_after_ms=max(waits_ms, default=None),
        resume_at_ms=_resume_time(*windows[:3], reset_ms=reset_ms, token_reset_ms=token_reset_ms),
        date_ms=date_ms,
    )


def _select_headers(headers: Iterable[tuple[str, str]]) -> HeaderValues:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        lower_name = name.lower()
        if lower_name in _NAMES:
            values.setdefault(lower_name, []).append(value)
    return values


def _parse_window(
    family: str, values: HeaderValues, prefix: str, reset_ms: int | None
) -> RateLimitWindow | None:
    remaining = _smallest(values.get(f"{prefix}-remaining"))
    if remaining is None:
        return None
    limit = _largest(values.get(f"{prefix}-limit"))
    return RateLimitWindow(
        family=family, limit=limit or None, remaining=remaining, reset_ms=reset_ms
    )


class _Policy(Struct, frozen=True):
    """One limit in the IETF's fields: calls left, the limit, and ms until its window ends."""

    remaining: int
    limit: int | None
    wait_ms: int | None


def _policy_window(policy: _Policy, now_ms: int) -> RateLimitWindow:
    """Return the window of a policy. It ends a second late: Date and seconds are rounded."""
    reset_ms = None if policy.wait_ms is None else now_ms + policy.wait_ms + 1000
    return RateLimitWindow(
        family="policy", limit=policy.limit, remaining=policy.remaining, reset_ms=reset_ms
    )


def _parse_policy(values: HeaderValues, now_ms: int) -> _Policy | None:
    """Return the limit with the fewest calls left, in the newest form that the response has."""
    if _POLICY_NAMES.isdisjoint(values):
        return None
    text = ", ".join(values.get("ratelimit", ()))
    if text:
        policies = list(_parse_policy_items(text, values, now_ms))
        members = {} if policies else parse_dictionary(text)
        parts = [
            members[name].value if name in members else None
            for name in ("remaining", "limit", "reset")
        ]
    else:
        policies = []
        parts = [
            _smallest(values.get("ratelimit-remaining")),
            _largest(values.get("ratelimit-limit")),
            _largest(values.get("ratelimit-reset")),
        ]
    policies += _build_policy(*parts, now_ms=now_ms)
    return min(
        policies, key=lambda policy: (policy.remaining, -(policy.wait_ms or 0)), default=None
    )


def _parse_policy_items(text: str, values: HeaderValues, now_ms: int) -> Iterator[_Policy]:
    """Yield the limits of the newest form; a limit on bytes or on concurrency is left out."""
    policies = {
        item.value: item.parameters
        for item in parse_list(", ".join(values.get("ratelimit-policy", ())))
    }
    for item in parse_list(text):
        policy = policies.get(item.value, {})
        if policy.get("qu", "requests") == "requests":
            remaining, wait = (item.parameters.get(name) for name in ("r", "t"))
            yield from _build_policy(remaining, policy.get("q"), wait, now_ms=now_ms)


def _build_policy(
    remaining: BareItem | None, limit: BareItem | None, wait: BareItem | None, *, now_ms: int
) -> Iterator[_Policy]:
    """Yield the limit, unless the calls left are unknown."""
    count, seconds = _to_count(remaining), _to_count(wait)
    if count is not None:
        wait_ms = None if seconds is None else max(0, _to_wait_ms(seconds, now_ms))
        yield _Policy(count, _to_count(limit) or None, wait_ms)


def _to_count(value: BareItem | None) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value


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
    if reset_ms is not None:
        windows = (global_window, route_window)
        remaining = [window.remaining for window in windows if window is not None]
        if not remaining or 0 in remaining:
            resets.append(reset_ms)
    if token_reset_ms is not None and (token_window is None or token_window.remaining == 0):
        resets.append(token_reset_ms)
    return max(resets, default=None)


def _parse_retry_after(values: Sequence[str], now_ms: int) -> list[int]:
    """Parse each value, seconds or an HTTP date (RFC 9110), to ms from now."""
    waits_ms = []
    for value in values:
        seconds = _parse_number(value)
        date_ms = _parse_first_date([value]) if seconds is None else None
        if seconds is not None and (wait_ms := _to_wait_ms(seconds, now_ms)) >= 0:
            waits_ms.append(wait_ms)
        elif date_ms is not None and date_ms > now_ms:
            waits_ms.append(date_ms - now_ms)
    return waits_ms


def _to_wait_ms(seconds: int, now_ms: int) -> int:
    """Return ms from now (negative: in the past) for a number of seconds or an epoch."""
    epoch_ms = _to_epoch_ms(seconds) if seconds >= _MIN_EPOCH_S else None
    return seconds * 1000 if epoch_ms is None else epoch_ms - now_ms


def _to_epoch_ms(epoch: int | None) -> int | None:
    """Return an epoch in ms; a value that can only be seconds is converted."""
    if epoch is not None and _MIN_EPOCH_S <= epoch < _MIN_EPOCH_MS:
        return epoch * 1000
    return epoch


def _parse_first_date(values: Sequence[str]) -> int | None:
    for value in values:
        date_ms = _parse_date(value)
        if date_ms is not None:
            return date_ms
    return None


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
    if text.isdigit() and text.isascii() and len(text) <= _MAX_DIGITS:
        return int(text)
    return None


def _parse_numbers(values: Sequence[str]) -> list[int]:
    if len(values) == 1 and (number := _parse_number(values[0])) is not None:
        return [number]
    parts = [part for value in values for part in value.split(",")]
    return [number for number in map(_parse_number, parts) if number is not None]


def _largest(values: Sequence[str] | None) -> int | None:
    return max(_parse_numbers(values), default=None) if values else None


def _smallest(values: Sequence[str] | None) -> int | None:
    return min(_parse_numbers(values), default=None) if values else None
