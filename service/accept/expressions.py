"""What does this path say in that body? JMESPath, compiled once.

Paths, ``a || b``, ``a && b``, ``a.{x: b}``, literals and our functions, which is what nearly every
source is made of, become closures; any other part is left to the JMESPath interpreter. Both give
the same answers. Two functions are ours:

``match(regex, value)``  the first group, or the whole match, in a text; null if there is none
``json(value)``          what a text holds as JSON; a value that is no text stays as it is
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions, signature
from jmespath.visitor import Options, TreeInterpreter
from msgspec import Struct

from service.suggestions import find_similar_name

# Longer texts match nothing: our regexes must not become a sender's lever.
MAX_MATCH_LENGTH = 4096

Evaluator = Callable[[Any], Any]
Node = Mapping[str, Any]

# What an expression may stumble over in a body that is not what its author had in mind.
_EVALUATION_ERRORS = (
    JMESPathError,
    ArithmeticError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class ExpressionError(ValueError):
    """The text is nothing that we can evaluate; the message says why."""


class Expression(Struct, frozen=True):
    """A compiled JMESPath expression, and its text."""

    text: str
    evaluator: Evaluator

    def evaluate(self, inputs: object) -> object:
        """Evaluate over ``view``; a type error inside is null (None)."""
        try:
            return self.evaluator(inputs)
        except _EVALUATION_ERRORS:
            return None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def compile_expression(text: str) -> Expression:
    """Compile JMESPath; ExpressionError on bad syntax, unknown functions and bad regexes."""
    try:
        tree = jmespath.compile(text).parsed
    except (JMESPathError, RecursionError) as error:
        raise ExpressionError(f"{text!r} is not JMESPath ({_first_line(error)})") from None
    for node in _iter_nodes(tree):
        if node["type"] == "function_expression":
            _check_call(node["value"], node["children"])
    return Expression(
        text, _compile_node(tree, TreeInterpreter(Options(custom_functions=_CustomFunctions())))
    )


def compile_regex(text: str) -> re.Pattern[str]:
    """Compile a regular expression; ExpressionError when it is none."""
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ExpressionError(f"/{text}/ is not a regular expression ({error})") from None


def search_text(pattern: re.Pattern[str], value: object) -> re.Match[str] | None:
    """Search a value that is a text, and no longer than MATCHED_TEXT."""
    return (
        pattern.search(value) if isinstance(value, str) and len(value) <= MAX_MATCH_LENGTH else None
    )


def match_text(pattern: re.Pattern[str], value: object) -> str | None:
    """Search a text; give its first group, or the whole match when there are no groups."""
    match = search_text(pattern, value)
    return match and match[1 if pattern.groups else 0]


def parse_json_text(value: object) -> object:
    """Give the value that a text holds as JSON (None if it holds none); others as they are."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None


class _CustomFunctions(Functions):  # type: ignore[misc]  # jmespath ships no types
    """JMESPath's functions and ours, for the parts that the interpreter evaluates."""

    @signature({"types": ["string"]}, {"types": []})  # type: ignore[untyped-decorator]  # as above
    def _func_match(self, regex: str, value: object) -> str | None:
        return match_text(re.compile(regex), value)

    @signature({"types": []})  # type: ignore[untyped-decorator]  # as above
    def _func_json(self, value: object) -> object:
        return parse_json_text(value)


def _iter_nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node["children"]:
        if isinstance(child, Mapping):  # a slice's children are numbers
            yield from _iter_nodes(child)


def _check_call(name: str, arguments: list[Node]) -> None:
    """Refuse at load what would otherwise be null for every webhook."""
    functions = _CustomFunctions.FUNCTION_TABLE
    if name not in functions:
        similar_name = find_similar_name(name, functions)
        hint = f"; did you mean {similar_name}()?" if similar_name else ""
        raise ExpressionError(f"there is no function {name}(){hint}")
    parameters = functions[name]["signature"]
    variadic = bool(parameters) and bool(parameters[-1].get("variadic"))
    if len(arguments) < len(parameters) or (len(arguments) > len(parameters) and not variadic):
        raise ExpressionError(f"{name}() takes {len(parameters)} arguments, not {len(arguments)}")
    if name == "match":
        regex = arguments[0].get("value") if arguments[0]["type"] == "literal" else None
        if not isinstance(regex, str):
            raise ExpressionError("the regex of match() must be written out: match('...', value)")
        compile_regex(regex)


def _compile_node(node: Node, interpreter: TreeInterpreter) -> Evaluator:
    node_kind = f"{node['value']}()" if node["type"] == "function_expression" else node["type"]
    build_closure = _CLOSURE_BUILDERS.get(node_kind)
    if build_closure is None:
        return lambda value: interpreter.visit(node, value)
    return build_closure(node, [_compile_node(child, interpreter) for child in node["children"]])


def _build_path(node: Node, parts: Sequence[Evaluator]) -> Evaluator:
    """Close over ``a`` or ``a.b.c``; a chain of anything else goes from part to part."""
    fields = node["children"] or [node]
    if any(field["type"] != "field" for field in fields):
        return _build_chain(parts)
    names = [field["value"] for field in fields]

    def evaluate(value: Any) -> Any:
        try:
            for name in names:
                value = value.get(name)
        except AttributeError:  # as the interpreter: what has no members has none of this name
            return None
        return value

    return evaluate


def _build_chain(parts: Sequence[Evaluator]) -> Evaluator:
    def evaluate(value: Any) -> Any:
        for part in parts:
            value = part(value)
        return value

    return evaluate


def _build_or(_: Node, parts: Sequence[Evaluator]) -> Evaluator:
    left, right = parts

    def evaluate(value: Any) -> Any:
        result = left(value)
        return right(value) if _is_falsy(result) else result

    return evaluate


def _build_and(_: Node, parts: Sequence[Evaluator]) -> Evaluator:
    left, right = parts

    def evaluate(value: Any) -> Any:
        result = left(value)
        return result if _is_falsy(result) else right(value)

    return evaluate


def _build_object(node: Node, parts: Sequence[Evaluator]) -> Evaluator:
    members = [(child["value"], part) for child, part in zip(node["children"], parts, strict=True)]
    return lambda value: None if value is None else {name: part(value) for name, part in members}


def _build_literal(node: Node, _: Sequence[Evaluator]) -> Evaluator:
    constant = node["value"]
    return lambda _: constant


def _build_json(_: Node, parts: Sequence[Evaluator]) -> Evaluator:
    (evaluate_text,) = parts
    return lambda value: parse_json_text(evaluate_text(value))


def _build_match(node: Node, parts: Sequence[Evaluator]) -> Evaluator:
    pattern = compile_regex(node["children"][0]["value"])
    return lambda value: match_text(pattern, parts[1](value))


def _is_falsy(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


_CLOSURE_BUILDERS: Mapping[str, Callable[[Node, Sequence[Evaluator]], Evaluator]] = {
    "field": _build_path,
    "subexpression": _build_path,
    "pipe": lambda _, parts: _build_chain(parts),
    "key_val_pair": lambda _, parts: parts[0],
    "or_expression": _build_or,
    "and_expression": _build_and,
    "multi_select_dict": _build_object,
    "literal": _build_literal,
    "json()": _build_json,
    "match()": _build_match,
}


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
