"""The CloudEvents SDKs read our entries, and the receiver reads the events that they send."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from service.contracts import build_record_schema
from service.store.keys import Keys
from tests.accept.sample_webhooks import read_samples
from tests.end_to_end.harness import ServiceHarness, read_stream
from tests.interop.conftest import RunProgram
from tests.publish.sample_records import append_records

TOKEN = "the sender's token"
SOURCES = f"""
[[source]]
name = "cd"
preset = "cdevents"
secrets = ["{TOKEN}"]
project = "default"
"""
GOLDEN = Path(__file__).resolve().parents[1] / "samples" / "records" / "v1"


@pytest.fixture
async def entries(redis: Redis, keys: Keys) -> list[dict[str, str]]:
    """Return the fields of entries as the service appends them, and of the recorded ones."""
    await append_records(redis, keys.enriched, 1, 2)
    await append_records(redis, keys.enriched, 1, revision=2, novelty={"added": "later"})
    recorded = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(GOLDEN.glob("*.json"))
        if "schema" not in path.name
    ]
    texts = [{**fields, "data": json.dumps(fields["data"])} for fields in recorded]
    return [*await read_stream(redis, keys.enriched), *texts]


async def test_javascript_sdk_and_ajv_accept_every_entry(
    run_node: RunProgram, entries: list[dict[str, str]]
) -> None:
    """Also ``dataschema``, which the SDK refuses unless it is an absolute URI."""
    text = json.dumps({"schema": build_record_schema(), "entries": entries})
    printed = await run_node("read-entries.js", text=text)
    assert printed.split() == [entry["id"] for entry in entries]


async def test_python_sdk_accepts_every_entry(
    run_python: RunProgram, entries: list[dict[str, str]]
) -> None:
    """Each entry is an event, and stays the same when it is sent on, structured or binary."""
    printed = await run_python("read_cloudevents.py", text=json.dumps(entries))
    assert printed.split() == [entry["id"] for entry in entries]


def cdevent() -> str:
    """Return the attributes and the data of a CDEvent, as JSON."""
    data = next(sample.body for sample in read_samples() if str(sample) == "cdevents/succeeded")
    attributes = {name: data["context"][name] for name in ("source", "type")}
    attributes["datacontenttype"] = "application/json"
    return json.dumps({**attributes, "data": data})


async def serve_cdevents(service: ServiceHarness, folder: Path) -> str:
    """Open a receiver without a worker; return the URL of its source."""
    (folder / "sources.toml").write_text(SOURCES)
    await service.open(workers=0, sources=str(folder / "sources.toml"))
    return f"{service.receiver_url}/webhooks/cd"


def parse_results(printed: str) -> list[tuple[int, Any]]:
    """Return status and body of each printed response."""
    responses = [json.loads(line) for line in printed.splitlines()]
    return [(response["status"], response["body"]) for response in responses]


async def test_receiver_reads_the_events_of_the_javascript_sdk(
    service: ServiceHarness, run_node: RunProgram, tmp_path: Path
) -> None:
    """Structured, binary, and a batch with one result for each event."""
    url = await serve_cdevents(service, tmp_path)
    structured, binary, batch = parse_results(
        await run_node("send-events.js", url, TOKEN, text=cdevent())
    )
    for status, body in (structured, binary):
        assert (status, body["status"]) == (202, "queued")
    assert {structured[1]["job"], binary[1]["job"]} == {
        event["job"] for event in batch[1]["events"]
    }
    assert [event["status"] for event in batch[1]["events"]] == ["queued", "queued"]


async def test_receiver_reads_the_events_of_the_python_sdk(
    service: ServiceHarness, run_python: RunProgram, tmp_path: Path
) -> None:
    """Structured and binary, each a delivery of its own."""
    url = await serve_cdevents(service, tmp_path)
    results = parse_results(await run_python("send_cloudevents.py", url, TOKEN, text=cdevent()))
    assert [(status, body["status"]) for status, body in results] == [(202, "queued")] * 2
    assert len({body["job"] for _, body in results}) == 1
