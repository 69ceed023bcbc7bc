"""Tests of the list query and of the page size."""

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backlog.ticket import Lease
from service.enrich.shared_list import (
    PageSizer,
    build_list_query,
    build_list_request,
    with_parameters,
)
from tests.factories import make_lease, make_ticket

HOUR = 3_600_000
NOW = 1_795_521_600_000
DAY = 24 * HOUR


def make_aged_lease(*, age_ms: int = 0, **ticket_fields: Any) -> Lease:
    """Return the lease of a ticket that was queued ``age_ms`` ago."""
    defaults = {"project": "default", "environment": "production", "application": "web"}
    ticket = make_ticket(**{**defaults, **ticket_fields})
    return make_lease(ticket, queued_at=NOW, now=NOW + age_ms)


def test_build_list_query_spans_all_tickets_and_applications() -> None:
    """The list begins a lookback before the first ticket and ends an hour after the last."""
    leases = [
        make_aged_lease(application="web", event_time=NOW - DAY),
        make_aged_lease(application="api", event_time=NOW - HOUR),
        make_aged_lease(application="web", age_ms=301_000),
    ]
    assert build_list_query(leases, lookback_ms=DAY, page_size=40) == {
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "api,web",
        "from": str(NOW - 2 * DAY),
        "to": str(NOW + HOUR),
        "limit": "40",
        "expand": "pullRequests,flagReferences",
    }


def test_build_list_query_of_recent_tickets_looks_two_hours_back() -> None:
    """A day of a busy environment has many pages. After a first attempt the lookback applies."""
    assert build_list_query([make_aged_lease()], lookback_ms=DAY, page_size=1)["from"] == str(
        NOW - 2 * HOUR
    )
    query = build_list_query(
        [make_aged_lease(), make_aged_lease(attempts=1)], lookback_ms=DAY, page_size=1
    )
    assert query["from"] == str(NOW - DAY)


@pytest.mark.parametrize(
    ("ahead_ms", "end_ms"), [(-DAY, 3 * HOUR), (0, 3 * HOUR), (DAY, 25 * HOUR)]
)
def test_build_list_query_after_a_failed_attempt_ends_an_hour_from_now_or_later(
    ahead_ms: int, end_ms: int
) -> None:
    """The clock of the sender may be wrong. Without an end, LaunchDarkly would list until now."""
    query = build_list_query(
        [
            make_aged_lease(event_time=NOW + ahead_ms, age_ms=2 * HOUR),
            make_aged_lease(event_time=NOW + ahead_ms, age_ms=2 * HOUR, attempts=1),
        ],
        lookback_ms=DAY,
        page_size=1,
    )
    assert query["to"] == str(NOW + end_ms)


def test_build_list_query_with_ids_looks_two_hours_back() -> None:
    """A deployment that is not listed is fetched by its id."""
    query = build_list_query(
        [make_aged_lease(deployment_id="x", attempts=3)], lookback_ms=DAY, page_size=1
    )
    assert (query["from"], query["to"]) == (str(NOW - 2 * HOUR), str(NOW + HOUR))


def test_build_list_query_with_many_applications_omits_the_filter() -> None:
    """The list then holds all applications of the environment."""
    leases = [make_aged_lease(application=f"application-{n}") for n in range(300)]
    assert "applicationKey" not in build_list_query(leases, lookback_ms=DAY, page_size=1)
    assert (
        build_list_query([make_aged_lease(event_time=5)], lookback_ms=DAY, page_size=1)["from"]
        == "1"
    )  # no API takes 0


def test_with_parameters_replaces_and_removes_parameters() -> None:
    """The cursor stays."""
    page = build_list_request({"projectKey": "a b", "after": "", "limit": "100", "expand": "x"})
    changed = with_parameters(page, limit="25", expand=None)
    assert dict(parse_qsl(changed.path.partition("?")[2], keep_blank_values=True)) == {
        "projectKey": "a b",
        "after": "",
        "limit": "25",
    }
    assert changed.path.startswith("/api/v2/engineering-insights/deployments?")


@given(sizes=st.lists(st.integers(1, 5000), min_size=1))
def test_page_sizer_after_any_page_stays_under_the_byte_cap(sizes: list[int]) -> None:
    """The page size is between one and the maximum of the API."""
    page_sizer = PageSizer(max_bytes=100_000)
    for size in sizes:
        page_sizer.record(body_bytes=size * page_sizer.page_size, item_count=page_sizer.page_size)
        assert 1 <= page_sizer.page_size <= 100
        assert page_sizer.page_size * size <= 100_000


@pytest.mark.parametrize(("items", "size"), [(0, 0), (0, 50)])
def test_page_sizer_after_an_empty_page_keeps_its_size(items: int, size: int) -> None:
    """An empty page has no deployment to measure."""
    page_sizer = PageSizer(max_bytes=1000, page_size=7)
    page_sizer.record(body_bytes=size, item_count=items)
    assert page_sizer.page_size == 7


def test_page_sizer_shrinks_down_to_one() -> None:
    """The sizes are 100, 25, 6 and 1; then it cannot shrink."""
    page_sizer = PageSizer(max_bytes=1000)
    page_sizes = []
    while page_sizer.shrink():
        page_sizes.append(page_sizer.page_size)
    assert page_sizes == [25, 6, 1]
