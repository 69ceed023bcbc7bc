"""Expressions: the values of JMESPath, our two functions, and errors at load."""

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
    """Return a name as JMESPath writes it: quoted if it is not an identifier."""
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
        inner.map(lambda text: f"!({text})"),
        inner.map(lambda text: f"length({text})"),
    ),
    max_leaves=6,
)


@given(text=EXPRESSIONS, document=DOCUMENTS)
def test_expression_gives_the_same_value_as_jmespath(text: str, document: object) -> None:
    """On any JSON, for plain paths and for any other expression; a type error is null."""
    try:
        expected = jmespath.search(text, document)
    except jmespath.exceptions.JMESPathError:
        expected = None
    value = compile_expression(text).evaluate(document)
    assert (repr(value), type(value)) == (repr(expected), type(expected))


@pytest.mark.filterwarnings("ignore:deprecated string literal")  # `x` for `"x"`: jmespath's own
@given(text=st.text() | st.text("ab.[]{}()|&!'`@*?:,\"-0 "))
def test_arbitrary_text_compiles_or_raises_expression_error(text: str) -> None:
    """No text raises another exception."""
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
def test_functions_give_documented_values(text: str, document: object, expected: object) -> None:
    """Our functions, also inside filters, and JMESPath's on values of a wrong type."""
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
def test_invalid_expression_raises_expression_error(text: str, problem: str) -> None:
    """It would be null for every webhook."""
    with pytest.raises(ExpressionError, match=re.escape(problem)):
        compile_expression(text)


def test_variadic_function_accepts_any_number_of_arguments() -> None:
    """JMESPath has variadic functions."""
    assert compile_expression("not_null(a, b, c, 'd')").evaluate({}) == "d"
    with pytest.raises(ExpressionError, match="takes 1 arguments, not 0"):
        compile_expression("not_null()")


def test_regex_is_not_run_on_long_text() -> None:
    """The length of a sender's text is limited before a regex runs on it."""
    assert match_text(compile_regex("x"), "x" * MAX_MATCH_LENGTH) == "x"
    assert match_text(compile_regex("x"), "x" * (MAX_MATCH_LENGTH + 1)) is None


@given(value=DOCUMENTS)
def test_json_function_leaves_other_values_unchanged(value: Any) -> None:
    """GitHub's payload may be an object already."""
    assert isinstance(value, str) or parse_json_text(value) is value


def test_expression_repr_shows_its_text() -> None:
    """A repr is for people."""
    assert repr(compile_expression("a.b")) == "Expression('a.b')"
