"""What is a finding? One check, how it went, what was found, and the fix where there is one."""

from typing import Literal

from msgspec import Struct

Status = Literal["ok", "warning", "failure"]

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


class Finding(Struct, frozen=True, kw_only=True):
    """One check. A warning should be looked at, a failure must be mended."""

    check: str
    status: Status
    found: str
    fix: str = ""


def find_well(check: str, found: str) -> Finding:
    """Say that a check went well."""
    return Finding(check=check, status="ok", found=found)


def find_odd(check: str, found: str, fix: str) -> Finding:
    """Say what should be looked at."""
    return Finding(check=check, status="warning", found=found, fix=fix)


def find_wrong(check: str, found: str, fix: str) -> Finding:
    """Say what must be mended."""
    return Finding(check=check, status="failure", found=found, fix=fix)


def split_advice(text: str) -> tuple[str, str]:
    """Part a sentence of ours into what is so and what to do about it."""
    for sign in (". ", ": "):
        found, parted, fix = text.partition(sign)
        if parted:
            return found, fix
    return text, ""


def judge_clock(check: str, ahead_s: float | None, *, whose: str, blur_s: float) -> Finding:
    """Judge how far another clock is ahead of ours; less than ``blur_s`` cannot be told."""
    if ahead_s is None:
        return find_odd(check, f"{whose} tells no time", "")
    told = f"{whose} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
    if abs(ahead_s) <= blur_s:
        return find_well(check, f"{whose} agrees with ours")
    fix = "let both machines set their clocks by NTP"
    # Signatures older than five minutes are refused; we speak up long before.
    return (find_wrong if abs(ahead_s) > 60 else find_odd)(check, told, fix)  # noqa: PLR2004 - a minute


def write_span(seconds: float) -> str:
    """Give a span of time in its largest unit."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(0.0, seconds):.1f} s"
