"""Entries of the output stream as the service writes them."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from service.cli.tail import StreamEntryText

MakeEntry = Callable[..., StreamEntryText]


@pytest.fixture
def make_entry() -> MakeEntry:
    """Make entries as we publish them; ``flags`` are keys, other words change the fields."""

    def build(*, flags: tuple[str, ...] = ("dark-mode",), **changes: str) -> StreamEntryText:
        fields = {
            "id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11:2",
            "subject": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "environmentkey": "production",
            "applicationkey": "billing-service",
            "revision": "2",
            "data": msgspec.json.encode(_record_data(flags)).decode(),
        }
        return StreamEntryText(position="1800000000000-0", fields=fields | changes)

    return build


def _record_data(flags: tuple[str, ...]) -> dict[str, Any]:
    """Write the data of a record that touches these flags."""
    return {
        "schemaVersion": 1,
        "revision": 2,
        "enrichedAt": 1,
        "attempts": 1,
        "deployment": {"id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
        "summary": {
            "authors": ["ada"],
            "pullRequests": [{"number": "1", "title": None, "author": None, "url": None}],
            "flags": [{"project": "p", "key": key, "added": 1, "removed": 0} for key in flags],
            "leadTimeMs": 5_400_000,
            "stages": [],
            "slowestStage": None,
        },
        "completeness": {
            "complete": True,
            "pullRequests": {"expected": 1, "present": 1},
            "flagReferences": {"expected": None, "present": 1},
            "nested": {"expected": 0, "present": 0},
        },
        "event": {
            "source": "native",
            "delivery": "d",
            "receivedAt": 1,
            "outcome": "finished",
            "eventTime": None,
            "metadata": None,
        },
    }
