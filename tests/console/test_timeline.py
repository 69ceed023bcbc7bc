"""Tests of the views of a record and of a failed ticket."""

import json
from typing import Any

import pytest

from service.backlog.failures import FailedTicket, FailureRecord
from service.backlog.ticket import QueuedEvent
from service.console.timeline import (
    DeploymentView,
    Rollback,
    RollbackFinder,
    format_raw,
    view_failed_events,
    view_from_record,
    with_rollback,
)
from tests.factories import make_ticket

DATA: dict[str, Any] = {
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


def view_record(**fields: Any) -> DeploymentView:
    """Return the view of a record; ``fields`` replaces fields of its data."""
    data = DATA | fields
    subject = data["deployment"]["id"].encode()
    return view_from_record("86402000-0", {b"subject": subject, b"data": json.dumps(data).encode()})


def make_rollback(previous: str) -> dict[str, Any]:
    """Return the change of a deployment that rolled another one back."""
    return {
        "previous": {"deploymentId": previous, "version": "2", "endedAt": 1, "outcome": "failed"},
        "sincePreviousMs": 1,
        "redeployment": False,
        "rollback": True,
        "recovery": None,
    }


@pytest.mark.parametrize(
    ("event_type", "impact", "note"),
    [
        ("enabled_targeting", None, "turned on"),
        ("disabled_targeting", {"reason": "waiting"}, "turned off, impact not known yet"),
        (
            "updated_rules",
            {"percentage": 42, "size": "medium"},
            "Added a rule, impact 42 % (medium)",
        ),
        (None, {"percentage": 3.25}, "Added a rule, impact 3.25 %"),
        (None, {"percentage": "3"}, "Added a rule"),
    ],
)
def test_flag_events_are_steps_in_order_of_time(
    event_type: str | None, impact: object, note: str
) -> None:
    """They happened between the webhook and the refresh that found them."""
    event = {
        "flagKey": "dark-mode",
        "eventType": event_type,
        "eventTime": 2000,
        "description": "Added a rule",
        "impact": impact,
        "auditLogEntryId": None,
    }
    steps = view_record(flagEvents=[event]).steps
    assert [step.name for step in steps] == ["webhook", "flag dark-mode", "enriched", "record"]
    assert steps[1].note == note


def test_many_flag_events_do_not_hide_the_other_steps() -> None:
    """A flag that flips each second would fill the page."""
    event = {"flagKey": "a", "eventType": None, "eventTime": 2000, "description": None}
    steps = view_record(flagEvents=[event | {"impact": None, "auditLogEntryId": None}] * 99).steps
    assert len(steps) == 3 + 20


def test_rolled_back_deployment_names_the_one_that_rolled_it_back() -> None:
    """The last revision of the later one counts, in whatever order they are found."""
    view = view_record(deployment={"id": "bad"})
    later = {"id": "later", "applicationVersion": "1", "endedAt": 9}
    records = [
        view_record(deployment=later, revision=revision, change=make_rollback(previous))
        for revision, previous in ((1, "other"), (2, "bad"))
    ]
    for order in (records, records[::-1]):
        finder = RollbackFinder()
        finder.add([view, *order])
        rollbacks = finder.list_rollbacks()
        assert rollbacks == {"bad": Rollback("later", "1", 9.0)}
        marked = with_rollback(view, rollbacks).record
        assert marked is not None
        assert marked.rolled_back_by == rollbacks["bad"]
        assert with_rollback(records[0], rollbacks) == records[0]
