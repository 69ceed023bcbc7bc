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
from service.accept.tables import SourceError, Table, convert_table

Value = str | int | float | bool


class Condition(Struct, frozen=True):
    """What an expression must give: one of some values, or a text that a regex finds."""

    expression: Expression
    values: tuple[Value, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()

    def holds(self, view: object) -> bool:
        """Tell whether it holds over ``{headers, query, body}``."""
        found = self.expression.find(view)
        return _is_one_of(found, self.values) or any(
            search_text(pattern, found) for pattern in self.patterns
        )


class Outcome(Struct, frozen=True):
    """Which values of an expression end a deployment, and how. Any other value ends nothing."""

    expression: Expression
    succeeded: tuple[Value, ...]
    failed: tuple[Value, ...]

    def judge(self, found: object) -> Literal["succeeded", "failed"] | None:
        """Tell how a deployment ended, or None, from what the expression found."""
        if _is_one_of(found, self.succeeded):
            return "succeeded"
        return "failed" if _is_one_of(found, self.failed) else None


class _OutcomeTable(Struct, frozen=True):
    path: str
    succeeded: tuple[Value, ...] = ()
    failed: tuple[Value, ...] = ()


def read_expression(key: KeyPath, text: str) -> Expression:
    """Compile the expression under ``key``; raises SourceError."""
    try:
        return compile_expression(text)
    except ExpressionError as error:
        raise SourceError(str(error), key=key) from None


def read_outcome(written: Table) -> Outcome:
    """Read the table ``outcome``; raises SourceError."""
    if not written:
        what = "say path = <expression>, succeeded = [...] and failed = [...]"
        raise SourceError(what, key=("outcome",))
    table = convert_table(written, _OutcomeTable, key=("outcome",))
    for key in ("succeeded", "failed"):
        if any(_is_regex(value) for value in getattr(table, key)):
            what = "there are no regexes here; put it into the path: match('...', ...)"
            raise SourceError(what, key=("outcome", key))
    path = read_expression(("outcome", "path"), table.path)
    return Outcome(path, table.succeeded, table.failed)


def read_condition(text: str, written: Any) -> Condition:
    """Read one row of the table ``when``; raises SourceError."""
    key = ("when", text)
    allowed = written if isinstance(written, list) else [written]
    if not allowed or not all(isinstance(value, Value) for value in allowed):
        raise SourceError('give a value or a list; is the expression in "quotes"?', key=key)
    values = tuple(value for value in allowed if not _is_regex(value))
    try:
        patterns = tuple(compile_regex(value[1:-1]) for value in allowed if _is_regex(value))
    except ExpressionError as error:
        raise SourceError(str(error), key=key) from None
    return Condition(read_expression(key, text), values, patterns)


def _is_regex(value: Value) -> bool:
    return isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == "/"


def _is_one_of(found: object, values: tuple[Value, ...]) -> bool:
    truth = isinstance(found, bool)  # to JSON true is not 1, to Python it is
    return any(found == value and truth is isinstance(value, bool) for value in values)
