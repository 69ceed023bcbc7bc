"""Failed tickets as text: a table row, a JSON line, a page of details, the result of a retry."""

import json
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from service.backlog.failed_tickets import RetryResult
from service.backlog.failures import (
    MIN_SHOWN_EVENTS,
    FailedTicket,
    FailureRecord,
    parse_parked_job,
)
from service.backlog.ticket import QueuedEvent, Ticket
from service.cli.terminal import COLUMN_GAP, Column, pad_text, truncate_text
from service.console.format import format_age
from service.log import escape_unprintable

_FAILED_COLUMNS = (
    Column("failed", 7, align_right=True),
    Column("reason", 16),
    Column("tries", 5, align_right=True),
    Column("source", 12),
    Column("application", 15),
)
_JOB_TITLE = "job"
_LABEL_WIDTH = 13
_EVENT_FIELDS = ("receivedAt", "source", "delivery", "outcome", "eventTime")
_MAX_SHOWN_CHARACTERS = 4000  # of a response or a body

_RETRY_RESULT_TEXTS = {
    "queued": "is due now",
    "superseded": "a newer ticket of the same job is in the backlog: dropped",
    "skipped": "skipped",
    "gone": "has not failed, or has failed again meanwhile",
    "dropped": "dropped",
}


def render_failed_header() -> str:
    """Return the line of titles."""
    return COLUMN_GAP.join(
        [*(pad_text(column.title, column) for column in _FAILED_COLUMNS), _JOB_TITLE]
    )


def render_failed_row(failed: FailedTicket, *, now_ms: float) -> str:
    """Return a failed ticket as one line; its job comes last and uncut, to be copied."""
    ticket = failed.failure.ticket if failed.failure else None
    cells = (
        format_age((now_ms - failed.at_ms) / 1000),
        failed.reason,
        str(ticket.attempts + 1) if ticket else "-",
        failed.source or "?",
        failed.application or "?",
    )
    row = [
        pad_text(escape_unprintable(cell), column)
        for cell, column in zip(cells, _FAILED_COLUMNS, strict=True)
    ]
    return COLUMN_GAP.join([*row, escape_unprintable(failed.job)])


def render_failed_json(failed: FailedTicket, *, is_whole: bool = False) -> str:
    """Return a failed ticket as a line of JSON.

    The whole ticket has what the webhooks reported, and the raw response or body.
    """
    failure = failed.failure
    document: dict[str, object] = {
        "job": failed.job,
        "failedAt": _format_time(failed.at_ms),
        "reason": failed.reason,
        "detail": failure.detail if failure else "",
        "source": failed.source or None,
        "application": failed.application or None,
        "attempts": failure.ticket.attempts + 1 if failure and failure.ticket else None,
    }
    if failure and is_whole:
        document["ticket"] = _ticket_fields(failure.ticket) if failure.ticket else None
        document["events"] = [_event_fields(event) for event in failed.events]
        document["raw"] = failure.raw.decode("utf-8", "replace")
        document["rawCut"] = failure.raw_cut
    return msgspec.json.encode(document).decode()


def render_failed_details(failed: FailedTicket, *, now_ms: float) -> str:
    """Return everything known of a failed ticket, and the command that retries it."""
    return "".join(f"{escape_unprintable(line)}\n" for line in _format_details(failed, now_ms))


def render_retry_result(result: RetryResult, *, is_dry_run: bool = False) -> str:
    """Return one line for a ticket that was retried or dropped, or would be."""
    text = _RETRY_RESULT_TEXTS[result.status]
    if is_dry_run:
        text = {"queued": "would be due now", "dropped": "would be dropped"}.get(
            result.status, text
        )
    if result.detail:
        text += f" as {result.detail}" if result.status == "queued" else f": {result.detail}"
    return escape_unprintable(f"{result.job}: {text}")


def _format_details(failed: FailedTicket, now_ms: float) -> Iterator[str]:
    failure = failed.failure
    yield _format_labelled_line("job", failed.job)
    age = format_age((now_ms - failed.at_ms) / 1000)
    yield _format_labelled_line("failed", f"{_format_time(failed.at_ms)}, {age} ago")
    yield _format_labelled_line("reason", failed.reason)
    parked_job = parse_parked_job(failed.job)
    if failure is not None:
        if failure.detail:
            yield _format_labelled_line("detail", failure.detail)
        if failure.ticket is not None:
            yield from _format_ticket(failure.ticket)
            yield from _format_events(failed.events)
        elif parked_job is not None:
            yield _format_labelled_line("source", parked_job[0])
            yield _format_labelled_line("delivery", parked_job[1])
        yield from _format_raw(failure, label="body" if parked_job else "response")
    yield ""
    if parked_job is not None:
        yield f"Once the source {parked_job[0]!r} is corrected, map the event again with"
    else:
        yield "Try again, as if the webhook had just arrived, with"
    yield f"  deployment-enricher failed retry {shlex.quote(failed.job)}"


def _format_ticket(ticket: Ticket) -> Iterator[str]:
    yield _format_labelled_line("attempts", str(ticket.attempts + 1))
    for name, value in _ticket_fields(ticket).items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield _format_labelled_line(name, text)


def _ticket_fields(ticket: Ticket) -> dict[str, object]:
    """Return what the webhook reported."""
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
        "eventTime": None if event_time is None else _format_time(event_time),
        "metadata": None if ticket.metadata is None else ticket.metadata.decode("utf-8", "replace"),
    }


def _event_fields(event: QueuedEvent) -> dict[str, object]:
    """Return what one of several webhooks of a version reported, and when it arrived."""
    return {"receivedAt": _format_time(event.queued_at), **_ticket_fields(event.ticket)}


def _format_events(events: Sequence[QueuedEvent]) -> Iterator[str]:
    """Return the fields in which several webhooks of a version may differ, a line each."""
    if len(events) < MIN_SHOWN_EVENTS:
        return
    yield _format_labelled_line("webhooks", f"{len(events)} of this version; a retry queues all")
    for event in events:
        fields = _event_fields(event)
        parts = [f"{name} {fields[name]}" for name in _EVENT_FIELDS if fields[name] is not None]
        yield f"  {', '.join(parts)}"


def _format_raw(failure: FailureRecord, *, label: str) -> Iterator[str]:
    if not failure.raw_size:
        return
    note = ", cut when stored" if failure.raw_cut else ""
    if not failure.raw:
        note = ", which cannot be read"
    yield _format_labelled_line(label, f"{failure.raw_size} bytes{note}")
    text = failure.raw.decode("utf-8", "replace")
    for line in text[:_MAX_SHOWN_CHARACTERS].splitlines():
        yield f"  {line}"
    if len(text) > _MAX_SHOWN_CHARACTERS:
        yield f"  .. cut here: `failed show --json` prints all {len(text)} characters"


def _format_time(time_ms: float) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):  # a sender may send any number
        return f"{time_ms:.0f} ms"


def _format_labelled_line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{truncate_text(text, _MAX_SHOWN_CHARACTERS)}"
