"""How are findings told? A line each for a person, or one JSON object."""

import textwrap
from collections import Counter
from collections.abc import Sequence

import msgspec

from service.log import make_printable
from service.operate.doctor.finding import Finding

_SIGNS = {"ok": "ok", "warning": "warn", "failure": "FAIL"}


def is_well(findings: Sequence[Finding]) -> bool:
    """Tell whether nothing must be mended."""
    return all(finding.status != "failure" for finding in findings)


def write_findings(findings: Sequence[Finding], *, columns: int) -> str:
    """Write them for a terminal of so many columns, and the count at the end."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines = [line for each in findings for line in _write_finding(each, width, columns)]
    counts = Counter(finding.status for finding in findings)
    told = f"{counts['failure']} to mend, {counts['warning']} to look at, {counts['ok']} well"
    return "".join(f"{line}\n" for line in (*lines, "", told))


def write_findings_json(findings: Sequence[Finding]) -> str:
    """Write them for a program."""
    told = {"ok": is_well(findings), "findings": findings}
    return f"{msgspec.json.encode(told).decode()}\n"


def _write_finding(finding: Finding, width: int, columns: int) -> list[str]:
    begin = f"{_SIGNS[finding.status]:<6}{make_printable(finding.check):<{width}}  "
    after = " " * len(begin)
    lines = _wrap(finding.found, begin, after, columns)
    return lines + (
        _wrap(finding.fix, f"{after}-> ", f"{after}   ", columns) if finding.fix else []
    )


def _wrap(text: str, begin: str, after: str, columns: int) -> list[str]:
    return textwrap.wrap(
        make_printable(text),
        max(40, columns),
        initial_indent=begin,
        subsequent_indent=after,
        break_long_words=False,
        break_on_hyphens=False,
    )
