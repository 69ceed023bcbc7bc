"""Tests of the splitting of large JSON: nothing is lost, and no text is read otherwise."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from service.enrich import large_json
from service.enrich.large_json import SplitJson, split_arrays
from service.enrich.steps import finish_steps

PATHS = (("a", "items"), ("b", "items"), ("items",))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "items", "x\n", ""]) | st.text(), inner)
    ),
    max_leaves=12,
)
SPACING = st.sampled_from([(",", ":"), (" , ", " : "), ("\n,\t", ":\r\n")])


def split(text: bytes) -> SplitJson:
    """Split a text at once."""
    return finish_steps(split_arrays(text, PATHS))


def without_items(value: Any) -> Any:
    """Return a value with the arrays at the paths empty, by the library of Python."""
    if not isinstance(value, dict):
        return value
    value = {**value}
    for parent in ("a", "b"):
        if isinstance(value.get(parent), dict) and isinstance(value[parent].get("items"), list):
            value[parent] = value[parent] | {"items": []}
    if isinstance(value.get("items"), list):
        value["items"] = []
    return value


@given(JSON, SPACING, st.booleans())
def test_any_json_is_split_and_put_together_again(
    value: Any, spacing: tuple[str, str], ensure_ascii: bool
) -> None:
    """The frame has empty arrays; with the items it is the same JSON as before."""
    text = json.dumps(value, separators=spacing, ensure_ascii=ensure_ascii).encode()
    parts = split(text)
    assert json.loads(parts.frame) == without_items(value)
    assert json.loads(b"".join(parts.chunks())) == value
    for path, items in parts.items.items():
        array = value
        for name in path:
            array = array[name]
        assert [json.loads(bytes(item)) for item in items] == array


@given(JSON.map(json.dumps), st.data())
def test_a_cut_text_is_malformed(text: str, data: st.DataObject) -> None:
    """Either the splitter refuses it, or its frame is no JSON."""
    cut = text[: data.draw(st.integers(0, len(text) - 1))].encode()
    try:
        msgspec.json.decode(cut)
    except msgspec.DecodeError:
        pass
    else:
        return  # a number that was cut is a number
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(split(cut).frame)


@pytest.mark.parametrize(
    "text", [b'{"items":[1,]}', b'{"items":[,1]}', b'{"items":[1 2]}', b'{"a" 1}', b"{1:2}", b"[1"]
)
def test_malformed_json_is_refused(text: bytes) -> None:
    """As msgspec refuses it."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(split(text).frame)


def test_a_repeated_field_counts_once() -> None:
    """The last one counts, as for msgspec."""
    parts = split(b'{"items":[1],"items":[2,3],"x":[4]}')
    assert [bytes(item) for item in parts.items["items",]] == [b"2", b"3"]
    assert b"".join(parts.chunks()) == b'{"items":[],"items":[2,3],"x":[4]}'


def test_items_may_be_replaced() -> None:
    """The text around them stays as it was sent."""
    parts = split(b'{ "n":2.50, "a":{"items" : [ 1 ] } }')
    grown = msgspec.structs.replace(parts, items={("a", "items"): [Raw(b"1"), Raw(b"2")]})
    assert b"".join(grown.chunks()) == b'{ "n":2.50, "a":{"items" : [1,2] } }'


def test_long_arrays_are_read_in_steps() -> None:
    """The number of steps grows with the text."""
    item = b'"' + b"x" * 1000 + b'"'
    text = b'{"items":[' + b",".join([item] * 4000) + b"]}"
    assert len([*split_arrays(text, PATHS)]) >= len(text) // large_json._STEP_BYTES
