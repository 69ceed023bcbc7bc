"""The distribution deployment-enricher-client, installed by pip into a fresh environment."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import textwrap
import tomllib
import venv
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.store.keys import Keys
from tests.publish.sample_records import append_records

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "service" / "client"
EXAMPLES = re.findall(r"```python\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)
DESCRIBE_ENVIRONMENT = """
import importlib.metadata, importlib.util, json
print(json.dumps({
    "distributions": sorted(found.name.lower() for found in importlib.metadata.distributions()),
    "has_service": importlib.util.find_spec("service") is not None,
}))
"""


@pytest.fixture(scope="module")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the client as a consumer does; skip where no package index can be reached."""
    directory = tmp_path_factory.mktemp("client")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run(
        [*pip, str(CLIENT)], capture_output=True, text=True, timeout=50, check=False
    )
    if installed.returncode:
        reason = f"pip could not install the client: {installed.stderr[-500:]}"
        if os.environ.get("CI") or os.environ.get("GATE"):
            pytest.fail(reason)
        pytest.skip(reason)
    return python


def run_python(python: Path, code: str, directory: Path) -> str:
    """Run code where nothing of this repository can be imported, and return what it prints."""
    command = [str(python), "-I", "-c", code]
    finished = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=30, check=True
    )
    return finished.stdout


def read_lines(python: Path, code: str, directory: Path, *, count: int) -> list[str]:
    """Run code that never ends, return the first lines that it prints, and kill it."""
    command = [str(python), "-I", "-u", "-c", code]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process:
        try:
            return list(itertools.islice(process.stdout or (), count))
        finally:
            process.kill()


def test_client_dependencies_are_those_of_the_service() -> None:
    """One environment may hold both, so the bounds are equal."""
    service, client = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in (ROOT, CLIENT)
    )
    bounds = {bound.replace("[hiredis]", "") for bound in service["dependencies"]}
    assert {*client["dependencies"]} <= bounds
    assert {*client["optional-dependencies"]["hiredis"]} <= {*service["dependencies"]}


def test_client_environment_holds_nothing_of_the_service(
    client_python: Path, tmp_path: Path
) -> None:
    """The client brings redis and msgspec, and no package called ``service``."""
    environment = json.loads(run_python(client_python, DESCRIBE_ENVIRONMENT, tmp_path))
    brought = {*environment["distributions"]} - {"pip", "setuptools", "wheel"}
    assert brought - {"async-timeout"} == {"deployment-enricher-client", "msgspec", "redis"}
    assert not environment["has_service"]


def test_client_distribution_exports_every_public_name(client_python: Path, tmp_path: Path) -> None:
    """Every name of ``__all__`` can be imported from the package itself."""
    code = """
import deployment_enricher_client as client
missing = [name for name in client.__all__ if not hasattr(client, name)]
print(missing, client.EnrichedStream.__module__)
"""
    printed = run_python(client_python, code, tmp_path)
    assert printed == "[] deployment_enricher_client.client.stream\n"


@pytest.mark.parametrize("example", EXAMPLES, ids=["async", "blocking"])
async def test_readme_example_reads_a_stream_with_the_installed_client(
    client_python: Path, example: str, redis: Redis, redis_url: str, keys: Keys, tmp_path: Path
) -> None:
    """Both examples print each record; only the address of Redis differs."""
    ids = await append_records(redis, keys.enriched, 1, 2, 3)
    address = f'"{redis_url}", namespace="{keys.namespace}"'
    code = example.replace('"redis://localhost:6379"', address)
    assert address in code
    if "async with" in code:
        imports, _, body = code.partition("\n\n")
        main = f"async def main():\n{textwrap.indent(body, '    ')}"
        code = f"{imports}\nimport asyncio\n{main}\nasyncio.run(main())"
    printed = await asyncio.to_thread(read_lines, client_python, code, tmp_path, count=len(ids))
    assert [line.split()[:2] for line in printed] == [[record_id, "shop"] for record_id in ids]
    await redis.delete(keys.enriched)
