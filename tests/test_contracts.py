"""Do the contracts say what is, do they hold by others' reading, and are old readers safe?"""

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
    """Make the ecosystem's own reader of our schema."""
    schema = build_record_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def breaking_changes(old: Any, new: Any, path: str = "$") -> Iterator[str]:
    """List what a reader that relies on the old schema could stumble over in the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, old_value in old.items():
            if key in {"description", "title", "required"}:
                continue
            if key not in new:
                yield f"{path}.{key} is gone"
            else:
                yield from breaking_changes(old_value, new[key], f"{path}.{key}")
        no_longer_required = {*old.get("required", ())} - {*new.get("required", ())}
        newly_required = {*new.get("required", ())} - {*old.get("required", ())}
        if no_longer_required:
            yield f"{path} promises no more: {sorted(no_longer_required)}"
        if newly_required & {*new.get("properties", ())} and "properties" in old:
            yield f"{path} demands what old records lack: {sorted(newly_required)}"
    elif old != new:
        yield f"{path} was {old}, is {new}"


@pytest.mark.parametrize("name", CONTRACTS)
def test_what_is_committed_is_what_the_types_say(name: str) -> None:
    """Else: `python3 run.py schema FILE > deploy/contracts/FILE`."""
    assert (ROOT / "deploy" / "contracts" / name).read_text() == render_contract(name)


async def test_a_contract_is_made_when_somebody_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not while a receiver opens, and once however often it is asked for."""
    made = []

    def write(name: str) -> str:
        made.append(name)
        return render_contract(name)

    monkeypatch.setattr(contracts, "render_contract", write)
    app = web.Application()
    add_contract_routes(app)
    async with serve_app(app, host="127.0.0.1", port=0) as url, aiohttp.ClientSession() as session:
        assert made == []
        for _ in range(2):
            async with session.get(f"{url}/openapi.json") as response:
                assert await response.text() == render_contract("openapi.json")
    assert made == ["openapi.json"]


def test_the_receiver_is_described_as_openapi_wants_it() -> None:
    """By the reading of openapi-spec-validator."""
    OpenAPIV31SpecValidator(json.loads(render_contract("openapi.json"))).validate()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_of_the_first_version_is_read_for_ever(path: Path) -> None:
    """By the types, by the schema of today, and by that of its own day."""
    fields = json.loads(path.read_text())
    data = fields.pop("data")
    parts = [part.encode() for pair in fields.items() for part in pair]
    record = parse_entry(b"1-0", [*parts, b"data", json.dumps(data).encode()])
    assert isinstance(record, Record)
    assert (record.raw, record.deployment.id) == (data, fields["subject"])
    build_validator().validate(data)
    jsonschema.Draft202012Validator(FROZEN).validate(data)


def test_the_schema_breaks_no_reader_of_its_first_version() -> None:
    """Nothing goes, no type changes, nothing is demanded that old records lack; it may grow."""
    assert [*breaking_changes(FROZEN, build_record_schema())] == []


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda new: new["properties"].pop("attempts"), "attempts is gone"),
        (lambda new: new["properties"]["attempts"].update(type="string"), "was integer"),
        (lambda new: new["required"].remove("summary"), "promises no more"),
        (lambda new: new["properties"].update(looks={}) or new["required"].append("looks"), "lack"),
        (lambda new: new["$defs"]["Stage"]["properties"].pop("name"), "name is gone"),
    ],
)
def test_a_breaking_change_is_seen(break_it: Any, told: str) -> None:
    """Whatever is taken away, changed or newly demanded."""
    broken = json.loads(json.dumps(FROZEN))
    break_it(broken)
    assert told in " ".join(breaking_changes(FROZEN, broken))


def test_what_is_new_breaks_nobody() -> None:
    """A field that older records do not have."""
    grown = json.loads(json.dumps(FROZEN))
    grown["properties"]["looks"] = {"type": "integer"}
    assert [*breaking_changes(FROZEN, grown)] == []


@pytest.mark.parametrize(
    "wrong", [{"revision": 0}, {"attempts": "1"}, {"deployment": {}}, {"schemaVersion": 2}]
)
def test_the_schema_refuses_what_no_record_is(wrong: dict[str, object]) -> None:
    """So that what it accepts means something."""
    data = json.loads(entry_fields(1)["data"])
    build_validator().validate(data)
    with pytest.raises(jsonschema.ValidationError):
        build_validator().validate(data | wrong)


def test_the_stream_is_described_with_the_fields_that_it_has() -> None:
    """Every field of an entry but ``data``, and no other."""
    described = json.loads(render_contract("asyncapi.json"))["components"]["schemas"]["Attributes"]
    fields = {name: value for name, value in entry_fields(1).items() if name != "data"}
    assert {*described["required"]} == {*fields}
    jsonschema.Draft202012Validator(described).validate(fields)
