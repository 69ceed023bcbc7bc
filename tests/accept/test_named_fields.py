"""Tests of the fields that expressions name: what is left out changes no result."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.accept.expressions import compile_expression
from service.accept.named_fields import FieldTree, decode_fields, find_named_fields

NAMES = st.sampled_from("abc")
LEAVES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a", "b"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner), max_leaves=30
)


def join_expressions(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return expressions made of others, in every kind of node."""
    pairs = st.tuples(inner, inner)
    return (
        pairs.map(lambda pair: f"{pair[0]} || {pair[1]}")
        | pairs.map(lambda pair: f"({pair[0]}) | {pair[1]}")
        | pairs.map(lambda pair: f"({pair[0]}) && !({pair[1]})")
        | pairs.map(lambda pair: f"({pair[0]}) == ({pair[1]})")
        | pairs.map(lambda pair: f"({pair[0]}).{{x: {pair[1]}, y: a}}")
        | pairs.map(lambda pair: f"({pair[0]})[?({pair[1]})].b")
        | pairs.map(lambda pair: f"[{pair[0]}, {pair[1]}]")
        | pairs.map(lambda pair: f"map(&({pair[0]}), not_null({pair[1]}, `[]`))")
        | inner.map(lambda text: f"({text}).a")
        | inner.map(lambda text: f"({text})[*].b.c")
        | inner.map(lambda text: f"({text})[].a")
        | inner.map(lambda text: f"({text}).*.c")
        | inner.map(lambda text: f"({text})[0].a")
        | inner.map(lambda text: f"({text})[0:1]")
        | inner.map(lambda text: f"to_string({text})")
        | inner.map(lambda text: f"json({text})")
    )


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "a.b", "a.b.c", "@", "`1`", "keys(@)"]),
    join_expressions,
    max_leaves=6,
)


@given(st.dictionaries(NAMES, VALUES), st.lists(EXPRESSIONS, min_size=1, max_size=3))
def test_named_fields_are_all_that_an_expression_sees(
    value: dict[str, Any], texts: list[str]
) -> None:
    """Any expression finds the same in the whole value and in its named fields."""
    expressions = [compile_expression(text) for text in texts]
    decoded = decode_fields(json.dumps(value).encode(), find_named_fields(expressions))
    for expression in expressions:
        assert expression.evaluate(decoded) == expression.evaluate(value), expression.text


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a.b.c", {"a": {"b": {"c": None}}}),
        ("a.b || a", {"a": None}),
        ("a.{x: b, y: c.d} | x.e", {"a": {"b": None, "c": {"d": None}}}),
        ("match('x', a.b)", {"a": {"b": None}}),
        ("a[0].b", {"a": None}),
        ("sort_by(a.b, &c)[0]", {"a": {"b": None}}),
        ("@", None),
        ("*.a", None),
    ],
)
def test_fields_are_named_as_deep_as_a_path_leads(text: str, fields: FieldTree | None) -> None:
    """What is used as a whole is named as a whole."""
    assert find_named_fields([compile_expression(text)]) == fields


def test_fields_that_are_not_named_are_not_decoded() -> None:
    """Malformed JSON is an error wherever it is; a number that is too large is none."""
    assert decode_fields(b'{"a": {"b": 1, "c": 1e999}}', {"a": {"b": None}}) == {"a": {"b": 1}}
    with pytest.raises(msgspec.DecodeError):
        decode_fields(b'{"log": {, "a": 1}', {"a": None})
