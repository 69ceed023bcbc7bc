"""Tests of deploy/SECURITY.md: every test that it names exists."""

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
    """Return the names of the tests in a file."""
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0].strip()))
def test_every_attempt_names_existing_tests(row: list[str]) -> None:
    """Each row names at least one test, and nothing else."""
    _, _, column = row
    names = re.findall(r"`([^`]+)`", column)
    assert names
    assert not re.sub(r"`[^`]+`", "", column).strip()
    for name in names:
        file, _, test = name.partition("::")
        assert test in names_of_tests(ROOT / file), name


def test_expected_attacks_are_listed() -> None:
    """The file covers the attacks that this kind of service must expect."""
    attempts = " ".join(row[0] for row in ROWS).lower()
    expected = "signature,recorded,ssrf,redirects,decompression,nesting,slow,header injection"
    expected += ",log injection,secrets in logs,smuggling"
    assert [word for word in expected.split(",") if word not in attempts] == []
