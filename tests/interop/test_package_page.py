"""The distributions, as a package index would take and show them."""

import email.parser
import json
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from service.contracts import build_asyncapi, build_openapi
from tests.interop.conftest import RunProgram

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


def read_page(wheel: Path) -> str:
    """Return the long description in the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [entry for entry in archive.namelist() if entry.endswith("/METADATA")]
        page = email.parser.Parser().parsestr(archive.read(metadata).decode()).get_payload()
    assert isinstance(page, str)
    return page


@every_project
async def test_package_index_takes_and_shows_the_distribution(
    run_python: RunProgram, tmp_path: Path, name: str
) -> None:
    """``twine check`` finds nothing, pyroma gives 10 of 10, and every link is absolute."""
    kinds = ["wheel"] if name == "client" else ["wheel", "sdist"]
    printed = await run_python("check_package.py", PROJECTS[name], tmp_path, *kinds)
    result = json.loads(printed.splitlines()[-1])
    assert (result["has_failed"], result["rating"]) == (False, 10), printed
    assert len(result["built"]) == len(kinds)
    page = read_page(tmp_path / result["built"][0])
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
