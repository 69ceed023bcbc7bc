"""Can others read what we write? By the schema, in TypeScript, and with nothing but redis-cli."""

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import jsonschema
import pytest

from service.client.stream import EnrichedStream
from service.contracts import CONTRACTS, render_contract
from service.simulate.options import Options, Shape
from tests.end_to_end.harness import ServiceHarness, deployment_id

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

TYPESCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "typescript"
REDIS_CLI = shutil.which("redis-cli") or shutil.which("valkey-cli")
COUNT = 5

# In the gate nothing is skipped: there it fails.
IS_GATE = "GATE" in os.environ
HAS_NODE = shutil.which("npm") is not None and (TYPESCRIPT / "node_modules").is_dir()
needs_node = pytest.mark.skipif(
    not HAS_NODE and not IS_GATE, reason="needs node, and `npm ci` in deploy/examples/typescript"
)


@pytest.fixture
async def published_story(
    story: ServiceHarness, event: dict[str, object], eventually: Eventually
) -> ServiceHarness:
    """Let some deployments become records."""
    story.simulator.options = Options(shape=Shape(pull_requests=(0, 40)))  # pages, and none at all
    await story.open()
    for number in range(COUNT):
        await story.post({**event, "deploymentId": deployment_id(number)})
    await eventually(story.is_done)
    assert len(await story.records()) == COUNT
    return story


async def run_program(*command: str, cwd: Path | None = None) -> str:
    """Run a program to its good end; gives what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


async def test_records_are_what_the_served_schema_says(published_story: ServiceHarness) -> None:
    """Real ones, by the schema that their own ``dataschema`` names at the receiver."""
    for record in await published_story.records():
        async with published_story.session.get(
            f"{published_story.receiver_url}{record['dataschema']}"
        ) as response:
            schema = await response.json()
        jsonschema.Draft202012Validator(schema).validate(record["data"])


async def test_the_receiver_serves_every_contract(published_story: ServiceHarness) -> None:
    """The same that the command prints."""
    for name in CONTRACTS:
        path = f"/schemas/{name}" if name.startswith("enriched") else f"/{name}"
        async with published_story.session.get(f"{published_story.receiver_url}{path}") as response:
            assert (response.status, response.content_type) == (200, "application/json")
            assert await response.text() == render_contract(name)


async def test_what_is_described_is_there(published_story: ServiceHarness) -> None:
    """Every path and method of the OpenAPI document is answered as it says."""
    for path, acts in json.loads(render_contract("openapi.json"))["paths"].items():
        for method in acts.keys() & {"get", "post", "options"}:
            url = f"{published_story.receiver_url}{path.replace('{source}', 'native')}"
            async with published_story.session.request(method, url) as response:
                assert str(response.status) in acts[method]["responses"], (method, path)


async def test_the_typed_reader_reads_real_records(published_story: ServiceHarness) -> None:
    """Each of them, whole."""
    url, namespace = published_story.settings.redis_url.reveal(), published_story.keys.namespace
    async with EnrichedStream(url, group="typed", namespace=namespace) as stream:
        records = [await anext(stream) for _ in range(COUNT)]
    assert [record.raw for record in records] == [
        each["data"] for each in await published_story.records()
    ]
    for record in records:
        pulls = record.deployment.pull_requests
        assert pulls is not None
        assert len(pulls.items or ()) == record.data.completeness.pull_requests.present


@pytest.mark.skipif(REDIS_CLI is None and not IS_GATE, reason="needs redis-cli or valkey-cli")
async def test_redis_cli_is_consumer_enough(published_story: ServiceHarness) -> None:
    """A group, a read, an acknowledgement: three commands, and the data is JSON."""
    socket = published_story.settings.redis_url.reveal().removeprefix("unix://")
    cli, stream = (str(REDIS_CLI), "-s", socket), published_story.keys.enriched
    assert await run_program(*cli, "XGROUP", "CREATE", stream, "shell", "0") == "OK\n"
    read = ("XREADGROUP", "GROUP", "shell", "one", "COUNT", "1", "STREAMS", stream, ">")
    lines = (await run_program(*cli, *read)).splitlines()
    fields = dict(zip(lines[2::2], lines[3::2], strict=False))
    assert json.loads(fields["data"])["deployment"]["id"] == fields["subject"]
    assert await run_program(*cli, "XACK", stream, "shell", lines[1]) == "1\n"


@needs_node
async def test_typescript_reads_it_with_generated_types(published_story: ServiceHarness) -> None:
    """Types made from the schema, checked by the compiler, a group of its own."""
    url = published_story.settings.redis_url.reveal()
    words = ("run", "--silent", "read", "--", url, published_story.keys.enriched, str(COUNT))
    printed = await run_program("npm", *words, cwd=TYPESCRIPT)
    seen = [json.loads(line) for line in printed.splitlines()]
    assert [each["id"] for each in seen] == [each["id"] for each in await published_story.records()]


@needs_node
async def test_asyncapis_own_parser_accepts_the_document() -> None:
    """Without an error."""
    assert os.access(TYPESCRIPT / "check-asyncapi.js", os.R_OK)
    await run_program("npm", "run", "--silent", "contracts", cwd=TYPESCRIPT)
