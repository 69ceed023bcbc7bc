"""Tests of the merge of pages into one deployment, without losing unknown fields."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from service.enrich.models import (
    DeploymentPage,
    Malformed,
    parse_collection,
    parse_deployment_page,
    split_deployment,
)
from service.enrich.pagination import MergedDeployment, PagedCollection
from service.enrich.steps import finish_steps

NEXT = {"next": {"href": "/next"}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NOVEL = st.dictionaries(st.text(min_size=1).map(lambda name: f"x-{name}"), JSON, max_size=3)


def make_collection(**fields: Any) -> PagedCollection:
    """Return a collection of pull requests with its first page."""
    first_page = parse_collection(Raw(json.dumps(fields).encode()))
    assert isinstance(first_page, DeploymentPage)
    return PagedCollection(first_page)


def make_items(*names: str) -> list[dict[str, str]]:
    """Return items with these ids."""
    return [{"id": name} for name in names]


def decode_items(collection: PagedCollection) -> Any:
    """Return the items of a collection as they would be published."""
    return [json.loads(bytes(item)) for item in collection.items]


def split_body(body: bytes) -> MergedDeployment:
    """Return a deployment to which pages can be added."""
    return MergedDeployment(finish_steps(split_deployment(body)))


def find_nested(merged: MergedDeployment) -> list[PagedCollection]:
    """Return the collections inside the pull requests that have further pages."""
    return finish_steps(merged.find_nested())


def encode_merged(merged: MergedDeployment) -> bytes:
    """Return the deployment with the pages that were added, in one piece."""
    split = merged.merge()
    assert split is not None
    return b"".join(split.chunks())


def add_body(collection: PagedCollection, body: bytes) -> None:
    """Parse the body of one more page and add it."""
    page = parse_deployment_page(body)
    assert not isinstance(page, Malformed)
    collection.add_page(page)


def encode_page(**fields: Any) -> bytes:
    """Return the body of a page."""
    return json.dumps(fields).encode()


def test_add_page_collects_each_item_once_up_to_the_total() -> None:
    """Items stay in order, and their number does not exceed LaunchDarkly's count."""
    collection = make_collection(totalCount=4, items=make_items("a", "b"), _links=NEXT)
    assert collection.next_href() == "/next"
    add_body(
        collection, encode_page(items=make_items("b", "c"), _links={"next": {"href": "/more"}})
    )
    assert collection.next_href() == "/more"
    add_body(collection, encode_page(items=make_items("d", "e", "f")))
    assert collection.next_href() is None
    assert [item["id"] for item in decode_items(collection)] == ["a", "b", "c", "d"]
    assert collection.stop_reason is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (encode_page(items=make_items("a")), "a page held nothing new"),
        (encode_page(items=[]), "a page held nothing new"),
        (encode_page(items=[None, None]), "a page held nothing new"),
        (encode_page(items={"id": "b"}), "a page could not be read"),
        (b'{"items":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "a page could not be read"),
    ],
)
def test_add_page_without_new_items_ends_with_a_reason(body: bytes, reason: str) -> None:
    """The items of earlier pages stay."""
    collection = make_collection(totalCount=9, items=make_items("a"), _links=NEXT)
    add_body(collection, body)
    assert (collection.stop_reason, collection.next_href()) == (reason, None)
    assert decode_items(collection) == make_items("a")


def test_add_page_keeps_items_and_counts_of_another_type() -> None:
    """The record names them; the links of the page are followed as usual."""
    collection = make_collection(totalCount=9, items=make_items("a"), _links=NEXT)
    add_body(
        collection,
        encode_page(items=[7, {"id": 8}], totalCount=[], _links={"next": {"href": "/3"}}),
    )
    assert decode_items(collection) == [*make_items("a"), 7, {"id": 8}]
    assert (collection.next_href(), collection.stop_reason) == ("/3", None)


def test_add_page_with_links_of_another_type_keeps_its_items_and_ends() -> None:
    """Nobody knows whether a further page exists, unless every counted item is there."""
    for total, reason in ((9, "a page could not be read"), (2, None)):
        collection = make_collection(totalCount=total, items=make_items("a"), _links=NEXT)
        add_body(collection, encode_page(items=make_items("b"), _links=7))
        assert decode_items(collection) == make_items("a", "b")
        assert (collection.next_href(), collection.stop_reason) == (None, reason)


def test_next_href_of_a_repeated_link_ends_with_a_reason() -> None:
    """A link is followed only once."""
    collection = make_collection(items=make_items("a"), _links=NEXT)
    assert collection.next_href() == "/next"
    add_body(collection, encode_page(items=make_items("b"), _links=NEXT))
    assert (collection.next_href(), collection.stop_reason) == (None, "pages repeat")


