"""Findings as text for a terminal, and as JSON."""

import textwrap
from collections import Counter
from collections.abc import Sequence

import msgspec

from service.doctor.checks import Finding
from service.log import escape_unprintable

_STATUS_LABELS = {"ok": "ok", "warning": "warn", "error": "ERROR"}


def has_no_error(findings: Sequence[Finding]) -> bool:
    """Return whether no finding is an error; warnings do not count."""
    return all(finding.status != "error" for finding in findings)


def format_findings(findings: Sequence[Finding], *, terminal_width: int) -> str:
    """Return the findings as lines for a terminal, with the counts in the last line."""
    check_width = max((len(finding.check) for finding in findings), default=0)
    lines = [
        line
        for finding in findings
        for line in _format_finding(finding, check_width, terminal_width)
    ]
    counts = Counter(finding.status for finding in findings)
    summary = ", ".join(
        (
            _format_count(counts["error"], "error"),
            _format_count(counts["warning"], "warning"),
            f"{counts['ok']} ok",
        )
    )
    return "".join(f"{line}\n" for line in (*lines, "", summary))


def format_findings_json(findings: Sequence[Finding]) -> str:
    """Return the findings as one line of JSON."""
    report = {"ok": has_no_error(findings), "findings": findings}
    return f"{msgspec.json.encode(report).decode()}\n"


def _format_count(count: int, noun: str) -> str:
    return f"{count} {noun if count == 1 else f'{noun}s'}"


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
