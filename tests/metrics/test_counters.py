"""Has every reason that we write a label of its own, so that nothing of ours counts as `other`?"""

import ast
from collections.abc import Iterator
from pathlib import Path

from service.backlog.failures import UNMAPPABLE
from service.metrics.counters import FAILURE_REASONS, failure_label

SERVICE = Path(__file__).resolve().parents[2] / "service"
CONSTANTS = {"UNMAPPABLE": UNMAPPABLE}
FORWARDED_NAMES = {"reason"}  # a refusal's own, which was written where the refusal was made


def reasons_in_code() -> Iterator[str]:
    """Read in our code why tickets are given up: what a `Never` and a failure are made with."""
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield from reason_of_call(node.func.id, node)


def reason_of_call(name: str, call: ast.Call) -> Iterator[str]:
    """Read the reason of one call; it is a word that stands there, or a constant."""
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


def test_every_reason_of_a_failure_is_a_label() -> None:
    """What the code can write is what the labels have, no more and no less, beside `other`."""
    written = set(reasons_in_code())
    assert written == {*FAILURE_REASONS} - {"other"}
    assert {failure_label(reason) for reason in written} == written
