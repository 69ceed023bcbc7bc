"""What does this path say in that body? The same as JMESPath says."""

import re
from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.accept.expressions import (
    MAX_MATCH_LENGTH,
    ExpressionError,
    compile_expression,
    compile_regex,
    match_text,
    parse_json_text,
)

NAMES = st.sampled_from(["a", "b", "c", "a-b"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def quote_name(name: str) -> str:
    """Write a name as JMESPath does: quoted when it is no identifier."""
    return name if name.isidentifier() else f'"{name}"'


PATHS = st.lists(NAMES.map(quote_name), min_size=1, max_size=3).map(".".join)
LEAVES = PATHS | st.sampled_from(
    ["'text'", "''", "`0`", "`false`", "`[]`", "`{}`", "@", "a[0]", "a[*].b"]
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} || {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} && {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} | {pair[1]})"),
        st.tuples(inner, PATHS).map(lambda pair: f"({pair[0]}).{pair[1]}"),
        st.tuples(PATHS, inner, inner).map(lambda t: f"{t[0]}.{{x: {t[1]}, y: {t[2]}}}"),
        inner.map(lambda one: f"!({one})"),
        inner.map(lambda one: f"length({one})"),
    ),
    max_leaves=6,
)


@given(text=EXPRESSIONS, document=DOCUMENTS)
def test_closures_say_what_jmespath_says(text: str, document: object) -> None:
    """On any JSON, any mixture of compiled and interpreted parts; a type error is null."""
    try:
        expected = jmespath.search(text, document)
    except jmespath.exceptions.JMESPathError:
        expected = None
    found = compile_expression(text).evaluate(document)
    assert (repr(found), type(found)) == (repr(expected), type(expected))


@pytest.mark.filterwarnings("ignore:deprecated string literal")  # `x` for `"x"`: jmespath's own
@given(text=st.text() | st.text("ab.[]{}()|&!'`@*?:,\"-0 "))
def test_arbitrary_text_is_an_expression_or_an_error_of_ours(text: str) -> None:
    """Nothing that a person can write ends in another exception."""
    try:
        compile_expression(text).evaluate({"a": [1]})
    except ExpressionError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "document", "expected"),
    [
        ("match('release ([0-9.]+) to', a)", {"a": "Deploy release 0.1.178 to Dev"}, "0.1.178"),
        ("match('[0-9]+', a)", {"a": "build 17"}, "17"),
        ("match('(x)|y', a)", {"a": "y"}, None),
        ("match('[0-9]+', a)", {"a": 17}, None),
        ("match('[0-9]+', a)", {}, None),
        ("a[?match('^b', @)] | [0]", {"a": ["ab", "ba"]}, "ba"),
        ("json(a).b", {"a": '{"b": 1}'}, 1),
        ("json(a).b", {"a": {"b": 1}}, 1),
        ("json(a).b", {"a": "{"}, None),
        ("json(a).b", {"a": ""}, None),
        ("json(a).b", {"a": "[" * 100_000}, None),
        ("json(a)", {}, None),
        ("json(a) || 'b'", {"a": "[" * 100_000}, "b"),
        ("a || b", {"a": 0, "b": 1}, 0),
        ("a.{x: b}", {}, None),
        ("[json(a).b]", {"a": '{"b": 1}'}, [1]),
        ("length(a)", {}, None),
        ("ceil(a)", {"a": float("inf")}, None),
        ("a < b", {"a": "1", "b": 2}, None),
    ],
)
def test_functions(text: str, document: object, expected: object) -> None:
    """Ours, compiled and inside interpreted parts, and JMESPath's on what they cannot take."""
    assert compile_expression(text).evaluate(document) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a.", "is not JMESPath"),
        ("", "is not JMESPath"),
        ("headers.x-github-event", "is not JMESPath"),
        ("(" * 5000, "is not JMESPath"),
        ("mtach('a', b)", "there is no function mtach(); did you mean match()?"),
        ("[?frobnicate(@)]", "there is no function frobnicate()"),
        ("match(a, b)", "the regex of match() must be written out"),
        ("match(`1`, b)", "the regex of match() must be written out"),
        ("match('(', b)", "is not a regular expression"),
        ("[?match('(', @)]", "is not a regular expression"),
        ("match('a')", "match() takes 2 arguments, not 1"),
        ("json(a, b)", "json() takes 1 arguments, not 2"),
    ],
)
def test_a_bad_expression_is_refused_when_it_is_loaded(text: str, problem: str) -> None:
    """What would be null for ever is said at once."""
    with pytest.raises(ExpressionError, match=re.escape(problem)):
        compile_expression(text)


def test_functions_with_any_number_of_arguments_are_left_alone() -> None:
    """JMESPath has variadic functions."""
    assert compile_expression("not_null(a, b, c, 'd')").evaluate({}) == "d"
    with pytest.raises(ExpressionError, match="takes 1 arguments, not 0"):
        compile_expression("not_null()")


def test_a_long_text_matches_nothing() -> None:
    """What a sender sends is bounded before a regex sees it."""
    assert match_text(compile_regex("x"), "x" * MAX_MATCH_LENGTH) == "x"
    assert match_text(compile_regex("x"), "x" * (MAX_MATCH_LENGTH + 1)) is None


@given(value=DOCUMENTS)
def test_what_is_no_text_is_left_as_it_is(value: Any) -> None:
    """GitHub's payload may be an object already."""
    assert isinstance(value, str) or parse_json_text(value) is value


def test_an_expression_shows_its_text() -> None:
    """A repr is for people."""
    assert repr(compile_expression("a.b")) == "Expression('a.b')"
