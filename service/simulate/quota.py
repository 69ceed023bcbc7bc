"""Rate-limit windows and the rate-limit headers. Times are epoch milliseconds.

LaunchDarkly limits calls in families, each with a fixed window: global (the account), route (one
URL pattern and verb), access token, and source address. Every family must allow a call. The headers
follow the API overview, section "Rate limiting"; both Reset headers are epoch milliseconds.
"""

from collections.abc import Mapping, Sequence
from email.utils import formatdate
from typing import Annotated, Literal, TypeAlias, assert_never

import msgspec

Family: TypeAlias = Literal["global", "route", "token", "address"]
Limit = Annotated[int, msgspec.Meta(ge=0)]

_DAY_MS = 24 * 60 * 60 * 1000


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The calls that each window allows, and the headers that report them."""

    global_limit: Limit | None = None
    """Calls of the whole account in one window. None: no limit and no headers."""
    route_limit: Limit | None = None
    """Calls of each route in one window."""
    token_limit: Limit | None = None
    """Calls with the access token in one window."""
    address_limit: Limit | None = None
    """Calls from one source address in one window. Its 429 has only Retry-After."""
    window_ms: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Length of every window."""
    aligned_to: Literal["clock", "first_call"] = "clock"
    """`clock`: windows begin at multiples of their length. `first_call`: a window begins with the
    first call after the previous window."""
    competing_per_window: Limit = 0
    """Calls of other programs of the account in each global window, evenly spread."""
    send_limit: bool = True
    """Send the -Limit headers."""
    send_remaining: bool = True
    """Send the -Remaining headers."""
    reset: Literal["normal", "past", "far", "malformed", "absent"] = "normal"
    """Content of the -Reset headers: the correct time, a past time, one day ahead, no number, or
    no header."""
    ietf_fields: bool = False
    """Send `RateLimit` and `RateLimit-Policy` of the IETF draft instead of the X-Ratelimit headers.
    `send_limit`, `send_remaining` and `reset` do not apply."""
    retry_after: Literal["absent", "seconds", "date"] = "absent"
    """Whether each 429 has Retry-After, and in which form."""


class QuotaWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One window of one family: its start, the calls in it, and those of competing programs."""

    opened_at: int
    used: int = 0
    used_by_others: int = 0


class FamilyUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The window of one family after a call."""

    family: Family
    key: str
    limit: int
    window: QuotaWindow

    @property
    def remaining(self) -> int:
        """The calls that this window still allows."""
        return max(0, self.limit - self.window.used - self.window.used_by_others)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The route of a call (verb and URL pattern) and its source address."""

    route: str
    address: str


class QuotaDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The families that refuse a call, and the usage of every family after it."""

    exhausted: tuple[FamilyUsage, ...]
    usages: tuple[FamilyUsage, ...]

    @property
    def granted(self) -> bool:
        """Whether no family refuses the call."""
        return not self.exhausted


def decide_call(
    windows: Mapping[str, QuotaWindow], caller: Caller, limits: Limits, now: int
) -> QuotaDecision:
    """Check one call against every family. A refused call consumes nothing."""
    usages = tuple(_list_usages(windows, caller, limits, now))
    exhausted = tuple(usage for usage in usages if usage.remaining == 0)
    if exhausted:
        return QuotaDecision(exhausted=exhausted, usages=usages)
    return QuotaDecision(exhausted=(), usages=tuple(_record_call(usage) for usage in usages))


def rate_limit_headers(decision: QuotaDecision, limits: Limits, now: int) -> dict[str, str]:
    """Return the rate-limit headers, and Retry-After for a refused call."""
    headers: dict[str, str] = {}
    if limits.ietf_fields:
        headers |= _ietf_fields(decision.usages, limits, now)
    else:
        for usage in decision.usages:
            headers |= _family_headers(usage, limits, now)
    if decision.exhausted:
        window_end = max(usage.window.opened_at for usage in decision.exhausted) + limits.window_ms
        address_exhausted = any(usage.family == "address" for usage in decision.exhausted)
        headers |= _retry_after_header(
            window_end, now, limits.retry_after, required=address_exhausted
        )
    return headers


