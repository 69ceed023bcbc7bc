"""How does a person read what has failed? A line of a table, a page of facts, or JSON."""

import json
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from service.backlog.failed import Fate
from service.backlog.failure import Failed, read_aside
from service.backlog.ticket import Ticket
from service.log import make_printable
from service.operate.columns import GAP, Column, cut_text, pad_text

_COLUMNS = (
    Column("failed", 7, right=True),
    Column("reason", 16),
    Column("tries", 5, right=True),
    Column("source", 12),
    Column("application", 15),
)
_LAST = "job"
_LABEL = 13
_SHOWN = 4000  # characters of an answer or a body
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))

_FATES = {
    "queued": "is due now",
    "waits": "a newer ticket of the same job waits already: dropped",
    "left": "left",
    "gone": "is not among the failed, or has failed anew meanwhile",
    "dropped": "dropped",
}


def write_failed_header() -> str:
    """Give the titles."""
    return GAP.join([*(pad_text(each.title, each) for each in _COLUMNS), _LAST])


def write_failed(failed: Failed, *, now_ms: float) -> str:
    """Tell one of the failed in one line; its job stands last and whole, to be copied."""
    ticket = failed.failure.ticket if failed.failure else None
    cells = (
        write_age((now_ms - failed.at_ms) / 1000),
        failed.reason,
        str(ticket.attempts + 1) if ticket else "-",
        failed.source or "?",
        failed.application or "?",
    )
    row = [pad_text(make_printable(cell), each) for cell, each in zip(cells, _COLUMNS, strict=True)]
    return GAP.join([*row, make_printable(failed.job)])


def write_failed_json(failed: Failed, *, whole: bool = False) -> str:
    """Give one of the failed as a line of JSON; ``whole``: with the answer or the body."""
    failure = failed.failure
    told: dict[str, object] = {
        "job": failed.job,
        "failedAt": _write_time(failed.at_ms),
        "reason": failed.reason,
        "detail": failure.detail if failure else "",
        "source": failed.source or None,
        "application": failed.application or None,
        "attempts": failure.ticket.attempts + 1 if failure and failure.ticket else None,
    }
    if failure and whole:
        told["ticket"] = _describe_ticket(failure.ticket) if failure.ticket else None
        told["raw"] = failure.raw.decode("utf-8", "replace")
        told["rawCut"] = failure.raw_cut
    return msgspec.json.encode(told).decode()


def write_page(failed: Failed, *, now_ms: float) -> str:
    """Tell all that is known of one, and how it is tried again."""
    return "".join(f"{make_printable(line)}\n" for line in _tell_page(failed, now_ms))


def write_fate(fate: Fate, *, only_planned: bool = False) -> str:
    """Say what became of one, or what would."""
    told = _FATES[fate.fate]
    if only_planned:
        told = {"queued": "would be due now", "dropped": "would be dropped"}.get(fate.fate, told)
    if fate.detail:
        told += f" as {fate.detail}" if fate.fate == "queued" else f": {fate.detail}"
    return make_printable(f"{fate.job}: {told}")


def write_age(seconds: float) -> str:
    """Give an age in its largest unit."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _tell_page(failed: Failed, now_ms: float) -> Iterator[str]:
    failure = failed.failure
    yield _row("job", failed.job)
    age = write_age((now_ms - failed.at_ms) / 1000)
    yield _row("failed", f"{_write_time(failed.at_ms)}, {age} ago")
    yield _row("reason", failed.reason)
    aside = read_aside(failed.job)
    if failure is not None:
        if failure.detail:
            yield _row("detail", failure.detail)
        if failure.ticket is not None:
            yield from _tell_ticket(failure.ticket)
        elif aside is not None:
            yield _row("source", aside[0])
            yield _row("delivery", aside[1])
        yield from _tell_raw(failure.raw, cut=failure.raw_cut, label="body" if aside else "answer")
    yield ""
    if aside is not None:
        yield f"Once the source {aside[0]!r} is mended, it is read again by"
    else:
        yield "It is tried again, as if it had just come, by"
    yield f"  deployment-enricher failed retry {shlex.quote(failed.job)}"


def _tell_ticket(ticket: Ticket) -> Iterator[str]:
    yield _row("attempts", str(ticket.attempts + 1))
    for name, value in _describe_ticket(ticket).items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield _row(name, text)


def _describe_ticket(ticket: Ticket) -> dict[str, object]:
    """Give what the webhook said."""
    event_time = ticket.event_time
    return {
        "source": ticket.source,
        "delivery": ticket.delivery,
        "outcome": ticket.outcome,
        "project": ticket.project,
        "environment": ticket.environment,
        "application": ticket.application,
        "version": ticket.version,
        "deployment": ticket.deployment_id,
        "eventTime": None if event_time is None else _write_time(event_time),
        "metadata": None if ticket.metadata is None else ticket.metadata.decode("utf-8", "replace"),
    }


def _tell_raw(raw: bytes, *, cut: bool, label: str) -> Iterator[str]:
    if not raw:
        return
    kept = ", of which no more was kept" if cut else ""
    yield _row(label, f"{len(raw)} bytes{kept}")
    text = raw.decode("utf-8", "replace")
    for line in text[:_SHOWN].splitlines():
        yield f"  {line}"
    if len(text) > _SHOWN:
        yield f"  .. cut here: `failed show --json` gives all {len(text)} characters"


def _write_time(ms: float) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):  # a sender may say anything
        return f"{ms:.0f} ms"


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{cut_text(text, _SHOWN)}"
