"""The contracts, as linters judge them and as code generators read them."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.contracts import CONTRACTS, render_contract
from tests.end_to_end.harness import SECRET, ServiceHarness
from tests.interop.conftest import RunProgram, run_command

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "samples" / "records" / "v1"


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    """Write every contract into a folder."""
    for name in CONTRACTS:
        (tmp_path / name).write_text(render_contract(name), encoding="utf-8")
    return tmp_path


async def test_redocly_and_spectral_find_nothing(run_node: RunProgram, contracts: Path) -> None:
    """Neither an error nor a warning, by the recommended rules of both."""
    printed = await run_node("lint.js", contracts / "openapi.json", contracts / "asyncapi.json")
    findings = {
        f"{Path(finding['file']).name} {finding['rule']} {finding['path']}: {finding['message']}"
        for finding in map(json.loads, printed.splitlines())
    }
    assert findings == set()


async def test_pydantic_models_of_the_schema_read_every_record(
    interop_python: Path, run_python: RunProgram, contracts: Path
) -> None:
    """datamodel-code-generator makes them, and no field of a record is lost, known or not."""
    schema = contracts / "enriched-deployment.v1.json"
    options = ["--input-file-type", "jsonschema", "--output-model-type", "pydantic_v2.BaseModel"]
    output = ("--output", contracts / "generated.py", "--class-name", "EnrichedDeployment")
    generate = (interop_python, "-m", "datamodel_code_generator", "--input", schema)
    await run_command(*generate, *options, *output)
    records: list[dict[str, Any]] = [
        json.loads(path.read_text(encoding="utf-8"))["data"]
        for path in sorted(GOLDEN.glob("*.json"))
        if "schema" not in path.name
    ]
    printed = await run_python("read_with_models.py", contracts, text=json.dumps(records))
    assert printed.split() == [record["deployment"]["id"] for record in records]


async def test_generated_python_client_posts_to_the_receiver(
    service: ServiceHarness, interop_python: Path, run_python: RunProgram, contracts: Path
) -> None:
    """openapi-python-client makes it; it reads what the receiver answers, also a problem."""
    options = contracts / "options.yaml"
    options.write_text("package_name_override: generated_client\npost_hooks: []\n")
    document = ("--path", contracts / "openapi.json", "--output-path", contracts / "out")
    generate = (interop_python, "-m", "openapi_python_client", "generate", "--meta", "none")
    await run_command(*generate, *document, "--config", options)
    await service.open(workers=0)
    (contracts / "out").rename(contracts / "generated_client")
    printed = await run_python("post_with_client.py", contracts, service.receiver_url, SECRET)
    assert printed.splitlines() == ["202 queued", "401 Unauthorized"]
