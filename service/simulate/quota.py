"""May this call be made, and what do the rate-limit headers say? Times are epoch milliseconds.

LaunchDarkly limits calls in families, each with a fixed window: global (the account), route (one
URL pattern and verb), access token, and source address. A call needs room in all of them. Headers
as in the API overview, section "Rate limiting"; both Reset headers are epoch milliseconds.
"""

from collections.abc import Mapping
from email.utils import formatdate
from typing import Annotated, Literal, TypeAlias, assert_never

import msgspec

Family: TypeAlias = Literal["global", "route", "token", "address"]
Limit = Annotated[int, msgspec.Meta(ge=0)]

_FAR = 24 * 60 * 60 * 1000


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many calls a window allows, and how openly the headers say so."""

    global_limit: Limit | None = None
    """Calls of the whole account in one window; none: unlimited, and its headers are absent."""
    route_limit: Limit | None = None
    """Calls of each route in one window."""
    token_limit: Limit | None = None
    """Calls with the access token in one window."""
    address_limit: Limit | None = None
    """Calls from one source address in one window; its 429 says nothing but Retry-After."""
    window_ms: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Length of every window."""
    aligned_to: Literal["clock", "first_call"] = "clock"
    """Windows begin at multiples of their length, or with the first call after the last one."""
    competing_per_window: Limit = 0
    """Calls that other programs of the account make in each global window, evenly spread."""
    send_limit: bool = True
    """Send the -Limit headers."""
    send_remaining: bool = True
    """Send the -Remaining headers."""
    reset: Literal["normal", "past", "far", "malformed", "absent"] = "normal"
    """What the -Reset headers say: the truth, a past time, a day ahead, no number, nothing."""
    retry_after: Literal["absent", "seconds", "date"] = "absent"
    """Whether each 429 carries Retry-After, and in which form."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One window of one family: when it opened, our calls in it, and those of others."""

    opened_at: int
    used: int = 0
    others: int = 0


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """One family's window as it stands after a call."""

    family: Family
    key: str
    limit: int
    window: Window

    @property
    def remaining(self) -> int:
        """How many more calls this window allows."""
        return max(0, self.limit - self.window.used - self.window.others)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls what: the route (verb and URL pattern) and the source address."""

    route: str
    address: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the call is granted, which families refuse it, and how each now stands."""

    refusing: tuple[Count, ...]
    counts: tuple[Count, ...]

    @property
    def granted(self) -> bool:
        """No family refuses."""
        return not self.refusing


def decide_call(
    windows: Mapping[str, Window], caller: Caller, limits: Limits, now: int
) -> Decision:
    """Weigh one call against every family. A refused call uses nothing up."""
    before = tuple(_list_counts(windows, caller, limits, now))
    refusing = tuple(count for count in before if count.remaining == 0)
    if refusing:
        return Decision(refusing=refusing, counts=before)
    return Decision(refusing=(), counts=tuple(_use_one(count) for count in before))


def write_headers(decision: Decision, limits: Limits, now: int) -> dict[str, str]:
    """Write the headers that tell a caller how it stands, and on a refusal when to come back."""
    headers: dict[str, str] = {}
    for count in decision.counts:
        headers |= _write_family(count, limits, now)
    if decision.refusing:
        ends = max(count.window.opened_at for count in decision.refusing) + limits.window_ms
        by_address = any(count.family == "address" for count in decision.refusing)
        headers |= _write_retry_after(ends, now, limits.retry_after, required=by_address)
    return headers


def _list_counts(
    windows: Mapping[str, Window], caller: Caller, limits: Limits, now: int
) -> list[Count]:
    families: tuple[tuple[Family, str, int | None], ...] = (
        ("global", "global", limits.global_limit),
        ("route", f"route {caller.route}", limits.route_limit),
        ("token", "token", limits.token_limit),
        ("address", f"address {caller.address}", limits.address_limit),
    )
    counts = []
    for family, key, limit in families:
        if limit is not None:
            window = _roll_window(windows.get(key), limits, now)
            count = Count(family=family, key=key, limit=limit, window=window)
            counts.append(_add_others(count, limits, now) if family == "global" else count)
    return counts


def _roll_window(window: Window | None, limits: Limits, now: int) -> Window:
    if window is not None and window.opened_at <= now < window.opened_at + limits.window_ms:
        return window
    match limits.aligned_to:
        case "clock":
            return Window(opened_at=now - now % limits.window_ms)
        case "first_call":
            return Window(opened_at=now)
        case _:
            assert_never(limits.aligned_to)


def _add_others(count: Count, limits: Limits, now: int) -> Count:
    elapsed = now - count.window.opened_at
    wanted = limits.competing_per_window * elapsed // limits.window_ms
    others = max(count.window.others, min(wanted, count.limit - count.window.used))
    return msgspec.structs.replace(
        count, window=msgspec.structs.replace(count.window, others=others)
    )


def _use_one(count: Count) -> Count:
    window = msgspec.structs.replace(count.window, used=count.window.used + 1)
    return msgspec.structs.replace(count, window=window)


def _write_family(count: Count, limits: Limits, now: int) -> dict[str, str]:
    match count.family:
        case "global":
            name, reset = "X-Ratelimit-Global", "X-Ratelimit-Reset"
        case "route":
            name, reset = "X-Ratelimit-Route", "X-Ratelimit-Reset"
        case "token":
            name, reset = "X-Ratelimit-Auth-Token", "X-Ratelimit-Auth-Token-Reset"
        case "address":
            return {}
        case _:
            assert_never(count.family)
    headers = {}
    if limits.send_limit:
        headers[f"{name}-Limit"] = str(count.limit)
    if limits.send_remaining:
        headers[f"{name}-Remaining"] = str(count.remaining)
    value = _write_reset(count.window.opened_at + limits.window_ms, limits, now)
    return headers if value is None else headers | {reset: value}


def _write_reset(ends: int, limits: Limits, now: int) -> str | None:
    match limits.reset:
        case "normal":
            return str(ends)
        case "past":
            return str(now - limits.window_ms)
        case "far":
            return str(now + _FAR)
        case "malformed":
            return "soon"
        case "absent":
            return None
        case _:
            assert_never(limits.reset)


def _write_retry_after(
    ends: int, now: int, form: Literal["absent", "seconds", "date"], *, required: bool
) -> dict[str, str]:
    seconds = -(-(ends - now) // 1000)
    match form:
        case "date":
            return {"Retry-After": formatdate(-(-ends // 1000), usegmt=True)}
        case "seconds":
            return {"Retry-After": str(seconds)}
        case "absent":
            return {"Retry-After": str(seconds)} if required else {}
        case _:
            assert_never(form)
