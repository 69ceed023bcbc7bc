"""Are many pages made one deployment without losing a byte of what we do not know?"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from service.enrich.deployment import PullRequests
from service.enrich.merge import Collection, Whole

NEXT = {"next": {"href": "/next"}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NOVEL = st.dictionaries(st.text(min_size=1).map(lambda name: f"x-{name}"), JSON, max_size=3)


def collection(**fields: Any) -> Collection:
    """Make a collection of pull requests of which one page is there."""
    return Collection(Raw(json.dumps(fields).encode()), PullRequests)


def items(*names: str) -> list[dict[str, str]]:
    """Make items of these ids."""
    return [{"id": name} for name in names]


def read(gathered: Collection) -> Any:
    """Read a collection as it would be published."""
    return json.loads(bytes(gathered.encode()))


def page(**fields: Any) -> bytes:
    """Write the body of a page."""
    return json.dumps(fields).encode()


def test_pages_follow_each_other_until_the_total() -> None:
    """Items come in order and once, and no more than LaunchDarkly counts."""
    gathered = collection(totalCount=4, items=items("a", "b"), _links=NEXT)
    assert gathered.next_href() == "/next"
    gathered.add_page(page(items=items("b", "c"), _links={"next": {"href": "/more"}}))
    assert gathered.next_href() == "/more"
    gathered.add_page(page(items=items("d", "e", "f")))
    assert gathered.next_href() is None
    assert [item["id"] for item in read(gathered)["items"]] == ["a", "b", "c", "d"]
    assert gathered.stopped is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (page(items=items("a")), "a page held nothing new"),
        (page(items=[]), "a page held nothing new"),
        (page(items=[None, None]), "a page held nothing new"),
        (b"<html>", "a page could not be read"),
        (b'{"items":[{"id":"\xff"}]}', "a page could not be read"),
        (page(items={"id": "b"}), "a page could not be read"),
        (page(items=[7]), "a page could not be read"),
        (page(items=items("b"), _links=7), "a page could not be read"),
        (page(items=items("b"), totalCount=[]), "a page could not be read"),
        (b'{"items":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "a page could not be read"),
    ],
)
def test_a_page_that_brings_nothing_ends_it_and_is_said(body: bytes, reason: str) -> None:
    """What was gathered before stays."""
    gathered = collection(totalCount=9, items=items("a"), _links=NEXT)
    gathered.add_page(body)
    assert (gathered.stopped, gathered.next_href()) == (reason, None)
    assert read(gathered)["items"] == items("a")


def test_a_loop_ends() -> None:
    """A link followed before is not followed again."""
    gathered = collection(items=items("a"), _links=NEXT)
    assert gathered.next_href() == "/next"
    gathered.add_page(page(items=items("b"), _links=NEXT))
    assert (gathered.next_href(), gathered.stopped) == (None, "pages repeat")


@given(NOVEL, NOVEL, NOVEL, st.lists(NOVEL, max_size=3))
def test_nothing_unknown_is_lost(top: Any, inner: Any, nested: Any, added: list[Any]) -> None:
    """Fields at every level are as they were; only the items grew."""
    pull = {"id": "p0", **nested, "deployments": {"totalCount": 9, "items": [], **inner}}
    told = {"id": "d", **top, "pullRequests": {"totalCount": 9, "items": [None, pull], **inner}}
    whole = Whole(json.dumps(told).encode())
    assert whole.pull_requests is not None
    more = [{"id": f"p{number}", **novel} for number, novel in enumerate(added, 1)]
    whole.pull_requests.add_page(page(items=more))
    deeper = [{"id": "x", **nested}]
    whole.open_nested()[0].add_page(page(items=deeper))
    pull["deployments"]["items"] = deeper
    told["pullRequests"]["items"] = [None, pull, *more]
    assert json.loads(whole.encode()) == told


def test_bytes_stay_bytes() -> None:
    """Numbers and escapes are not written anew."""
    raw = b'{"id":"d","n":2.50,"big":123456789012345678901234567890,"s":"\\u00e9","pullRequests":'
    whole = Whole(raw + b'{"totalCount":2,"items":[{"id":"a","f":1.0}],"_links":null}}')
    assert whole.pull_requests is not None
    whole.pull_requests.add_page(b'{"items":[{"id":"b","f":3.10}]}')
    merged = whole.encode()
    for piece in (b"2.50", b"123456789012345678901234567890", b"\\u00e9", b"1.0", b"3.10"):
        assert piece in merged


def test_why_it_stopped_is_told_for_the_whole() -> None:
    """One collection that could not be had makes the deployment incomplete."""
    body = {"id": "d", "pullRequests": {"totalCount": 2, "items": items("a"), "_links": NEXT}}
    whole = Whole(json.dumps(body).encode())
    assert whole.why_stopped() is None
    assert whole.pull_requests is not None
    whole.pull_requests.stopped = "page cap reached"
    assert whole.why_stopped() == "page cap reached"


def test_without_pull_requests_there_is_nothing_to_gather() -> None:
    """Null is as good as nothing."""
    whole = Whole(b'{"id":"d","pullRequests":null}')
    assert (whole.pull_requests, whole.open_nested()) == (None, [])
    assert json.loads(whole.encode()) == {"id": "d", "pullRequests": None}
