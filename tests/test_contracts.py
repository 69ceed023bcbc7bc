"""Tests of the contracts: they match the types, are valid, and stay compatible."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from service import contracts
from service.client.entry import Record, parse_entry
from service.contracts import CONTRACTS, add_contract_routes, build_record_schema, render_contract
from service.metrics.http import serve_app
from tests.publish.sample_records import entry_fields

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "samples" / "records" / "v1"
RECORDS = sorted(path for path in GOLDEN.glob("*.json") if "schema" not in path.name)
FROZEN = json.loads((GOLDEN / "frozen.schema.json").read_text())


def build_validator() -> jsonschema.Draft202012Validator:
    """Return a validator of our schema, from the jsonschema package."""
    schema = build_record_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def breaking_changes(old: Any, new: Any, path: str = "$") -> Iterator[str]:
    """Yield every change of a schema that could break a reader of the old one."""
    if isinstance(old, dict) and isinstance(new, dict):
        yield from changes_of_required(old, new, path)
        for key in old.keys() - {"description", "title", "required"}:
            if key in new:
                yield from breaking_changes(old[key], new[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is gone"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (old_member, new_member) in enumerate(zip(old, new, strict=True)):
            yield from breaking_changes(old_member, new_member, f"{path}[{index}]")
    elif old != new:
        yield f"{path} was {old}, is {new}"


def changes_of_required(old: Any, new: Any, path: str) -> Iterator[str]:
    """Yield the fields that are no longer, or newly, required."""
    no_longer_required = {*old.get("required", ())} - {*new.get("required", ())}
    newly_required = {*new.get("required", ())} - {*old.get("required", ())}
    if no_longer_required:
        yield f"{path} promises no more: {sorted(no_longer_required)}"
    if newly_required & {*new.get("properties", ())} and "properties" in old:
        yield f"{path} demands what old records lack: {sorted(newly_required)}"


@pytest.mark.parametrize("name", CONTRACTS)
def test_committed_contract_equals_the_generated_one(name: str) -> None:
    """On failure run `python3 run.py schema FILE > deploy/contracts/FILE`."""
    assert (ROOT / "deploy" / "contracts" / name).read_text() == render_contract(name)


async def test_contract_is_generated_on_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Starting the receiver generates none, and later requests reuse it."""
    rendered = []

    def record_render(name: str) -> str:
        rendered.append(name)
        return render_contract(name)

    monkeypatch.setattr(contracts, "render_contract", record_render)
    app = web.Application()
    add_contract_routes(app)
    async with serve_app(app, host="127.0.0.1", port=0) as url, aiohttp.ClientSession() as session:
        assert rendered == []
        for _ in range(2):
            async with session.get(f"{url}/openapi.json") as response:
                assert await response.text() == render_contract("openapi.json")
    assert rendered == ["openapi.json"]


@pytest.mark.parametrize("name", ["succeeded", "failed", "with-an-id", "unfinished"])
def test_native_body_is_described_for_client_generators(name: str) -> None:
    """Bodies that the source `native` reads match the schema; one without its fields does not."""
    schema = json.loads(render_contract("openapi.json"))["components"]["schemas"]["NativeEvent"]
    validator = jsonschema.Draft202012Validator(schema)
    sample = ROOT / "tests" / "samples" / "webhooks" / "native" / f"{name}.json"
    body = json.loads(sample.read_text(encoding="utf-8"))["body"]
    validator.validate(body)
    assert not validator.is_valid(body | {"deploymentId": "a b"})
    assert not validator.is_valid({"eventType": "finished", "version": "1"})


@pytest.mark.parametrize("name", ["WebhookResult", "Problem", "Health"])
def test_fields_that_a_response_may_omit_have_no_default(name: str) -> None:
    """Generators of types take a field with a default for one that is always there."""
    schema = json.loads(render_contract("openapi.json"))["components"]["schemas"][name]
    optional = schema["properties"].keys() - {*schema["required"]}
    assert optional
    assert [field for field in optional if "default" in schema["properties"][field]] == []


