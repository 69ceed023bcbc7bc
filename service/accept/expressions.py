"""What does this path say in that body? JMESPath, compiled once.

Paths, ``a || b``, ``a && b``, ``a.{x: b}``, literals and our functions, which is what nearly every
source is made of, become closures; any other part is left to the JMESPath interpreter. Both give
the same answers. Two functions are ours:

``match(regex, value)``  the first group, or the whole match, in a text; null if there is none
``json(value)``          what a text holds as JSON; a value that is no text stays as it is
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions, signature
from jmespath.visitor import Options, TreeInterpreter
from msgspec import Struct

# Longer texts match nothing: our regexes must not become a sender's lever.
MATCHED_TEXT = 4096

Getter = Callable[[Any], Any]
Node = Mapping[str, Any]

# What an expression may stumble over in a body that is not what its author had in mind.
_TYPE_ERRORS = (JMESPathError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)


class ExpressionError(ValueError):
    """The text is nothing that we can evaluate; the message says why."""


class Expression(Struct, frozen=True):
    """A compiled JMESPath expression, and its text."""

    text: str
    getter: Getter

    def find(self, view: object) -> object:
        """Evaluate over ``view``; a type error inside is null (None)."""
        try:
            return self.getter(view)
        except _TYPE_ERRORS:
            return None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def compile_expression(text: str) -> Expression:
    """Compile JMESPath; ExpressionError on bad syntax, unknown functions and bad regexes."""
    try:
        tree = jmespath.compile(text).parsed
    except (JMESPathError, RecursionError) as error:
        raise ExpressionError(f"{text!r} is not JMESPath ({_first_line(error)})") from None
    for node in _nodes_of(tree):
        if node["type"] == "function_expression":
            _check_call(node["value"], node["children"])
    return Expression(text, _compile(tree, TreeInterpreter(Options(custom_functions=_Ours()))))


def compile_regex(text: str) -> re.Pattern[str]:
    """Compile a regular expression; ExpressionError when it is none."""
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ExpressionError(f"/{text}/ is not a regular expression ({error})") from None


def search_text(pattern: re.Pattern[str], value: object) -> re.Match[str] | None:
    """Search a value that is a text, and no longer than MATCHED_TEXT."""
    return pattern.search(value) if isinstance(value, str) and len(value) <= MATCHED_TEXT else None


def match_text(pattern: re.Pattern[str], value: object) -> str | None:
    """Search a text; give its first group, or the whole match when there are no groups."""
    found = search_text(pattern, value)
    return found and found[1 if pattern.groups else 0]


def parse_text(value: object) -> object:
    """Give the value that a text holds as JSON (None if it holds none); others as they are."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None


class _Ours(Functions):  # type: ignore[misc]  # jmespath ships no types
    """JMESPath's functions and ours, for the parts that the interpreter evaluates."""

    @signature({"types": ["string"]}, {"types": []})  # type: ignore[untyped-decorator]  # as above
    def _func_match(self, regex: str, value: object) -> str | None:
        return match_text(re.compile(regex), value)

    @signature({"types": []})  # type: ignore[untyped-decorator]  # as above
    def _func_json(self, value: object) -> object:
        return parse_text(value)


def _nodes_of(node: Node) -> Iterator[Node]:
    yield node
    for child in node["children"]:
        if isinstance(child, Mapping):  # a slice's children are numbers
            yield from _nodes_of(child)


def _check_call(name: str, arguments: list[Node]) -> None:
    """Refuse at load what would otherwise be null for every webhook."""
    known = _Ours.FUNCTION_TABLE
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}()?" if close else ""
        raise ExpressionError(f"there is no function {name}(){hint}")
    expected = known[name]["signature"]
    variadic = bool(expected) and bool(expected[-1].get("variadic"))
    if len(arguments) < len(expected) or (len(arguments) > len(expected) and not variadic):
        raise ExpressionError(f"{name}() takes {len(expected)} arguments, not {len(arguments)}")
    if name == "match":
        regex = arguments[0].get("value") if arguments[0]["type"] == "literal" else None
        if not isinstance(regex, str):
            raise ExpressionError("the regex of match() must be written out: match('...', value)")
        compile_regex(regex)


def _compile(node: Node, interpreter: TreeInterpreter) -> Getter:
    kind = f"{node['value']}()" if node["type"] == "function_expression" else node["type"]
    close = _CLOSURES.get(kind)
    if close is None:
        return lambda value: interpreter.visit(node, value)
    return close(node, [_compile(child, interpreter) for child in node["children"]])


def _follow(node: Node, parts: Sequence[Getter]) -> Getter:
    """Close over ``a`` or ``a.b.c``; a chain of anything else goes from part to part."""
    fields = node["children"] or [node]
    if any(field["type"] != "field" for field in fields):
        return _chain(parts)
    names = [field["value"] for field in fields]

    def follow(value: Any) -> Any:
        try:
            for name in names:
                value = value.get(name)
        except AttributeError:  # as the interpreter: what has no members has none of this name
            return None
        return value

    return follow


def _chain(parts: Sequence[Getter]) -> Getter:
    def chain(value: Any) -> Any:
        for part in parts:
            value = part(value)
        return value

    return chain


def _either(_: Node, parts: Sequence[Getter]) -> Getter:
    left, right = parts

    def either(value: Any) -> Any:
        found = left(value)
        return right(value) if _is_false(found) else found

    return either


def _both(_: Node, parts: Sequence[Getter]) -> Getter:
    left, right = parts

    def both(value: Any) -> Any:
        found = left(value)
        return found if _is_false(found) else right(value)

    return both


def _object(node: Node, parts: Sequence[Getter]) -> Getter:
    named = [(child["value"], part) for child, part in zip(node["children"], parts, strict=True)]
    return lambda value: None if value is None else {name: part(value) for name, part in named}


def _literal(node: Node, _: Sequence[Getter]) -> Getter:
    constant = node["value"]
    return lambda _: constant


def _json(_: Node, parts: Sequence[Getter]) -> Getter:
    (text,) = parts
    return lambda value: parse_text(text(value))


def _match(node: Node, parts: Sequence[Getter]) -> Getter:
    pattern = compile_regex(node["children"][0]["value"])
    return lambda value: match_text(pattern, parts[1](value))


def _is_false(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


_CLOSURES: Mapping[str, Callable[[Node, Sequence[Getter]], Getter]] = {
    "field": _follow,
    "subexpression": _follow,
    "pipe": lambda _, parts: _chain(parts),
    "key_val_pair": lambda _, parts: parts[0],
    "or_expression": _either,
    "and_expression": _both,
    "multi_select_dict": _object,
    "literal": _literal,
    "json()": _json,
    "match()": _match,
}


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
