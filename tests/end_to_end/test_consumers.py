"""Tests of other consumers: the schemas, TypeScript, and redis-cli alone."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest

from service.client.stream import EnrichedStream
from service.contracts import CONTRACTS, render_contract
from service.simulate.options import Options, Shape
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness
from tests.factories import deployment_id

TYPESCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "typescript"
REDIS_CLI = shutil.which("redis-cli") or shutil.which("valkey-cli")
COUNT = 5

# The gate runs every test: there a missing tool is a failure.
IS_GATE = "GATE" in os.environ
HAS_NODE = shutil.which("npm") is not None and (TYPESCRIPT / "node_modules").is_dir()
needs_node = pytest.mark.skipif(
    not HAS_NODE and not IS_GATE, reason="needs node, and `npm ci` in deploy/examples/typescript"
)


@pytest.fixture
async def published_service(
    service: ServiceHarness, event: dict[str, object], eventually: Eventually
) -> ServiceHarness:
    """Publish records of several deployments."""
    service.simulator.options = Options(shape=Shape(pull_requests=(0, 40)))  # none, or pages
    await service.open()
    for number in range(COUNT):
        await service.post({**event, "deploymentId": deployment_id(number)})
    await eventually(service.is_done)
    assert len(await service.records()) == COUNT
    return service


async def run_program(*command: str, cwd: Path | None = None) -> str:
    """Run a program, assert exit code 0, and return its output."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_real_records_match_the_served_schema(published_service: ServiceHarness) -> None:
    """The receiver serves the schema whose ``$id`` the records name as ``dataschema``."""
    url = f"{published_service.receiver_url}/schemas/enriched-deployment.v1.json"
    async with published_service.session.get(url) as response:
        schema = await response.json()
    for record in await published_service.records():
        assert record["dataschema"] == schema["$id"]
        jsonschema.Draft202012Validator(schema).validate(record["data"])


async def test_receiver_serves_every_contract(published_service: ServiceHarness) -> None:
    """The served documents equal those that the command prints."""
    for name in CONTRACTS:
        path = f"/schemas/{name}" if name.startswith("enriched") else f"/{name}"
        async with published_service.session.get(
            f"{published_service.receiver_url}{path}"
        ) as response:
            assert (response.status, response.content_type) == (200, "application/json")
            assert await response.text() == render_contract(name)


async def test_openapi_paths_exist_at_the_receiver(published_service: ServiceHarness) -> None:
    """Every path and method of the document responds as documented."""
    for path, operations in json.loads(render_contract("openapi.json"))["paths"].items():
        for method in operations.keys() & {"get", "post", "options"}:
            url = f"{published_service.receiver_url}{path.replace('{source}', 'native')}"
            async with published_service.session.request(method, url) as response:
                assert str(response.status) in operations[method]["responses"], (method, path)


async def test_client_reads_real_records(published_service: ServiceHarness) -> None:
    """The typed client decodes each record completely."""
    url, namespace = published_service.settings.redis_url.reveal(), published_service.keys.namespace
    async with EnrichedStream(url, group="typed", namespace=namespace) as stream:
        records = [await anext(stream) for _ in range(COUNT)]
    assert [record.raw for record in records] == [
        record["data"] for record in await published_service.records()
    ]
    for record in records:
        pulls = record.deployment.pull_requests
        assert pulls is not None
        assert len(pulls.items or ()) == record.data.completeness.pull_requests.present


@pytest.mark.skipif(REDIS_CLI is None and not IS_GATE, reason="needs redis-cli or valkey-cli")
async def test_redis_cli_reads_records_with_a_group(published_service: ServiceHarness) -> None:
    """Create a group, read and acknowledge: three commands, and the data is JSON."""
    socket = published_service.settings.redis_url.reveal().removeprefix("unix://")
    cli, stream = (str(REDIS_CLI), "-s", socket), published_service.keys.enriched
    assert await run_program(*cli, "XGROUP", "CREATE", stream, "shell", "0") == "OK\n"
    read = ("XREADGROUP", "GROUP", "shell", "reader", "COUNT", "1", "STREAMS", stream, ">")
    lines = (await run_program(*cli, *read)).splitlines()
    fields = dict(zip(lines[2::2], lines[3::2], strict=False))
    assert json.loads(fields["data"])["deployment"]["id"] == fields["subject"]
    assert await run_program(*cli, "XACK", stream, "shell", lines[1]) == "1\n"


@needs_node
async def test_typescript_reads_records_with_generated_types(
    published_service: ServiceHarness,
) -> None:
    """The types are generated from the schema and checked by the compiler."""
    url = published_service.settings.redis_url.reveal()
    arguments = ("run", "--silent", "read", "--", url, published_service.keys.enriched, str(COUNT))
    output = await run_program("npm", *arguments, cwd=TYPESCRIPT)
    entries = [json.loads(line) for line in output.splitlines()]
    assert [entry["id"] for entry in entries] == [
        record["id"] for record in await published_service.records()
    ]


@needs_node
async def test_asyncapi_parser_accepts_the_document() -> None:
    """The official parser finds no error."""
    assert os.access(TYPESCRIPT / "check-asyncapi.js", os.R_OK)
    await run_program("npm", "run", "--silent", "contracts", cwd=TYPESCRIPT)
