"""Tests that every failure reason in the code has a label of its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

from service.backlog.failures import UNMAPPABLE
from service.enrich.report import REPORT_FORBIDDEN
from service.enrich.verdict import FORBIDDEN
from service.metrics.counters import FAILURE_REASONS, failure_label

SERVICE = Path(__file__).resolve().parents[2] / "service"
CONSTANTS = {
    "FORBIDDEN": FORBIDDEN,
    "REPORT_FORBIDDEN": REPORT_FORBIDDEN,
    "UNMAPPABLE": UNMAPPABLE,
}
FORWARDED_NAMES = {"reason"}  # passes on a reason that was written elsewhere


def find_reasons_in_code() -> Iterator[str]:
    """Yield the reasons with which the code builds a `Fail` or a failure record."""
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield from reason_of_call(node.func.id, node)


def reason_of_call(name: str, call: ast.Call) -> Iterator[str]:
    """Yield the reason of one call: a literal or a known constant."""
    if name not in {"Fail", "FailureRecord"}:
        return
    keyword_values = (keyword.value for keyword in call.keywords if keyword.arg == "reason")
    reason = next(keyword_values, None) or (call.args[0] if call.args else None)
    match reason:
        case ast.Constant(value=str(reason_text)):
            yield reason_text
        case ast.Name(id=constant) if constant in FORWARDED_NAMES:
            return
        case ast.Name(id=constant):
            yield CONSTANTS[constant]
        case _:
            raise AssertionError(f"the reason cannot be read: {ast.unparse(call)}")


def test_every_failure_reason_is_a_label() -> None:
    """The reasons in the code are exactly the labels, besides `other`."""
    written = set(find_reasons_in_code())
    assert written == {*FAILURE_REASONS} - {"other"}
    assert {failure_label(reason) for reason in written} == written
