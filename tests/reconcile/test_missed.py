"""Which of the listed are queued, and from where is listed next time?"""

import json

import pytest
from msgspec import Raw

from service.accept.filters import DeploymentFilter
from service.backlog.ticket import Lease, decode_lease
from service.enrich.models import DeploymentHead
from service.reconcile.missed import (
    Scope,
    TimeRange,
    build_missed,
    classify_page,
    next_checkpoint,
    split_by_day,
)

NOW = 1_795_428_000_000


def encode_items(*items: object) -> list[Raw]:
    """Write the items of a page."""
    return [Raw(json.dumps(item).encode()) for item in items]


def test_what_has_not_ended_for_a_while_is_left_to_its_webhook() -> None:
    """In progress, or just ended: open. A null is nothing, an item of another shape is counted."""
    sifted = classify_page(
        encode_items(
            {"id": "a", "status": "finished", "startedAt": 1, "endedAt": 100},
            {"id": "b", "status": "started", "startedAt": 50},
            {"id": "c", "status": "failed", "startedAt": 40, "endedAt": 201},
            {"id": "d", "status": "started", "startedAt": 1, "endedAt": 2},
            {"id": "e"},
            None,
            {"nothing": "known"},
        ),
        settled_before_ms=200,
    )
    assert [outline.id for outline in sifted.ended] == ["a", "d", "e"]
    assert (sifted.listed, sifted.still_open, sifted.unreadable, sifted.oldest_open_ms) == (
        6,
        2,
        1,
        40,
    )


@pytest.mark.parametrize(
    ("oldest_open", "expected"),
    [(None, NOW), (NOW - 5, NOW - 5), (NOW - 2000, NOW - 1000), (NOW + 5, NOW)],
)
def test_the_checkpoint_waits_for_what_is_open(oldest_open: int | None, expected: int) -> None:
    """But not for ever: an end that LaunchDarkly never hears of must not hold it."""
    assert next_checkpoint(NOW, oldest_open, lookback_ms=1000) == expected


@pytest.mark.parametrize(
    ("status", "outcome"), [("failed", "failed"), ("finished", "succeeded"), ("new", "succeeded")]
)
def test_what_was_missed_is_queued_as_a_webhook_would(status: str, outcome: str) -> None:
    """All that the list says is in its ticket, and when it was queued is left open."""
    outline = DeploymentHead(
        id="a",
        application_key="shop",
        application_version="1/0",
        status=status,
        started_at=NOW,
        ended_at=NOW + 9,
    )
    missed = build_missed(outline, Scope("default", "production"), DeploymentFilter())
    assert missed is not None
    assert (missed.deployment_id, missed.version_job) == ("a", "find:default/production/shop/1%2F0")
    lease = decode_lease(b"id:a", fence=b"1.5", stored=missed.ticket, now=NOW)
    assert isinstance(lease, Lease)
    ticket = lease.ticket
    assert (lease.queued_at, ticket.refresh, ticket.event_time) == (0, None, NOW + 9)
    assert (ticket.source, ticket.delivery, ticket.outcome) == ("reconcile", "a", outcome)
    assert (ticket.project, ticket.environment, ticket.application, ticket.version) == (
        *("default", "production"),
        *("shop", "1/0"),
    )


def test_a_span_is_split_into_days_without_a_gap() -> None:
    """Each begins where the one before ended; the last is as long as is left."""
    day = 86_400_000
    spans = list(split_by_day(TimeRange(5, 5 + 2 * day + 1)))
    assert spans == [
        TimeRange(5, 5 + day),
        TimeRange(5 + day, 5 + 2 * day),
        TimeRange(5 + 2 * day, 6 + 2 * day),
    ]
    assert list(split_by_day(TimeRange(5, 5))) == []
