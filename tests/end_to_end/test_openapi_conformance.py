"""Does the receiver do what its OpenAPI document says, whatever it is asked? Schemathesis asks.

Each answer must have a status, a type, headers and a body that the document has for it; a 5xx is
none while Redis is there. What is asked is the same each time.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec import Struct
from redis.asyncio import Redis

from service.accept import handler
from service.contracts import render_contract
from service.settings import Secret
from service.store.keys import Keys
from tests.end_to_end.harness import SECRET, ServiceHarness, deployment_id, open_harness
from tests.faults.bad_network import FaultyProxy
from tests.tcp_proxy import connect_to_socket

pytestmark = pytest.mark.timeout(300)  # a program is started, and asks a thousand times
PROGRAM = Path(sys.executable).with_name("schemathesis")
SOURCES = """
[[source]]
name = "native"
preset = "native"
secrets = ["file:{secret}"]

[[source]]
name = "lenient"
preset = "native"
verify = "none"
strict = false

[[source]]
name = "cdevents"
preset = "cdevents"
verify = "none"
"""
TEXT_SCHEMA = {"type": "string", "enum": ["production", "web", "1.2.3", "", "\u0000\ud7ff"]}
ANYTHING: dict[str, Any] = {}
few_and_many = pytest.mark.parametrize(
    "examples", [10, pytest.param(3000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)


class InvalidResponse(Struct, frozen=True):
    """An answer that no document allows, and what schemathesis says of it."""

    report_text: str
    status: int = 200
    content_type: str = "application/json"
    body: str = '{"status": "ready"}'


INVALID_RESPONSES = (
    InvalidResponse("Undocumented status code", status=201),
    InvalidResponse("Undocumented Content-Type", content_type="text/html"),
    InvalidResponse("Response violates schema", body='{"status": 7}'),
    InvalidResponse("Server error", status=500),
)


def object_schema(*, needs: Iterable[str] = (), **fields: object) -> dict[str, Any]:
    """Describe an object that often has these fields."""
    return {"type": "object", "properties": fields, "required": [*needs]}


NATIVE = object_schema(
    deploymentId={"anyOf": [{"type": "string", "format": "uuid"}, ANYTHING]},
    **dict.fromkeys(["projectKey", "environmentKey", "applicationKey", "version"], TEXT_SCHEMA),
    eventType={"enum": ["finished", "failed", "started"]},
    eventTime={"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]},
    eventMetadata=ANYTHING,
    needs=["eventType", "version"],
)
CDEVENT = object_schema(
    context=object_schema(
        id=TEXT_SCHEMA,
        source=TEXT_SCHEMA,
        type={"enum": ["dev.cdevents.service.deployed.0.2.0", "dev.cdevents.build.queued.0.2.0"]},
        needs=["type"],
    ),
    subject=object_schema(
        id=TEXT_SCHEMA,
        content=object_schema(environment=object_schema(id=TEXT_SCHEMA), artifactId=TEXT_SCHEMA),
    ),
    customData=ANYTHING,
    needs=["context", "subject"],
)
HEADERS = ("webhook-id", "traceparent")


def body_schemas(event: dict[str, Any]) -> dict[str, Any]:
    """Describe an event as JSON, as a CloudEvent, as a batch of them, and a form that is none."""
    cloudevent = object_schema(
        specversion={"const": "1.0"},
        **dict.fromkeys(["id", "source", "type"], TEXT_SCHEMA),
        data=event,
        needs=["specversion", "id", "source", "type"],
    )
    return {
        "application/json": event,
        "application/cloudevents+json": cloudevent,
        "application/cloudevents-batch+json": {"type": "array", "items": cloudevent, "maxItems": 3},
        "application/x-www-form-urlencoded": object_schema(payload=TEXT_SCHEMA),
    }


def write_openapi(path: Path, **sources: dict[str, Any]) -> None:
    """Write the document with a path for each source, and the bodies that are for it.

    What is asked reaches our sources so; how it may be answered stays as the document has it.
    """
    document = json.loads(render_contract("openapi.json"))
    webhooks = document["paths"].pop("/webhooks/{source}")
    headers = [{"name": name, "in": "header", "schema": {"type": "string"}} for name in HEADERS]
    for name, bodies in sources.items():
        content = {kind: {"schema": schema} for kind, schema in bodies.items()}
        post = webhooks["post"] | {
            "operationId": f"tell-{name}",
            "parameters": headers,
            "requestBody": {"required": True, "content": content},
        }
        document["paths"][f"/webhooks/{name}"] = {"post": post}
    path.write_text(json.dumps(document))


async def run_schemathesis(story: ServiceHarness, home: Path, *arguments: str) -> tuple[int, str]:
    """Let schemathesis call the receiver as a document allows; return exit code and report."""
    child = await asyncio.create_subprocess_exec(
        *(
            str(PROGRAM),
            "run",
            *arguments,
            "--url",
            story.receiver_url,
            "--generation-deterministic",
        ),
        *("--no-color", "--continue-on-failure", "--header", f"Authorization: Bearer {SECRET}"),
        cwd=home,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()


@pytest.fixture
async def story(
    redis: Redis, redis_url: str, keys: Keys, tmp_path: Path
) -> AsyncIterator[ServiceHarness]:
    """Open a receiver with several sources; what waits behind it is nobody's afterwards."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "sources.toml").write_text(SOURCES.format(secret=tmp_path / "secret"))
    url, sources = Secret(redis_url), str(tmp_path / "sources.toml")
    async with open_harness(redis, keys.namespace, redis_url=url, sources=sources) as harness:
        yield await harness.open(workers=1)
    remaining_keys = [
        key async for key in redis.scan_iter(match=f"{{{keys.namespace}}}:*", count=1000)
    ]
    if remaining_keys:
        await redis.unlink(*remaining_keys)


