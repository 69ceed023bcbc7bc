"""Does the console tell of a record what it means?"""

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
    ("taken", "took_ms", "note"), [(0, 86_401_000.0, ""), (3, None, "at look 3")]
)
def test_a_record_of_a_look_did_not_take_since_its_webhook(
    taken: int, took_ms: float | None, note: str
) -> None:
    """It was looked for when that was planned: the time since the webhook says nothing."""
    data = json.dumps(DATA | {"refreshes": {"done": taken, "until": None}})
    seen = view_from_record("86402000-0", {b"subject": b"a", b"data": data.encode()})
    assert seen.took_ms == took_ms
    assert [step.note for step in seen.steps if step.name == "enriched"] == [note]


@pytest.mark.parametrize("revision", ["", "x", "-1", "²", "9" * 5000])
def test_an_entry_of_somebody_else_is_seen_all_the_same(revision: str) -> None:
    """Whatever stands where our revision would."""
    sighting = view_from_record("1-0", {b"revision": revision.encode()})
    assert sighting.record is not None
    assert sighting.record.revision == 0