@given(NOVEL, NOVEL, NOVEL, st.lists(NOVEL, max_size=3))
def test_merged_deployment_keeps_unknown_fields(
    top: Any, inner: Any, nested: Any, added: list[Any]
) -> None:
    """Fields at every level are unchanged; only the lists of items grow."""
    pull = {"id": "p0", **nested, "deployments": {"items": [], "_links": NEXT, **inner}}
    body = {"id": "d", **top, "pullRequests": {"totalCount": 9, "items": [None, pull], **inner}}
    merged = split_body(json.dumps(body).encode())
    assert merged.pull_requests is not None
    more_items = [{"id": f"p{number}", **novel} for number, novel in enumerate(added, 1)]
    add_body(merged.pull_requests, encode_page(items=more_items))
    nested_items = [{"id": "x", **nested}]
    add_body(find_nested(merged)[0], encode_page(items=nested_items))
    pull["deployments"]["items"] = nested_items
    body["pullRequests"]["items"] = [None, pull, *more_items]
    assert json.loads(encode_merged(merged)) == body


def test_merged_deployment_keeps_numbers_and_escapes_as_sent() -> None:
    """Numbers and escapes keep their spelling."""
    raw = b'{"id":"d","n":2.50,"big":123456789012345678901234567890,"s":"\\u00e9","pullRequests":'
    merged = split_body(raw + b'{"totalCount":2,"items":[{"id":"a","f":1.0}],"_links":null}}')
    assert merged.pull_requests is not None
    add_body(merged.pull_requests, b'{"items":[{"id":"b","f":3.10}]}')
    merged_body = encode_merged(merged)
    for spelling in (b"2.50", b"123456789012345678901234567890", b"\\u00e9", b"1.0", b"3.10"):
        assert spelling in merged_body


def test_first_stop_reason_returns_that_of_any_collection() -> None:
    """One collection that ended early makes the deployment incomplete."""
    body = {"id": "d", "pullRequests": {"totalCount": 2, "items": make_items("a"), "_links": NEXT}}
    merged = split_body(json.dumps(body).encode())
    assert merged.first_stop_reason() is None
    assert merged.pull_requests is not None
    merged.pull_requests.stop_reason = "page cap reached"
    assert merged.first_stop_reason() == "page cap reached"


def test_merged_deployment_without_pull_requests_has_no_collections() -> None:
    """A null collection counts as absent."""
    merged = split_body(b'{"id":"d","pullRequests":null}')
    assert (merged.pull_requests, find_nested(merged)) == (None, [])
    assert merged.merge() is None


def test_add_page_with_repeated_items_keeps_each_once() -> None:
    """An item without an id is identified by its bytes."""
    collection = make_collection(items=[{"title": "a"}], _links=NEXT)
    items_without_id = [{"title": "a"}, {"title": "b"}, {"title": "b"}]
    add_body(collection, encode_page(items=[*make_items("c", "c"), *items_without_id]))
    assert decode_items(collection) == [{"title": "a"}, {"id": "c"}, {"title": "b"}]


def test_next_href_of_an_empty_link_ends_without_a_reason() -> None:
    """An empty link does not make the deployment incomplete."""
    collection = make_collection(totalCount=9, items=make_items("a"), _links={"next": {"href": ""}})
    assert (collection.next_href(), collection.stop_reason) == (None, None)


def test_merge_without_new_items_returns_nothing() -> None:
    """The body of the first call is published, so the digest of unchanged content is the same."""
    body = b'{ "id":"d" , "n":2.50, "pullRequests" : {"items": [ {"id":"a"} ] } }\n'
    merged = split_body(body)
    find_nested(merged)
    assert merged.merge() is None


def test_merged_deployment_with_an_unreadable_part_keeps_it_and_names_it() -> None:
    """A quoted null counts as absent; the collection around it still grows."""
    unreadable_items: list[Any] = ["null", {"id": "a", "deployments": "null"}]
    body = {
        "id": "d",
        "pullRequests": {"items": [*unreadable_items, *make_items("b")], "_links": NEXT},
    }
    merged = split_body(json.dumps(body).encode())
    assert merged.pull_requests is not None
    add_body(merged.pull_requests, encode_page(items=make_items("c")))
    assert find_nested(merged) == []
    assert json.loads(encode_merged(merged))["pullRequests"]["items"] == [
        *unreadable_items,
        *make_items("b", "c"),
    ]
    assert merged.first_stop_reason() == "a part could not be read"


@given(value=JSON, page_value=JSON)
def test_merged_deployment_of_any_json_raises_nothing(value: Any, page_value: Any) -> None:
    """Any JSON may stand for a pull request, for its deployments, or for a page."""
    pulls = [{"id": "a", "deployments": value}, value]
    merged = split_body(json.dumps({"id": "d", "pullRequests": {"items": pulls}}).encode())
    assert merged.pull_requests is not None
    add_body(merged.pull_requests, encode_page(items=[{"id": "b", "deployments": page_value}]))
    for nested in find_nested(merged):
        add_body(nested, json.dumps(page_value).encode())
    assert json.loads(encode_merged(merged))["id"] == "d"