def _list_usages(
    windows: Mapping[str, QuotaWindow], caller: Caller, limits: Limits, now: int
) -> list[FamilyUsage]:
    families: tuple[tuple[Family, str, int | None], ...] = (
        ("global", "global", limits.global_limit),
        ("route", f"route {caller.route}", limits.route_limit),
        ("token", "token", limits.token_limit),
        ("address", f"address {caller.address}", limits.address_limit),
    )
    usages = []
    for family, key, limit in families:
        if limit is not None:
            window = _current_window(windows.get(key), limits, now)
            usage = FamilyUsage(family=family, key=key, limit=limit, window=window)
            usages.append(_add_competing_calls(usage, limits, now) if family == "global" else usage)
    return usages


def _current_window(window: QuotaWindow | None, limits: Limits, now: int) -> QuotaWindow:
    if window is not None and window.opened_at <= now < window.opened_at + limits.window_ms:
        return window
    match limits.aligned_to:
        case "clock":
            return QuotaWindow(opened_at=now - now % limits.window_ms)
        case "first_call":
            return QuotaWindow(opened_at=now)
        case _:
            assert_never(limits.aligned_to)


def _add_competing_calls(usage: FamilyUsage, limits: Limits, now: int) -> FamilyUsage:
    elapsed = now - usage.window.opened_at
    competing_calls = limits.competing_per_window * elapsed // limits.window_ms
    used_by_others = max(
        usage.window.used_by_others, min(competing_calls, usage.limit - usage.window.used)
    )
    return msgspec.structs.replace(
        usage, window=msgspec.structs.replace(usage.window, used_by_others=used_by_others)
    )


def _record_call(usage: FamilyUsage) -> FamilyUsage:
    window = msgspec.structs.replace(usage.window, used=usage.window.used + 1)
    return msgspec.structs.replace(usage, window=window)


def _ietf_fields(usages: Sequence[FamilyUsage], limits: Limits, now: int) -> dict[str, str]:
    """Return the fields of draft-ietf-httpapi-ratelimit-headers, with one item for each family."""
    window_s = -(-limits.window_ms // 1000)
    policies, quotas = [], []
    for usage in usages:
        wait_s = -(-(usage.window.opened_at + limits.window_ms - now) // 1000)
        policies.append(f'"{usage.family}";q={usage.limit};w={window_s}')
        quotas.append(f'"{usage.family}";r={usage.remaining};t={wait_s}')
    if not quotas:
        return {}
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(quotas)}


def _family_headers(usage: FamilyUsage, limits: Limits, now: int) -> dict[str, str]:
    match usage.family:
        case "global":
            prefix, reset_header = "X-Ratelimit-Global", "X-Ratelimit-Reset"
        case "route":
            prefix, reset_header = "X-Ratelimit-Route", "X-Ratelimit-Reset"
        case "token":
            prefix, reset_header = "X-Ratelimit-Auth-Token", "X-Ratelimit-Auth-Token-Reset"
        case "address":
            return {}
        case _:
            assert_never(usage.family)
    headers = {}
    if limits.send_limit:
        headers[f"{prefix}-Limit"] = str(usage.limit)
    if limits.send_remaining:
        headers[f"{prefix}-Remaining"] = str(usage.remaining)
    value = _reset_value(usage.window.opened_at + limits.window_ms, limits, now)
    return headers if value is None else headers | {reset_header: value}


def _reset_value(window_end: int, limits: Limits, now: int) -> str | None:
    match limits.reset:
        case "normal":
            return str(window_end)
        case "past":
            return str(now - limits.window_ms)
        case "far":
            return str(now + _DAY_MS)
        case "malformed":
            return "soon"
        case "absent":
            return None
        case _:
            assert_never(limits.reset)


def _retry_after_header(
    window_end: int, now: int, form: Literal["absent", "seconds", "date"], *, required: bool
) -> dict[str, str]:
    seconds = -(-(window_end - now) // 1000)
    match form:
        case "date":
            return {"Retry-After": formatdate(-(-window_end // 1000), usegmt=True)}
        case "seconds":
            return {"Retry-After": str(seconds)}
        case "absent":
            return {"Retry-After": str(seconds)} if required else {}
        case _:
            assert_never(form)
