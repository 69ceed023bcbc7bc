"""Has every reason that we write a label of its own, so that nothing of ours counts as `other`?"""

import ast
from collections.abc import Iterator
from pathlib import Path

from service.backlog.failure import UNMAPPABLE
from service.operate.labels import FAILED, name_failure

SERVICE = Path(__file__).resolve().parents[2] / "service"
CONSTANTS = {"UNMAPPABLE": UNMAPPABLE}
PASSED_ON = {"reason"}  # a refusal's own, which was written where the refusal was made


def list_reasons() -> Iterator[str]:
    """Read in our code why tickets are given up: what a `Never` and a failure are made with."""
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield from read_reason(node.func.id, node)


def read_reason(name: str, call: ast.Call) -> Iterator[str]:
    """Read the reason of one call; it is a word that stands there, or a constant."""
    if name not in {"Never", "record_failure"}:
        return
    named = (each.value for each in call.keywords if each.arg == "reason")
    reason = next(named, None) or (call.args[0] if call.args else None)
    match reason:
        case ast.Constant(value=str(word)):
            yield word
        case ast.Name(id=constant) if constant in PASSED_ON:
            return
        case ast.Name(id=constant):
            yield CONSTANTS[constant]
        case _:
            raise AssertionError(f"the reason cannot be read: {ast.unparse(call)}")


def test_every_reason_of_a_failure_is_a_label() -> None:
    """What the code can write is what the labels have, no more and no less, beside `other`."""
    written = set(list_reasons())
    assert written == {*FAILED} - {"other"}
    assert {name_failure(reason) for reason in written} == written
