"""Is a list asked for so that it holds what is sought, and is no larger than may be read?"""

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backlog.ticket import Lease, Ticket
from service.enrich.shared_list import (
    PageSizer,
    build_list_query,
    build_list_request,
    with_parameters,
)

HOUR = 3_600_000
NOW = 1_795_521_600_000
DAY = 24 * HOUR


def make_lease(*, age_ms: int = 0, **ticket_fields: Any) -> Lease:
    """Make the lease of a ticket that came so long ago."""
    defaults = {"project": "default", "environment": "production", "application": "web"}
    made_ticket = Ticket(
        source="native", delivery="d", outcome="succeeded", **{**defaults, **ticket_fields}
    )
    return Lease(
        job="j",
        fence=1.5,
        generation=1,
        crashes=0,
        queued_at=NOW,
        now=NOW + age_ms,
        ticket=made_ticket,
    )


def test_build_list_query_spans_all_tickets_and_applications() -> None:
    """From a window before the first to an hour after the last, of all their applications."""
    leases = [
        make_lease(application="web", event_time=NOW - DAY),
        make_lease(application="api", event_time=NOW - HOUR),
        make_lease(application="web", age_ms=301_000),
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
    """A day of a busy environment has many pages. Who was tried before is sought farther."""
    assert build_list_query([make_lease()], lookback_ms=DAY, page_size=1)["from"] == str(
        NOW - 2 * HOUR
    )
    again = build_list_query([make_lease(), make_lease(attempts=1)], lookback_ms=DAY, page_size=1)
    assert again["from"] == str(NOW - DAY)


def test_build_list_query_after_a_failed_attempt_has_no_end() -> None:
    """The clocks of sender and LaunchDarkly may differ by more than an hour."""
    assert "to" not in build_list_query(
        [make_lease(), make_lease(attempts=1)], lookback_ms=DAY, page_size=1
    )


def test_build_list_query_with_ids_looks_two_hours_back() -> None:
    """What is not on the list is asked for by its id."""
    query = build_list_query(
        [make_lease(deployment_id="x", attempts=3)], lookback_ms=DAY, page_size=1
    )
    assert (query["from"], query["to"]) == (str(NOW - 2 * HOUR), str(NOW + HOUR))


def test_build_list_query_with_many_applications_omits_the_filter() -> None:
    """Then the list holds all applications of the environment."""
    leases = [make_lease(application=f"application-{n}") for n in range(300)]
    assert "applicationKey" not in build_list_query(leases, lookback_ms=DAY, page_size=1)
    assert (
        build_list_query([make_lease(event_time=5)], lookback_ms=DAY, page_size=1)["from"] == "1"
    )  # no API takes 0


def test_with_parameters_replaces_and_removes_parameters() -> None:
    """Parameters are replaced or left out; the cursor stays."""
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
    """Unless a single one is larger; and never more than the API's own maximum."""
    portion = PageSizer(max_bytes=100_000)
    for size in sizes:
        portion.record(body_bytes=size * portion.page_size, item_count=portion.page_size)
        assert 1 <= portion.page_size <= 100
        assert portion.page_size * size <= 100_000


@pytest.mark.parametrize(("items", "size"), [(0, 0), (0, 50)])
def test_page_sizer_after_an_empty_page_keeps_its_size(items: int, size: int) -> None:
    """There is no deployment to measure."""
    portion = PageSizer(max_bytes=1000, page_size=7)
    portion.record(body_bytes=size, item_count=items)
    assert portion.page_size == 7


def test_page_sizer_shrinks_down_to_one() -> None:
    """100, 25, 6, 1, and then there is nothing to shrink."""
    portion = PageSizer(max_bytes=1000)
    steps = []
    while portion.shrink():
        steps.append(portion.page_size)
    assert steps == [25, 6, 1]
