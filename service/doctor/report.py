"""What is a finding? One check, how it went, what was found, and the fix where there is one."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from service.log import escape_unprintable

FindingStatus = Literal["ok", "warning", "failure"]

_SPAN_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


class Finding(Struct, frozen=True, kw_only=True):
    """One check. A warning should be looked at, a failure must be mended."""

    check: str
    status: FindingStatus
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """Say that a check went well."""
    return Finding(check=check, status="ok", found=found)


def warn(check: str, found: str, fix: str) -> Finding:
    """Say what should be looked at."""
    return Finding(check=check, status="warning", found=found, fix=fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """Say what must be mended."""
    return Finding(check=check, status="failure", found=found, fix=fix)


def split_fix(text: str) -> tuple[str, str]:
    """Part a sentence of ours into what is so and what to do about it."""
    for separator in (". ", ": "):
        found, has_fix, fix = text.partition(separator)
        if has_fix:
            return found, fix
    return text, ""


def check_clock(
    check: str, ahead_s: float | None, *, clock_name: str, tolerance_s: float
) -> Finding:
    """Judge how far another clock is ahead of ours; less than ``blur_s`` cannot be told."""
    if ahead_s is None:
        return warn(check, f"{clock_name} tells no time", "")
    found = f"{clock_name} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
    if abs(ahead_s) <= tolerance_s:
        return ok(check, f"{clock_name} agrees with ours")
    fix = "let both machines set their clocks by NTP"
    # Signatures older than five minutes are refused; we speak up long before.
    return (fail if abs(ahead_s) > 60 else warn)(check, found, fix)  # noqa: PLR2004 - a minute


def format_span(seconds: float) -> str:
    """Give a span of time in its largest unit."""
    for unit, unit_s in _SPAN_UNITS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{max(0.0, seconds):.1f} s"


_STATUS_LABELS = {"ok": "ok", "warning": "warn", "failure": "FAIL"}


def has_no_failure(findings: Sequence[Finding]) -> bool:
    """Tell whether nothing must be mended."""
    return all(finding.status != "failure" for finding in findings)


def format_findings(findings: Sequence[Finding], *, terminal_width: int) -> str:
    """Write them for a terminal of so many columns, and the count at the end."""
    check_width = max((len(finding.check) for finding in findings), default=0)
    lines = [
        line
        for finding in findings
        for line in _format_finding(finding, check_width, terminal_width)
    ]
    counts = Counter(finding.status for finding in findings)
    summary = f"{counts['failure']} to mend, {counts['warning']} to look at, {counts['ok']} well"
    return "".join(f"{line}\n" for line in (*lines, "", summary))


def format_findings_json(findings: Sequence[Finding]) -> str:
    """Write them for a program."""
    report = {"ok": has_no_failure(findings), "findings": findings}
    return f"{msgspec.json.encode(report).decode()}\n"


def _format_finding(finding: Finding, check_width: int, terminal_width: int) -> list[str]:
    first_indent = (
        f"{_STATUS_LABELS[finding.status]:<6}{escape_unprintable(finding.check):<{check_width}}  "
    )
    next_indent = " " * len(first_indent)
    lines = _wrap(finding.found, first_indent, next_indent, terminal_width)
    return lines + (
        _wrap(finding.fix, f"{next_indent}-> ", f"{next_indent}   ", terminal_width)
        if finding.fix
        else []
    )


def _wrap(text: str, first_indent: str, next_indent: str, terminal_width: int) -> list[str]:
    return textwrap.wrap(
        escape_unprintable(text),
        max(40, terminal_width),
        initial_indent=first_indent,
        subsequent_indent=next_indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
