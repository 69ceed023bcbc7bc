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

from service.operate import contracts
from service.operate.contracts import CONTRACTS, add_contracts, write_contract
from service.operate.listening import listen
from service.publish.reading import Record, read_entry
from service.publish.schema import describe_record
from tests.publish.shelf import write_fields

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "samples" / "records" / "v1"
RECORDS = sorted(path for path in GOLDEN.glob("*.json") if "schema" not in path.name)
FROZEN = json.loads((GOLDEN / "frozen.schema.json").read_text())


def make_validator() -> jsonschema.Draft202012Validator:
    """Make the ecosystem's own reader of our schema."""
    schema = describe_record()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def list_breaks(old: Any, new: Any, place: str = "$") -> Iterator[str]:
    """List what a reader that relies on the old schema could stumble over in the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, told in old.items():
            if key in {"description", "title", "required"}:
                continue
            if key not in new:
                yield f"{place}.{key} is gone"
            else:
                yield from list_breaks(told, new[key], f"{place}.{key}")
        promised = {*old.get("required", ())} - {*new.get("required", ())}
        demanded = {*new.get("required", ())} - {*old.get("required", ())}
        if promised:
            yield f"{place} promises no more: {sorted(promised)}"
        if demanded & {*new.get("properties", ())} and "properties" in old:
            yield f"{place} demands what old records lack: {sorted(demanded)}"
    elif old != new:
        yield f"{place} was {old}, is {new}"


@pytest.mark.parametrize("name", CONTRACTS)
def test_what_is_committed_is_what_the_types_say(name: str) -> None:
    """Else: `python3 run.py schema FILE > deploy/contracts/FILE`."""
    assert (ROOT / "deploy" / "contracts" / name).read_text() == write_contract(name)


async def test_a_contract_is_made_when_somebody_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not while a door opens, and once however often it is asked for."""
    made = []

    def write(name: str) -> str:
        made.append(name)
        return write_contract(name)

    monkeypatch.setattr(contracts, "write_contract", write)
    app = web.Application()
    add_contracts(app)
    async with listen(app, host="127.0.0.1", port=0) as url, aiohttp.ClientSession() as session:
        assert made == []
        for _ in range(2):
            async with session.get(f"{url}/openapi.json") as response:
                assert await response.text() == write_contract("openapi.json")
    assert made == ["openapi.json"]


def test_the_door_is_described_as_openapi_wants_it() -> None:
    """By the reading of openapi-spec-validator."""
    OpenAPIV31SpecValidator(json.loads(write_contract("openapi.json"))).validate()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_of_the_first_version_is_read_for_ever(path: Path) -> None:
    """By the types, by the schema of today, and by that of its own day."""
    fields = json.loads(path.read_text())
    data = fields.pop("data")
    parts = [part.encode() for pair in fields.items() for part in pair]
    record = read_entry(b"1-0", [*parts, b"data", json.dumps(data).encode()])
    assert isinstance(record, Record)
    assert (record.raw, record.deployment.id) == (data, fields["subject"])
    make_validator().validate(data)
    jsonschema.Draft202012Validator(FROZEN).validate(data)


def test_the_schema_breaks_no_reader_of_its_first_version() -> None:
    """Nothing goes, no type changes, nothing is demanded that old records lack; it may grow."""
    assert [*list_breaks(FROZEN, describe_record())] == []


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
    assert told in " ".join(list_breaks(FROZEN, broken))


def test_what_is_new_breaks_nobody() -> None:
    """A field that older records do not have."""
    grown = json.loads(json.dumps(FROZEN))
    grown["properties"]["looks"] = {"type": "integer"}
    assert [*list_breaks(FROZEN, grown)] == []


@pytest.mark.parametrize(
    "wrong", [{"revision": 0}, {"attempts": "1"}, {"deployment": {}}, {"schemaVersion": 2}]
)
def test_the_schema_refuses_what_no_record_is(wrong: dict[str, object]) -> None:
    """So that what it accepts means something."""
    data = json.loads(write_fields(1)["data"])
    make_validator().validate(data)
    with pytest.raises(jsonschema.ValidationError):
        make_validator().validate(data | wrong)


def test_the_stream_is_described_with_the_fields_that_it_has() -> None:
    """Every field of an entry but ``data``, and no other."""
    described = json.loads(write_contract("asyncapi.json"))["components"]["schemas"]["Attributes"]
    fields = {name: value for name, value in write_fields(1).items() if name != "data"}
    assert {*described["required"]} == {*fields}
    jsonschema.Draft202012Validator(described).validate(fields)