def test_openapi_document_is_valid() -> None:
    """openapi-spec-validator accepts the document."""
    OpenAPIV31SpecValidator(json.loads(render_contract("openapi.json"))).validate()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_of_the_first_version_stays_readable(path: Path) -> None:
    """The types, the schema of today and the frozen schema accept it."""
    fields = json.loads(path.read_text())
    data = fields.pop("data")
    parts = [part.encode() for pair in fields.items() for part in pair]
    record = parse_entry(b"1-0", [*parts, b"data", json.dumps(data).encode()])
    assert isinstance(record, Record)
    assert (record.raw, record.deployment.id) == (data, fields["subject"])
    build_validator().validate(data)
    jsonschema.Draft202012Validator(FROZEN).validate(data)


def test_record_schema_is_compatible_with_its_first_version() -> None:
    """Fields may be added; none is removed, changed or newly required."""
    assert [*breaking_changes(FROZEN, build_record_schema())] == []


def object_schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema of an object with named fields."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield schema
        for member in schema.values():
            yield from object_schemas(member)
    elif isinstance(schema, list):
        for member in schema:
            yield from object_schemas(member)


@pytest.mark.parametrize("name", ["enriched-deployment.v1.json", "asyncapi.json"])
def test_every_object_of_a_record_says_that_it_allows_unknown_fields(name: str) -> None:
    """Generators of models otherwise drop or refuse what LaunchDarkly adds."""
    schemas = [*object_schemas(json.loads(render_contract(name)))]
    assert len(schemas) > 10
    closed = [schema for schema in schemas if schema.get("additionalProperties") is not True]
    assert closed == []


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
def test_document_carries_contact_tags_and_servers(name: str) -> None:
    """A reader of the document alone knows whom to ask and where it applies."""
    document = json.loads(render_contract(name))
    assert document["info"]["contact"].keys() == {"name", "url", "email"}
    assert document.get("tags") or document["info"].get("tags")
    assert document["servers"]


@pytest.mark.parametrize(
    ("break_schema", "message"),
    [
        (lambda new: new["properties"].pop("attempts"), "attempts is gone"),
        (lambda new: new["properties"]["attempts"].update(type="string"), "was integer"),
        (lambda new: new["required"].remove("summary"), "promises no more"),
        (lambda new: new["properties"].update(looks={}) or new["required"].append("looks"), "lack"),
        (lambda new: new["$defs"]["Stage"]["properties"].pop("name"), "name is gone"),
    ],
)
def test_breaking_change_is_detected(break_schema: Any, message: str) -> None:
    """Removing, changing and newly requiring a field are breaking."""
    broken = json.loads(json.dumps(FROZEN))
    break_schema(broken)
    assert message in " ".join(breaking_changes(FROZEN, broken))


def test_new_optional_field_is_not_a_breaking_change() -> None:
    """Older records lack the field."""
    grown = json.loads(json.dumps(FROZEN))
    grown["properties"]["looks"] = {"type": "integer"}
    assert [*breaking_changes(FROZEN, grown)] == []


@pytest.mark.parametrize(
    "wrong", [{"revision": 0}, {"attempts": "1"}, {"deployment": {}}, {"schemaVersion": 2}]
)
def test_record_schema_rejects_invalid_data(wrong: dict[str, object]) -> None:
    """Wrong values of known fields are rejected, and the valid record is accepted."""
    data = json.loads(entry_fields(1)["data"])
    build_validator().validate(data)
    with pytest.raises(jsonschema.ValidationError):
        build_validator().validate(data | wrong)


def test_asyncapi_headers_equal_the_fields_of_an_entry() -> None:
    """They name every field except ``data``, and no other."""
    described = json.loads(render_contract("asyncapi.json"))["components"]["schemas"]["Attributes"]
    fields = {name: value for name, value in entry_fields(1).items() if name != "data"}
    assert {*described["required"]} == {*fields}
    jsonschema.Draft202012Validator(described).validate(fields)
