"""How are findings told? A line each for a person, or one JSON object."""

import textwrap
from collections import Counter
from collections.abc import Sequence

import msgspec

from service.log import escape_unprintable
from service.operate.doctor.finding import Finding

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
