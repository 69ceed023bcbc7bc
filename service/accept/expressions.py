"""JMESPath expressions over a webhook: compiled once, evaluated for each event.

Plain paths such as ``a.b.c``, and ``||``, ``&&`` and ``{x: a, y: b}`` over them, are compiled to
functions, since most fields of a source are like this. jmespath's own interpreter evaluates the
rest, with the same result. Two functions are added:

``match(regex, value)``  the first group of the match, or the whole match; null without a match
``json(value)``          the value that a JSON text holds; a value that is not text stays as it is
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter
from msgspec import Struct

from service.accept.toml_tables import find_similar_name

# A regex is not run on a longer text: a sender must not be able to make it slow.
MAX_MATCH_LENGTH = 4096

_OUR_PARAMETER_COUNTS = {"match": 2, "json": 1}

Evaluator = Callable[[Any], Any]
Node = Mapping[str, Any]

# Raised when a body does not have the shape that the expression expects.
_EVALUATION_ERRORS = (
    JMESPathError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class ExpressionError(ValueError):
    """An expression or a regex that cannot be compiled; the message says why."""


class Expression(Struct, frozen=True):
    """A compiled JMESPath expression, and its text.

    ``names`` holds the steps of a plain path such as ``a.b.c``; it is empty for anything else,
    which ``evaluator`` evaluates.
    """

    text: str
    evaluator: Evaluator
    names: tuple[str, ...] = ()

    def evaluate(self, inputs: Any) -> object:
        """Return the value that the expression finds; None also when a type does not fit."""
        try:
            if not self.names:
                return self.evaluator(inputs)
            value = inputs
            for name in self.names:
                value = value.get(name)
        except _EVALUATION_ERRORS:
            return None
        return value

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
    return Expression(text, _compile_node(tree), _plain_path(tree))


def compile_regex(text: str) -> re.Pattern[str]:
    """Compile a regular expression; ExpressionError if it is not valid."""
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ExpressionError(f"/{text}/ is not a regular expression ({error})") from None


def search_text(pattern: re.Pattern[str], value: object) -> re.Match[str] | None:
    """Search a text of at most MAX_MATCH_LENGTH characters; None for any other value."""
    return (
        pattern.search(value) if isinstance(value, str) and len(value) <= MAX_MATCH_LENGTH else None
    )


def match_text(pattern: re.Pattern[str], value: object) -> str | None:
    """Search a text; return the first group, or the whole match if the regex has no group."""
    match = search_text(pattern, value)
    return match and match[1 if pattern.groups else 0]


def parse_json_text(value: object) -> object:
    """Return the value that a JSON text holds, None for other texts; other values unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None


def _iter_nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node["children"]:
        if isinstance(child, Mapping):  # a slice's children are numbers
            yield from _iter_nodes(child)


def _check_call(name: str, arguments: list[Node]) -> None:
    """Raise ExpressionError for a call that would give null for every webhook."""
    known_names = [*Functions.FUNCTION_TABLE, *_OUR_PARAMETER_COUNTS]
    if name not in known_names:
        similar_name = find_similar_name(name, known_names)
        hint = f"; did you mean {similar_name}()?" if similar_name else ""
        raise ExpressionError(f"there is no function {name}(){hint}")
    expected, is_variadic = _parameter_count(name)
    if len(arguments) < expected or (len(arguments) > expected and not is_variadic):
        raise ExpressionError(f"{name}() takes {expected} arguments, not {len(arguments)}")
    if name == "match":
        regex = arguments[0].get("value") if arguments[0]["type"] == "literal" else None
        if not isinstance(regex, str):
            raise ExpressionError("the regex of match() must be written out: match('...', value)")
        compile_regex(regex)


def _parameter_count(name: str) -> tuple[int, bool]:
    """Return how many parameters a function has, and whether the last may repeat."""
    if name in _OUR_PARAMETER_COUNTS:
        return _OUR_PARAMETER_COUNTS[name], False
    parameters = Functions.FUNCTION_TABLE[name]["signature"]
    return len(parameters), bool(parameters) and bool(parameters[-1].get("variadic"))


class _Interpreter(TreeInterpreter):  # type: ignore[misc]  # jmespath ships no types
    """JMESPath's interpreter with our two functions."""

    def visit_function_expression(self, node: Node, value: Any) -> Any:
        """Call one of our functions, or one of JMESPath's."""
        name, arguments = node["value"], node["children"]
        if name == "json":
            return parse_json_text(self.visit(arguments[0], value))
        if name == "match":
            return match_text(re.compile(arguments[0]["value"]), self.visit(arguments[1], value))
        return super().visit_function_expression(node, value)


def _compile_node(node: Node) -> Evaluator:
    """Return a function that evaluates a node as jmespath's interpreter does, in fewer calls."""
    names, children = _plain_path(node), node["children"]
    if names:
        return partial(_follow_path, names)
    match node["type"]:
        case "subexpression":
            return partial(_evaluate_steps, [*map(_compile_node, children)])
        case "or_expression":
            return partial(_evaluate_or, *map(_compile_node, children))
        case "and_expression":
            return partial(_evaluate_and, *map(_compile_node, children))
        case "multi_select_dict":
            pairs = [(pair["value"], _compile_node(pair["children"][0])) for pair in children]
            return partial(_build_object, pairs)
        case _:
            return partial(_Interpreter().visit, node)


def _plain_path(tree: Node) -> tuple[str, ...]:
    """Return the names of ``a`` or ``a.b.c``; an empty tuple for any other expression."""
    steps = [tree] if tree["type"] == "field" else tree["children"]
    is_path = tree["type"] in {"field", "subexpression"}
    if is_path and all(step["type"] == "field" for step in steps):
        return tuple(step["value"] for step in steps)
    return ()


def _follow_path(names: Sequence[str], value: Any) -> Any:
    try:
        for name in names:
            value = value.get(name)
    except AttributeError:  # a value without members, as in jmespath's visit_field
        return None
    return value


def _evaluate_steps(steps: Sequence[Evaluator], value: Any) -> Any:
    for step in steps:
        value = step(value)
    return value


def _evaluate_or(left: Evaluator, right: Evaluator, inputs: Any) -> Any:
    value = left(inputs)
    return right(inputs) if _is_false(value) else value


def _evaluate_and(left: Evaluator, right: Evaluator, inputs: Any) -> Any:
    value = left(inputs)
    return value if _is_false(value) else right(inputs)


def _build_object(pairs: Sequence[tuple[str, Evaluator]], value: Any) -> Any:
    return None if value is None else {name: evaluate(value) for name, evaluate in pairs}


def _is_false(value: Any) -> bool:
    """Return whether JMESPath takes a value as false; 0 is not."""
    return value is None or value is False or value in ("", [], {})


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
