"""The distributions, as a package index would take and show them."""

import email.parser
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from service.contracts import build_asyncapi, build_openapi
from tests.interop.conftest import run_command

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = {"service": ROOT, "client": ROOT / "service" / "client"}

every_project = pytest.mark.parametrize("name", PROJECTS)


def read_urls(name: str) -> dict[str, str]:
    """Return the URLs that a pyproject.toml carries."""
    text = (PROJECTS[name] / "pyproject.toml").read_text(encoding="utf-8")
    urls: dict[str, str] = tomllib.loads(text)["project"]["urls"]
    return urls


def relative_links(page: str) -> list[str]:
    """Return the links of a page that lead nowhere on the site of a package index."""
    return re.findall(r"\]\((?!https://|#)([^)]*)\)", page)


def list_files(folder: Path) -> list[Path]:
    """Return the files of a folder."""
    return sorted(folder.iterdir())


@every_project
async def test_package_index_takes_and_shows_the_distribution(
    interop_python: Path, tmp_path: Path, name: str
) -> None:
    """``twine check`` finds nothing, pyroma gives 10 of 10, and every link is absolute."""
    kinds = ("--wheel",) if name == "client" else ("--wheel", "--sdist")
    build = (interop_python, "-m", "build", "--no-isolation", "--outdir", tmp_path)
    await run_command(*build, *kinds, PROJECTS[name])
    built = list_files(tmp_path)
    assert len(built) == len(kinds)
    checked = await run_command(interop_python, "-m", "twine", "check", "--strict", *built)
    assert checked.count("PASSED") == len(built)
    await run_command(interop_python.parent / "pyroma", "--min", "10", PROJECTS[name])
    (wheel,) = [path for path in built if path.suffix == ".whl"]
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [entry for entry in archive.namelist() if entry.endswith("/METADATA")]
        page = email.parser.Parser().parsestr(archive.read(metadata).decode()).get_payload()
    assert isinstance(page, str)
    assert "](https://" in page
    assert relative_links(page) == []


@every_project
def test_every_contract_and_page_names_the_same_project(name: str) -> None:
    """The URL of the project stands in pyproject.toml; the contracts and links have the same."""
    (repository,) = {read_urls(name)["Repository"] for name in PROJECTS}
    assert {build()["info"]["contact"]["url"] for build in (build_openapi, build_asyncapi)} == {
        repository
    }
    text = (PROJECTS[name] / "pyproject.toml").read_text(encoding="utf-8")
    (target,) = re.findall(r'^replacement = ["\']\]\((.*)["\']$', text, re.MULTILINE)
    assert target == f"{repository}/blob/main/"
