"""Tests of README.md: it stays short, and it names each package."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAX_WORDS = 1300


def test_the_readme_is_short() -> None:
    """Everything else is in docs/."""
    assert len(README.split()) <= MAX_WORDS


def test_the_readme_names_every_package() -> None:
    """A stranger finds the package of a change in the table."""
    packages = [path.parent.name for path in (ROOT / "service").glob("*/__init__.py")]
    assert [name for name in packages if f"{name}/`" not in README] == []


def test_the_readme_links_to_every_page_of_docs() -> None:
    """The README is the way to each of them."""
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert [name for name in pages if f"docs/{name}" not in README] == []
