"""Are many pages made one deployment without losing a byte of what we do not know?"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from service.enrich.models import PullRequests
from service.enrich.pagination import MergedDeployment, PagedCollection

NEXT = {"next": {"href": "/next"}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NOVEL = st.dictionaries(st.text(min_size=1).map(lambda name: f"x-{name}"), JSON, max_size=3)


def make_collection(**fields: Any) -> PagedCollection:
    """Make a collection of pull requests of which one page is there."""
    return PagedCollection(Raw(json.dumps(fields).encode()), PullRequests)


def make_items(*names: str) -> list[dict[str, str]]:
    """Make items of these ids."""
    return [{"id": name} for name in names]


def decode_collection(merged: PagedCollection) -> Any:
    """Read a collection as it would be published."""
    return json.loads(bytes(merged.encode()))


def encode_page(**fields: Any) -> bytes:
    """Write the body of a page."""
    return json.dumps(fields).encode()


def test_add_page_collects_each_item_once_up_to_the_total() -> None:
    """Items come in order and once, and no more than LaunchDarkly counts."""
    gathered = make_collection(totalCount=4, items=make_items("a", "b"), _links=NEXT)
    assert gathered.next_href() == "/next"
    gathered.add_page(encode_page(items=make_items("b", "c"), _links={"next": {"href": "/more"}}))
    assert gathered.next_href() == "/more"
    gathered.add_page(encode_page(items=make_items("d", "e", "f")))
    assert gathered.next_href() is None
    assert [item["id"] for item in decode_collection(gathered)["items"]] == ["a", "b", "c", "d"]
    assert gathered.stop_reason is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (encode_page(items=make_items("a")), "a page held nothing new"),
        (encode_page(items=[]), "a page held nothing new"),
        (encode_page(items=[None, None]), "a page held nothing new"),
        (b"<html>", "a page could not be read"),
        (b'{"items":[{"id":"\xff"}]}', "a page could not be read"),
        (encode_page(items={"id": "b"}), "a page could not be read"),
        (encode_page(items=[7]), "a page could not be read"),
        (encode_page(items=make_items("b"), _links=7), "a page could not be read"),
        (encode_page(items=make_items("b"), totalCount=[]), "a page could not be read"),
        (b'{"items":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "a page could not be read"),
    ],
)
def test_add_page_without_new_items_ends_with_a_reason(body: bytes, reason: str) -> None:
    """What was gathered before stays."""
    gathered = make_collection(totalCount=9, items=make_items("a"), _links=NEXT)
    gathered.add_page(body)
    assert (gathered.stop_reason, gathered.next_href()) == (reason, None)
    assert decode_collection(gathered)["items"] == make_items("a")


def test_next_href_of_a_repeated_link_ends_with_a_reason() -> None:
    """A link followed before is not followed again."""
    gathered = make_collection(items=make_items("a"), _links=NEXT)
    assert gathered.next_href() == "/next"
    gathered.add_page(encode_page(items=make_items("b"), _links=NEXT))
    assert (gathered.next_href(), gathered.stop_reason) == (None, "pages repeat")


@given(NOVEL, NOVEL, NOVEL, st.lists(NOVEL, max_size=3))
def test_merged_deployment_keeps_unknown_fields(
    top: Any, inner: Any, nested: Any, added: list[Any]
) -> None:
    """Fields at every level are as they were; only the items grew."""
    pull = {"id": "p0", **nested, "deployments": {"totalCount": 9, "items": [], **inner}}
    told = {"id": "d", **top, "pullRequests": {"totalCount": 9, "items": [None, pull], **inner}}
    whole = MergedDeployment(json.dumps(told).encode())
    assert whole.pull_requests is not None
    more = [{"id": f"p{number}", **novel} for number, novel in enumerate(added, 1)]
    whole.pull_requests.add_page(encode_page(items=more))
    deeper = [{"id": "x", **nested}]
    whole.nested_collections()[0].add_page(encode_page(items=deeper))
    pull["deployments"]["items"] = deeper
    told["pullRequests"]["items"] = [None, pull, *more]
    assert json.loads(whole.encode()) == told


def test_merged_deployment_keeps_numbers_and_escapes_as_sent() -> None:
    """Numbers and escapes are not written anew."""
    raw = b'{"id":"d","n":2.50,"big":123456789012345678901234567890,"s":"\\u00e9","pullRequests":'
    whole = MergedDeployment(raw + b'{"totalCount":2,"items":[{"id":"a","f":1.0}],"_links":null}}')
    assert whole.pull_requests is not None
    whole.pull_requests.add_page(b'{"items":[{"id":"b","f":3.10}]}')
    merged = whole.encode()
    for piece in (b"2.50", b"123456789012345678901234567890", b"\\u00e9", b"1.0", b"3.10"):
        assert piece in merged


def test_first_stop_reason_returns_that_of_any_collection() -> None:
    """One collection that could not be had makes the deployment incomplete."""
    body = {"id": "d", "pullRequests": {"totalCount": 2, "items": make_items("a"), "_links": NEXT}}
    whole = MergedDeployment(json.dumps(body).encode())
    assert whole.first_stop_reason() is None
    assert whole.pull_requests is not None
    whole.pull_requests.stop_reason = "page cap reached"
    assert whole.first_stop_reason() == "page cap reached"


def test_merged_deployment_without_pull_requests_has_no_collections() -> None:
    """Null is as good as nothing."""
    whole = MergedDeployment(b'{"id":"d","pullRequests":null}')
    assert (whole.pull_requests, whole.nested_collections()) == (None, [])
    assert json.loads(whole.encode()) == {"id": "d", "pullRequests": None}


def test_add_page_with_repeated_items_keeps_each_once() -> None:
    """What has no id is known by its bytes."""
    gathered = make_collection(items=[{"title": "a"}], _links=NEXT)
    nameless = [{"title": "a"}, {"title": "b"}, {"title": "b"}]
    gathered.add_page(encode_page(items=[*make_items("c", "c"), *nameless]))
    assert decode_collection(gathered)["items"] == [{"title": "a"}, {"id": "c"}, {"title": "b"}]


def test_add_page_that_is_not_utf8_ends_with_a_reason() -> None:
    """What is passed on untouched becomes part of a record that is UTF-8."""
    gathered = make_collection(items=make_items("a"), _links=NEXT)
    gathered.add_page(b'{"items":[{"id":"b","novel":"\xff"}]}')
    assert (gathered.stop_reason, gathered.changed) == ("a page could not be read", False)


def test_next_href_of_an_empty_link_ends_without_a_reason() -> None:
    """It is no reason to call the deployment incomplete."""
    gathered = make_collection(totalCount=9, items=make_items("a"), _links={"next": {"href": ""}})
    assert (gathered.next_href(), gathered.stop_reason) == (None, None)


def test_encode_without_new_items_returns_the_same_bytes() -> None:
    """The digest of equal content stays equal."""
    body = b'{ "id":"d" , "n":2.50, "pullRequests" : {"items": [ {"id":"a"} ] } }\n'
    whole = MergedDeployment(body)
    whole.nested_collections()
    assert whole.encode() == body


def test_merged_deployment_with_an_unreadable_part_keeps_it_and_names_it() -> None:
    """Reading liberally takes a quoted null for nothing; what is beside it still grows."""
    odd: list[Any] = ["null", {"id": "a", "deployments": "null"}]
    told = {"id": "d", "pullRequests": {"items": [*odd, *make_items("b")], "_links": NEXT}}
    whole = MergedDeployment(json.dumps(told).encode())
    assert whole.pull_requests is not None
    whole.pull_requests.add_page(encode_page(items=make_items("c")))
    assert whole.nested_collections() == []
    assert json.loads(whole.encode())["pullRequests"]["items"] == [*odd, *make_items("b", "c")]
    assert whole.first_stop_reason() == "a part could not be read"


@given(part=JSON, further=JSON)
def test_merged_deployment_of_any_json_raises_nothing(part: Any, further: Any) -> None:
    """Any JSON in the place of a pull request, of its deployments, or of a page."""
    pulls = [{"id": "a", "deployments": part}, part]
    whole = MergedDeployment(json.dumps({"id": "d", "pullRequests": {"items": pulls}}).encode())
    assert whole.pull_requests is not None
    whole.pull_requests.add_page(encode_page(items=[{"id": "b", "deployments": further}]))
    for nested in whole.nested_collections():
        nested.add_page(json.dumps(further).encode())
    assert json.loads(whole.encode())["id"] == "d"
