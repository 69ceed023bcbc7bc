"""Tests of the receiver against its OpenAPI document, with requests made by schemathesis.

Each response must have a documented status, type, headers and body. A 5xx is a failure while Redis
is available. The requests are the same each time.
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
from tests.end_to_end.harness import SECRET, ServiceHarness, open_harness
from tests.factories import deployment_id
from tests.faults.bad_network import FaultyProxy
from tests.tcp_proxy import connect_to_socket

pytestmark = pytest.mark.timeout(300)  # schemathesis makes about a thousand calls
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
    """A response that the document does not allow, with the report of schemathesis."""

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
    """Return the schema of an object that mostly has these fields."""
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
    """Return the schemas of the request bodies: JSON, CloudEvent, batch, and an invalid form."""
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
    """Write the document with one path for each source and the bodies for it.

    The requests then reach real sources. The allowed responses stay as documented.
    """
    document = json.loads(render_contract("openapi.json"))
    webhooks = document["paths"].pop("/webhooks/{source}")
    headers = [{"name": name, "in": "header", "schema": {"type": "string"}} for name in HEADERS]
    for name, bodies in sources.items():
        content = {kind: {"schema": schema} for kind, schema in bodies.items()}
        post = webhooks["post"] | {
            "operationId": f"post-{name}",
            "parameters": headers,
            "requestBody": {"required": True, "content": content},
        }
        document["paths"][f"/webhooks/{name}"] = {"post": post}
    path.write_text(json.dumps(document))


async def run_schemathesis(service: ServiceHarness, home: Path, *arguments: str) -> tuple[int, str]:
    """Let schemathesis call the receiver as the document allows; return exit code and report."""
    child = await asyncio.create_subprocess_exec(
        *(
            str(PROGRAM),
            "run",
            *arguments,
            "--url",
            service.receiver_url,
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
async def service(
    redis: Redis, redis_url: str, keys: Keys, tmp_path: Path
) -> AsyncIterator[ServiceHarness]:
    """Open a receiver with several sources and no worker."""
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


def webhook_outcomes(service: ServiceHarness) -> set[str]:
    """Return the log events of all webhooks: their outcomes."""
    return {line["event"] for line in service.log_events() if line["event"].startswith("webhook_")}


@few_and_many
async def test_receiver_matches_its_document(
    service: ServiceHarness, tmp_path: Path, examples: int
) -> None:
    """The requests come from the document alone, as the receiver itself serves it."""
    arguments = (
        f"{service.receiver_url}/openapi.json",
        "--checks",
        "all",
        "--max-examples",
        f"{examples}",
    )
    code, report = await run_schemathesis(service, tmp_path, *arguments)
    assert code == 0, report
    assert "Selected: 6/6" in report


async def test_receiver_without_redis_matches_its_document(
    redis: Redis, redis_url: str, keys: Keys, tmp_path: Path
) -> None:
    """The documented response is then 503 with Retry-After."""
    event = {"deploymentId": deployment_id(), "eventType": "finished"}
    bodies = {"application/json": {"const": event}}
    write_openapi(tmp_path / "narrowed.json", native=bodies)
    arguments = ["narrowed.json", "--phases", "fuzzing", "--mode", "positive"]
    arguments += ["--max-examples", "2"]
    arguments += ["--exclude-checks", "not_a_server_error,positive_data_acceptance"]
    async with (
        FaultyProxy(connect_to_socket(Path(redis_url.removeprefix("unix://")))) as proxy,
        open_harness(
            redis, keys.namespace, redis_url=Secret(f"redis://{proxy.address}")
        ) as service,
    ):
        await service.open(workers=0)
        proxy.set_fault("refusing")
        code, report = await run_schemathesis(service, tmp_path, *arguments)
        assert code == 0, report
        assert "webhook_unavailable" in webhook_outcomes(service)


@few_and_many
async def test_known_sources_match_the_document(
    service: ServiceHarness, tmp_path: Path, examples: int
) -> None:
    """Signed webhooks of several kinds reach every possible outcome."""
    native, cdevents = body_schemas(NATIVE), body_schemas(CDEVENT)
    path = tmp_path / "narrowed.json"
    write_openapi(path, native=native, lenient=native, cdevents=cdevents)
    semantic = "negative_data_rejection,positive_data_acceptance"  # the request bodies are narrowed
    arguments = ("narrowed.json", "--exclude-checks", semantic, "--max-examples", f"{examples}")
    code, report = await run_schemathesis(service, tmp_path, *arguments)
    assert code == 0, report
    assert webhook_outcomes(service) == {
        f"webhook_{outcome}" for outcome in ("queued", "duplicate", "ignored", "rejected", "parked")
    }


async def test_wrong_response_is_found(
    service: ServiceHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself works: it finds a wrong status, type or body, and a server error."""
    invalid_responses = itertools.cycle(INVALID_RESPONSES)

    def respond(*_: object) -> web.Response:
        invalid = next(invalid_responses)
        return web.Response(
            status=invalid.status, content_type=invalid.content_type, text=invalid.body
        )

    monkeypatch.setattr(handler, "_build_http_response", respond)
    arguments = (
        f"{service.receiver_url}/openapi.json",
        "--include-method",
        "POST",
        "--max-examples",
        "9",
    )
    code, report = await run_schemathesis(service, tmp_path, *arguments)
    assert code == 1
    expected = [invalid.report_text for invalid in INVALID_RESPONSES]
    assert [text for text in expected if text not in report] == [], report
