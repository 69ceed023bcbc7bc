"""Is a list asked for so that it holds what is sought, and is no larger than may be read?"""

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backlog.ticket import Lease, Ticket
from service.enrich.listing import Portion, change_page, open_list, write_query

HOUR = 3_600_000
NOW = 1_795_521_600_000
DAY = 24 * HOUR


def lease(*, age_ms: int = 0, **ticket: Any) -> Lease:
    """Make the lease of a ticket that came so long ago."""
    usual = {"project": "default", "environment": "production", "application": "web"}
    written = Ticket(source="native", delivery="d", outcome="succeeded", **{**usual, **ticket})
    return Lease(
        job="j",
        fence=1.5,
        generation=1,
        crashes=0,
        queued_at=NOW,
        now=NOW + age_ms,
        ticket=written,
    )


def test_the_list_spans_what_all_seek() -> None:
    """From a window before the first to an hour after the last, of all their applications."""
    leases = [
        lease(application="web", event_time=NOW - DAY),
        lease(application="api", event_time=NOW - HOUR),
        lease(application="web", age_ms=301_000),
    ]
    assert write_query(leases, window_ms=DAY, items=40) == {
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "api,web",
        "from": str(NOW - 2 * DAY),
        "to": str(NOW + HOUR),
        "limit": "40",
        "expand": "pullRequests,flagReferences",
    }


def test_what_has_just_come_is_not_sought_far_back() -> None:
    """A day of a busy environment has many pages. Who was tried before is sought farther."""
    assert write_query([lease()], window_ms=DAY, items=1)["from"] == str(NOW - 2 * HOUR)
    again = write_query([lease(), lease(attempts=1)], window_ms=DAY, items=1)
    assert again["from"] == str(NOW - DAY)


def test_the_end_stays_open_once_somebody_came_in_vain() -> None:
    """The clocks of sender and LaunchDarkly may differ by more than an hour."""
    assert "to" not in write_query([lease(), lease(attempts=1)], window_ms=DAY, items=1)


def test_who_knows_an_id_needs_no_wide_window() -> None:
    """What is not on the list is asked for by its id."""
    query = write_query([lease(deployment_id="x", attempts=3)], window_ms=DAY, items=1)
    assert (query["from"], query["to"]) == (str(NOW - 2 * HOUR), str(NOW + HOUR))


def test_a_filter_too_long_for_a_url_is_left_out() -> None:
    """Then the list holds all applications of the environment."""
    leases = [lease(application=f"application-{n}") for n in range(300)]
    assert "applicationKey" not in write_query(leases, window_ms=DAY, items=1)
    assert (
        write_query([lease(event_time=5)], window_ms=DAY, items=1)["from"] == "1"
    )  # no API takes 0


def test_a_page_can_be_asked_for_otherwise() -> None:
    """Parameters are replaced or left out; the cursor stays."""
    page = open_list({"projectKey": "a b", "after": "", "limit": "100", "expand": "x"})
    changed = change_page(page, limit="25", expand=None)
    assert dict(parse_qsl(changed.path.partition("?")[2], keep_blank_values=True)) == {
        "projectKey": "a b",
        "after": "",
        "limit": "25",
    }
    assert changed.path.startswith("/api/v2/engineering-insights/deployments?")


@given(sizes=st.lists(st.integers(1, 5000), min_size=1))
def test_a_portion_of_what_was_seen_stays_under_the_cap(sizes: list[int]) -> None:
    """Unless a single one is larger; and never more than the API's own maximum."""
    portion = Portion(cap=100_000)
    for size in sizes:
        portion.learn(size=size * portion.items, items=portion.items)
        assert 1 <= portion.items <= 100
        assert portion.items * size <= 100_000


@pytest.mark.parametrize(("items", "size"), [(0, 0), (0, 50)])
def test_an_empty_page_teaches_nothing(items: int, size: int) -> None:
    """There is no deployment to measure."""
    portion = Portion(cap=1000, items=7)
    portion.learn(size=size, items=items)
    assert portion.items == 7


def test_a_portion_shrinks_until_one_alone_is_left() -> None:
    """100, 25, 6, 1, and then there is nothing to shrink."""
    portion = Portion(cap=1000)
    steps = []
    while portion.shrink():
        steps.append(portion.items)
    assert steps == [25, 6, 1]
