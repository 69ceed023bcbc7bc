"""Tests of the views of a record and of a failed ticket."""

import json

import pytest

from service.backlog.failures import FailedTicket, FailureRecord
from service.backlog.ticket import QueuedEvent
from service.console.timeline import format_raw, view_failed_events, view_from_record
from tests.factories import make_ticket

DATA = {
    "schemaVersion": 1,
    "revision": 2,
    "enrichedAt": 86_401_000,
    "attempts": 1,
    "deployment": {"id": "a"},
    "summary": {
        "authors": [],
        "pullRequests": [],
        "flags": [],
        "leadTimeMs": None,
        "stages": [],
        "slowestStage": None,
    },
    "completeness": {
        "complete": True,
        "pullRequests": {"expected": 0, "present": 0},
        "flagReferences": {"expected": 0, "present": 0},
        "nested": {"expected": 0, "present": 0},
    },
    "event": {
        "source": "native",
        "delivery": "d",
        "receivedAt": 1000,
        "outcome": "succeeded",
        "eventTime": None,
        "metadata": None,
    },
}


@pytest.mark.parametrize(
    ("done", "took_ms", "note"), [(0, 86_401_000.0, ""), (3, None, "refresh 3")]
)
def test_view_from_record_of_a_refresh_has_no_duration(
    done: int, took_ms: float | None, note: str
) -> None:
    """A refresh runs on a schedule, so the time since the webhook says nothing."""
    data = json.dumps(DATA | {"refreshes": {"done": done, "until": None}})
    view = view_from_record("86402000-0", {b"subject": b"a", b"data": data.encode()})
    assert view.took_ms == took_ms
    assert [step.note for step in view.steps if step.name == "enriched"] == [note]


@pytest.mark.parametrize("revision", ["", "x", "-1", "²", "9" * 5000])
def test_view_from_record_with_a_foreign_revision_has_revision_0(revision: str) -> None:
    """Other writers may put anything into the stream."""
    view = view_from_record("1-0", {b"revision": revision.encode()})
    assert view.record is not None
    assert view.record.revision == 0


def test_view_of_a_failed_ticket_has_every_webhook_of_its_version() -> None:
    """One webhook is the ticket itself; of several, each is shown with its own times."""
    events = tuple(QueuedEvent(make_ticket(delivery=f"d{number}"), number) for number in (2, 1))
    failure = FailureRecord(reason="not_found", ticket=make_ticket())
    failed = FailedTicket(job="find:a/b/c/d", at_ms=9, digest="", failure=failure, events=events)
    views = view_failed_events(failed)
    assert [(view.delivery, view.steps[0].at_ms) for view in views] == [("d2", 2.0), ("d1", 1.0)]
    single = FailedTicket(
        job="find:a/b/c/d", at_ms=9, digest="", failure=failure, events=events[:1]
    )
    assert not view_failed_events(single)


def test_large_body_is_shown_as_received_and_cut() -> None:
    """Formatting 25 MiB would keep the console busy."""
    body = b'{"a":"' + b"x" * 1000 + b'"}'
    failure = FailureRecord(reason="unmappable", raw=body)
    assert format_raw(failure, max_chars=100) == (body[:100].decode(), True)
    text, is_cut = format_raw(failure, max_chars=2000)
    assert text.startswith('{\n  "a"')
    assert not is_cut
