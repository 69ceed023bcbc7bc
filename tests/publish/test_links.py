"""Tests of the links of a record: only those that certainly lead somewhere."""

import json
from typing import Any
from urllib.parse import unquote, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from service.backlog.ticket import Ticket
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder
from tests.factories import make_lease, make_ticket

ORIGIN = "https://app.launchdarkly.us"
TICKET = make_ticket(project="default", environment="staging")


def read_links(deployment: dict[str, Any], ticket: Ticket = TICKET) -> Any:
    """Return the links of the record of a deployment."""
    body = json.dumps({"id": "a", **deployment}).encode()
    parsed = parse_deployment(body)
    assert isinstance(parsed, Deployment)
    entry = EntryBuilder(launchdarkly_origin=ORIGIN).build(
        Found(deployment=parsed, chunks=(body,)), make_lease(ticket), now_ms=1
    )
    assert isinstance(entry, Entry)
    return json.loads(BEFORE_REVISION + b"1" + entry.data_after_revision)["links"]


def flags_of(*flags: tuple[str | None, str]) -> dict[str, Any]:
    """Return a deployment that touches flags, each a project and a key."""
    items = [{"projectKey": project, "flagKey": key} for project, key in flags]
    return {"flagReferences": {"totalCount": len(items), "items": items}}


def test_each_touched_flag_is_linked_once_for_the_environment_of_the_deployment() -> None:
    """The path is that of ``_site`` in LaunchDarkly's API; its environment wins."""
    deployment = flags_of(("default", "a.b"), ("default", "a.b"))
    assert read_links({"environmentKey": "production", **deployment})["flags"] == [
        {"key": "a.b", "url": f"{ORIGIN}/default/production/features/a.b"}
    ]
    (link,) = read_links(flags_of(("default", "new")))["flags"]
    assert link["url"] == f"{ORIGIN}/default/staging/features/new"


def test_flag_without_a_certain_page_is_left_out() -> None:
    """Another project may lack the environment; without a project or environment none is known."""
    assert read_links(flags_of(("other", "a"), (None, "b")))["flags"] == []
    for unknown in (make_ticket(environment="staging"), make_ticket(project="default")):
        assert read_links(flags_of(("default", "a")), unknown)["flags"] == []


@given(st.text(), st.text(min_size=1), st.text(min_size=1))
def test_key_of_any_text_stays_one_part_of_the_path(key: str, project: str, place: str) -> None:
    """No key leads to another host or another page."""
    deployment = {"environmentKey": place, **flags_of((project, key))}
    links = read_links(deployment, make_ticket(project=project))["flags"]
    assert [link["key"] for link in links] == ([key] if key else [])
    for link in links:
        parts = urlsplit(link["url"])
        assert f"{parts.scheme}://{parts.netloc}{parts.query}{parts.fragment}" == ORIGIN
        assert [unquote(part) for part in parts.path.split("/")] == [
            *("", project, place, "features", key)
        ]


def test_pull_requests_are_linked_unless_their_url_is_not_of_the_web() -> None:
    """A page that shows the links must not run a script that a pull request names."""
    urls = ["https://git.example/1", "http://git.example/2", "javascript:alert(1)", "", None]
    items = [{"externalId": str(number), "url": url} for number, url in enumerate(urls)]
    deployment = {"pullRequests": {"totalCount": len(items), "items": items}}
    assert read_links(deployment, make_ticket())["pullRequests"] == [
        {"number": "0", "url": "https://git.example/1"},
        {"number": "1", "url": "http://git.example/2"},
    ]
