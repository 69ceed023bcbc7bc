"""Which webhooks count, and how did their deployment end? Values and regexes over expressions."""

import re
from typing import Any, Literal

from msgspec import Struct

from service.accept.expressions import (
    Expression,
    ExpressionError,
    compile_expression,
    compile_regex,
    search_text,
)
from service.accept.lines import KeyPath
from service.accept.tables import SourceError, TomlTable, convert_table

RuleValue = str | int | float | bool


class Condition(Struct, frozen=True):
    """What an expression must give: one of some values, or a text that a regex finds."""

    expression: Expression
    values: tuple[RuleValue, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()

    def is_met(self, inputs: object) -> bool:
        """Tell whether it holds over ``{headers, query, body}``."""
        actual = self.expression.evaluate(inputs)
        return _is_one_of(actual, self.values) or any(
            search_text(pattern, actual) for pattern in self.patterns
        )


class OutcomeRule(Struct, frozen=True):
    """Which values of an expression end a deployment, and how. Any other value ends nothing."""

    expression: Expression
    succeeded: tuple[RuleValue, ...]
    failed: tuple[RuleValue, ...]

    def decide(self, actual: object) -> Literal["succeeded", "failed"] | None:
        """Tell how a deployment ended, or None, from what the expression found."""
        if _is_one_of(actual, self.succeeded):
            return "succeeded"
        return "failed" if _is_one_of(actual, self.failed) else None


class _OutcomeTable(Struct, frozen=True):
    path: str
    succeeded: tuple[RuleValue, ...] = ()
    failed: tuple[RuleValue, ...] = ()


def parse_expression(key: KeyPath, text: str) -> Expression:
    """Compile the expression under ``key``; raises SourceError."""
    try:
        return compile_expression(text)
    except ExpressionError as error:
        raise SourceError(str(error), key=key) from None


def parse_outcome(raw_table: TomlTable) -> OutcomeRule:
    """Read the table ``outcome``; raises SourceError."""
    if not raw_table:
        problem = "say path = <expression>, succeeded = [...] and failed = [...]"
        raise SourceError(problem, key=("outcome",))
    table = convert_table(raw_table, _OutcomeTable, key=("outcome",))
    for key in ("succeeded", "failed"):
        if any(_is_regex(value) for value in getattr(table, key)):
            problem = "there are no regexes here; put it into the path: match('...', ...)"
            raise SourceError(problem, key=("outcome", key))
    path = parse_expression(("outcome", "path"), table.path)
    return OutcomeRule(path, table.succeeded, table.failed)


def parse_condition(text: str, raw_values: Any) -> Condition:
    """Read one row of the table ``when``; raises SourceError."""
    key = ("when", text)
    allowed = raw_values if isinstance(raw_values, list) else [raw_values]
    if not allowed or not all(isinstance(value, RuleValue) for value in allowed):
        raise SourceError('give a value or a list; is the expression in "quotes"?', key=key)
    values = tuple(value for value in allowed if not _is_regex(value))
    try:
        patterns = tuple(compile_regex(value[1:-1]) for value in allowed if _is_regex(value))
    except ExpressionError as error:
        raise SourceError(str(error), key=key) from None
    return Condition(parse_expression(key, text), values, patterns)


def _is_regex(value: RuleValue) -> bool:
    return isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == "/"


def _is_one_of(actual: object, values: tuple[RuleValue, ...]) -> bool:
    is_bool = isinstance(actual, bool)  # to JSON true is not 1, to Python it is
    return any(actual == value and is_bool is isinstance(value, bool) for value in values)