def webhook_outcomes(story: ServiceHarness) -> set[str]:
    """Name what became of webhooks."""
    return {fact["event"] for fact in story.log_events() if fact["event"].startswith("webhook_")}


@few_and_many
async def test_the_receiver_does_what_its_document_says(
    story: ServiceHarness, tmp_path: Path, examples: int
) -> None:
    """To whoever knows nothing but the document, as the receiver itself gives it."""
    words = (
        f"{story.receiver_url}/openapi.json",
        "--checks",
        "all",
        "--max-examples",
        f"{examples}",
    )
    code, report = await run_schemathesis(story, tmp_path, *words)
    assert code == 0, report
    assert "Selected: 6/6" in report


async def test_so_it_does_while_redis_is_away(
    redis: Redis, redis_url: str, keys: Keys, tmp_path: Path
) -> None:
    """Then 503 is what the document says, and when to come again."""
    whole = {"deploymentId": deployment_id(), "eventType": "finished"}
    bodies = {"application/json": {"const": whole}}
    write_openapi(tmp_path / "sharpened.json", native=bodies)
    words = ("sharpened.json", "--phases", "fuzzing", "--mode", "positive", "--max-examples", "2")
    checks = "not_a_server_error,positive_data_acceptance"
    async with (
        FaultyProxy(connect_to_socket(Path(redis_url.removeprefix("unix://")))) as wire,
        open_harness(redis, keys.namespace, redis_url=Secret(f"redis://{wire.address}")) as story,
    ):
        await story.open(workers=0)
        wire.set_fault("refusing")
        code, report = await run_schemathesis(story, tmp_path, *words, "--exclude-checks", checks)
        assert code == 0, report
        assert "webhook_unavailable" in webhook_outcomes(story)


@few_and_many
async def test_so_it_does_to_who_knows_its_sources(
    story: ServiceHarness, tmp_path: Path, examples: int
) -> None:
    """Webhooks of several kinds, genuine, and each thing that may become of one does."""
    native, cdevents = body_schemas(NATIVE), body_schemas(CDEVENT)
    path = tmp_path / "sharpened.json"
    write_openapi(path, native=native, lenient=native, cdevents=cdevents)
    semantic = "negative_data_rejection,positive_data_acceptance"  # what is asked is sharpened
    words = ("sharpened.json", "--exclude-checks", semantic, "--max-examples", f"{examples}")
    code, report = await run_schemathesis(story, tmp_path, *words)
    assert code == 0, report
    assert webhook_outcomes(story) == {
        f"webhook_{fate}" for fate in ("queued", "duplicate", "ignored", "rejected", "parked")
    }


async def test_a_receiver_that_does_otherwise_is_found(
    story: ServiceHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the tests above mean something: no status, type, body or fault passes unseen."""
    lies = itertools.cycle(INVALID_RESPONSES)

    def answer(*_: object) -> web.Response:
        lie = next(lies)
        return web.Response(status=lie.status, content_type=lie.content_type, text=lie.body)

    monkeypatch.setattr(handler, "_build_http_response", answer)
    words = (
        f"{story.receiver_url}/openapi.json",
        "--include-method",
        "POST",
        "--max-examples",
        "9",
    )
    code, report = await run_schemathesis(story, tmp_path, *words)
    assert code == 1
    assert [lie.report_text for lie in INVALID_RESPONSES if lie.report_text not in report] == [], (
        report
    )
