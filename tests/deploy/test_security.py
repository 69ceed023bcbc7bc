"""Is each attempt in deploy/SECURITY.md really tried? Every test that it names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    line.strip("|").split("|")
    for line in (ROOT / "deploy" / "SECURITY.md")
    .read_text()
    .split("## What was tried")[1]
    .splitlines()
    if line.startswith("| ") and "| attempt |" not in line
]


def names_of_tests(path: Path) -> set[str]:
    """List the tests of a file."""
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0].strip()))
def test_every_attempt_names_tests_that_are_there(row: list[str]) -> None:
    """At least one in each row, and nothing else in its column."""
    _, _, column = row
    named = re.findall(r"`([^`]+)`", column)
    assert named
    assert not re.sub(r"`[^`]+`", "", column).strip()
    for each in named:
        file, _, test = each.partition("::")
        assert test in names_of_tests(ROOT / file), each


def test_what_had_to_be_tried_was() -> None:
    """The attempts that this kind of service has to expect."""
    attempts = " ".join(row[0] for row in ROWS).lower()
    wanted = "signature,recorded,ssrf,redirects,decompression,nesting,slow,header injection"
    wanted += ",log injection,secrets in logs,smuggling"
    assert [word for word in wanted.split(",") if word not in attempts] == []
