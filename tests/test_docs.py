"""Tests of README.md and docs/: every block runs, every name exists, every table is current."""

import ast
import re
import subprocess
import sys
from difflib import get_close_matches
from pathlib import Path

import pytest

from docs.generate import SECTIONS, render_page
from service.settings import list_settings
from tests.doc_blocks import ROOT, open_environment, read_blocks

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    *(ROOT / "deploy" / name for name in ("README.md", "SECURITY.md", "monitoring/runbook.md")),
]
# Variables of docker-compose.yml, which are no settings of the service.
COMPOSE_VARIABLES = {
    f"ENRICHER_{name}"
    for name in (
        *("PUBLISH", "VERSION", "REVISION", "ENV_FILE"),
        *("RECEIVERS", "WORKERS", "REDIS_IMAGE"),
    )
}
COMPOSE_PAGE = DOCS / "operating.md"  # its blocks need Docker: tests/deploy/test_operating.py
TEST_COLUMN = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def page_name(page: Path) -> str:
    """Return the name of a page for the report of pytest."""
    return str(page.relative_to(ROOT))


def list_markdown() -> list[Path]:
    """Return every page of the repository, those beside the code and the tests too."""
    folders = [ROOT / name for name in ("docs", "deploy", "service", "tests")]
    inside = [page for folder in folders for page in folder.rglob("*.md")]
    pages = [*ROOT.glob("*.md"), *inside]
    return sorted(page for page in pages if "node_modules" not in page.parts)


every_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if page != COMPOSE_PAGE and any(block.is_run for block in read_blocks(page))
    ],
    ids=page_name,
)
@pytest.mark.timeout(240)  # many programs, one after the other
def test_blocks_of_a_page_run_and_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    """Run the blocks of a page in order, in one folder, beside a running service."""
    with open_environment(tmp_path, with_service=True) as environment:
        for block in read_blocks(page):
            if block.is_run:
                try:
                    environment.run_block(block)
                except AssertionError as error:
                    pytest.fail(f"{page_name(page)}:{block.line}: {error}")


@every_page
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    """Every fenced block is run by the test above or has a comment with the reason."""
    silent = [
        block.line
        for block in read_blocks(page)
        if not block.is_run and not block.directives.get("not run", "").strip()
    ]
    assert silent == []


def heading_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", list_markdown(), ids=page_name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    """Relative links only: no test needs the network."""
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in heading_anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", SECTIONS)
def test_the_generated_part_of_a_page_is_current(name: str) -> None:
    """``python docs/generate.py`` writes it."""
    assert render_page(name) == (DOCS / name).read_text(encoding="utf-8")


def guarantee_rows() -> list[list[str]]:
    """Return the cells of every row of the table of situations."""
    section = (DOCS / "guarantees.md").read_text(encoding="utf-8").split("## What happens when")[1]
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def test_names_in(file: str) -> list[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in ast.walk(tree) if isinstance(node, functions)]


test_names_in.__test__ = False  # type: ignore[attr-defined]  # a helper, not a test


@pytest.mark.parametrize("row", guarantee_rows(), ids=lambda row: row[0])
def test_every_guarantee_names_tests_that_exist(row: list[str]) -> None:
    """Each row has at least one, and nothing else in its last column."""
    named = TEST_COLUMN.findall(row[2])
    assert named
    assert TEST_COLUMN.sub("", row[2]).strip() == ""
    for file, name in named:
        names = test_names_in(file)
        assert name in names, f"{file} has no {name}; close: {get_close_matches(name, names)}"


def test_the_guarantees_cover_every_situation() -> None:
    """The table has at least its first 24 rows."""
    assert len(guarantee_rows()) >= 24


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "architecture.md"], ids=page_name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Every path into the project that stands between backticks."""
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:service|tests|deploy|docs)/[\w./-]*)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_table_of_presets_is_complete() -> None:
    """It names each preset once."""
    section = (DOCS / "senders.md").read_text(encoding="utf-8").split("\n## Presets")[1]
    named = re.findall(r"^\| `([\w-]+)` \|", section.split("\n## ")[0], re.MULTILINE)
    known = [path.stem for path in (ROOT / "service" / "accept" / "presets").glob("*.toml")]
    assert sorted(named) == sorted(known)
    assert len(known) == 24  # "Twenty-four" on that page, "18 more" in the README


def test_the_page_of_recipes_is_short_and_all_of_it_runs() -> None:
    """An operator reads it in the middle of an incident."""
    assert len(COMPOSE_PAGE.read_text(encoding="utf-8").split()) <= 900
    assert all(block.is_run for block in read_blocks(COMPOSE_PAGE))


@pytest.fixture(scope="session")
def commands() -> set[str]:
    """Return the commands that ``--help`` lists."""
    command = [sys.executable, "-m", "service", "--help"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    section = re.split(r"(?m)^commands:$", printed, maxsplit=1, flags=re.IGNORECASE)[1]
    return set(re.findall(r"^ {2,4}([a-z]+)(?: {2,}|$)", section, re.MULTILINE))


def test_the_table_of_commands_is_complete(commands: set[str]) -> None:
    """It names the commands of ``--help``, no more and no fewer."""
    section = (DOCS / "operations.md").read_text(encoding="utf-8").split("\n## Commands")[1]
    named = re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], re.MULTILINE)
    assert set(named) == commands


@every_page
def test_commands_that_a_page_names_exist(page: Path, commands: set[str]) -> None:
    """Every ``deployment-enricher X`` on the page, in blocks and in sentences."""
    named = re.findall(r"deployment-enricher ([a-z]+)\b", page.read_text(encoding="utf-8"))
    assert {*named} - {"on", "run"} <= commands


@every_page
def test_settings_that_a_page_names_exist(page: Path) -> None:
    """Every ``ENRICHER_*`` on the page is a setting, its ``_FILE``, or one of Compose's."""
    named = set(re.findall(r"`?(ENRICHER_[A-Z_]*[A-Z])\b(?!…)", page.read_text(encoding="utf-8")))
    known = {name for name, _, _ in list_settings()}
    assert {name.removesuffix("_FILE") for name in named - COMPOSE_VARIABLES} <= known
