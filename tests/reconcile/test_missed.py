"""Tests of missed deployments: which listed ones are queued, and the next checkpoint."""

import json

import pytest
from msgspec import Raw

from service.accept.filters import DeploymentFilter
from service.backlog.ticket import Lease, decode_lease
from service.enrich.models import DeploymentHead
from service.reconcile.missed import (
    MAX_OUT_OF_VIEW,
    Scope,
    TimeRange,
    build_missed,
    classify_page,
    next_checkpoint,
    select_out_of_view,
    split_by_day,
)

NOW = 1_795_428_000_000


def encode_items(*items: object) -> list[Raw]:
    """Return the items of a page."""
    return [Raw(json.dumps(item).encode()) for item in items]


def test_classify_page_leaves_recent_deployments_open() -> None:
    """In progress or just ended: open. A null is skipped; an item of another shape is counted."""
    page = classify_page(
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
    assert [head.id for head in page.ended] == ["a", "d", "e"]
    assert (page.listed, page.still_open, page.unreadable) == (6, 2, 1)
    assert page.open_starts == {"b": 50, "c": 40}


@pytest.mark.parametrize(
    ("oldest_open", "expected"),
    [(None, NOW), (NOW - 5, NOW - 5), (NOW - 2000, NOW - 1000), (NOW + 5, NOW)],
)
def test_next_checkpoint_is_the_oldest_open_start_within_the_lookback(
    oldest_open: int | None, expected: int
) -> None:
    """A deployment whose end LaunchDarkly never learns must not hold the checkpoint forever."""
    open_starts = {} if oldest_open is None else {"a": oldest_open, "b": NOW + 9}
    assert next_checkpoint(NOW, open_starts, lookback_ms=1000) == expected


def test_select_out_of_view_is_bounded_in_number_and_time() -> None:
    """A deployment whose end LaunchDarkly never learns is fetched for 30 days."""
    days = {f"{number}-days-ago": NOW - number * 86_400_000 for number in (0, 2, 29, 31)}
    selected = select_out_of_view(days, checkpoint=NOW - 86_400_000, now_ms=NOW)
    assert list(selected) == ["2-days-ago", "29-days-ago"]
    many = {str(number): NOW - number for number in range(2, 2 * MAX_OUT_OF_VIEW)}
    assert len(select_out_of_view(many, checkpoint=NOW, now_ms=NOW)) == MAX_OUT_OF_VIEW


@pytest.mark.parametrize(
    ("status", "outcome"), [("failed", "failed"), ("finished", "succeeded"), ("new", "succeeded")]
)
def test_build_missed_makes_the_ticket_of_a_webhook(status: str, outcome: str) -> None:
    """The ticket holds all that the list says; queued_at stays open."""
    head = DeploymentHead(
        id="a",
        application_key="shop",
        application_version="1/0",
        status=status,
        started_at=NOW,
        ended_at=NOW + 9,
    )
    missed = build_missed(head, Scope("default", "production"), DeploymentFilter())
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


def test_split_by_day_leaves_no_gap() -> None:
    """Each day starts where the one before ended; the last one may be shorter."""
    day = 86_400_000
    days = list(split_by_day(TimeRange(5, 5 + 2 * day + 1)))
    assert days == [
        TimeRange(5, 5 + day),
        TimeRange(5 + day, 5 + 2 * day),
        TimeRange(5 + 2 * day, 6 + 2 * day),
    ]
    assert list(split_by_day(TimeRange(5, 5))) == []
