"""Tests of the view of a record."""

import json

import pytest

from service.console.timeline import view_from_record

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
