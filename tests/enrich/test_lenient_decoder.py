"""Tests of lenient decoding: any JSON may stand in any optional field of a deployment."""

import json
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw, Struct

from service.client.entry import Record, parse_entry
from service.contracts import build_record_schema
from service.enrich import models
from service.enrich.lenient_decoder import LenientDecoder, ValueReader
from service.enrich.models import Deployment, parse_deployment, split_deployment
from service.enrich.pagination import MergedDeployment
from service.enrich.steps import finish_steps
from service.enrich.verdict import Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder
from tests.factories import make_lease, make_ticket

SAMPLE = json.loads(
    (Path(__file__).parents[1] / "samples" / "deployment_as_documented.json").read_text()
)
VALIDATOR = jsonschema.Draft202012Validator(build_record_schema())
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["null", "7", "true", 2**63, 10**400, 1.5, "2026-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
Location = tuple[str | int, ...]


def list_locations(value: Any, location: Location = ()) -> Iterator[Location]:
    """Yield the keys that lead to each value in JSON, its containers included."""
    if location:
        yield location
    children: Any = ()
    if isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        yield from list_locations(child, (*location, key))


LOCATIONS = [location for location in list_locations(SAMPLE) if location != ("id",)]


def with_changes(changes: list[tuple[Location, Any]]) -> bytes:
    """Return the sample with other values at some locations, as JSON."""
    changed = json.loads(json.dumps(SAMPLE))
    for location, value in changes:
        try:
            reduce(lambda container, key: container[key], location[:-1], changed)[location[-1]] = (
                value
            )
        except (LookupError, TypeError):
            continue  # an earlier change replaced a container above it
    return json.dumps(changed).encode()


def format_path(location: Location) -> str:
    """Return a location as completeness names it."""
    names = ("[]" if isinstance(key, int) else f".{key}" for key in location)
    return "".join(names).removeprefix(".").replace("_links.self", "_links.*")


def list_values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each parsed value that is no container, with the path of its field."""
    if isinstance(value, Struct):
        for field in msgspec.structs.fields(type(value)):
            name = f"{path}.{field.encode_name}".removeprefix(".")
            yield from list_values(getattr(value, field.name), name)
    elif isinstance(value, list):
        for item in value:
            yield from list_values(item, f"{path}[]")
    elif not isinstance(value, dict | Raw):
        yield path, value


def build_data(body: bytes) -> tuple[Entry, bytes]:
    """Return the entry of a deployment and its data, as the script appends it."""
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    found = Found(deployment=deployment, chunks=(body,))
    entry = EntryBuilder().build(found, make_lease(make_ticket()), now_ms=5)
    assert isinstance(entry, Entry)
    return entry, BEFORE_REVISION + b"1" + entry.data_after_revision


@given(st.lists(st.tuples(st.sampled_from(LOCATIONS), JSON), min_size=1, max_size=4))
@example([(("startedAt",), "2026-01-01T00:00:00Z")])
@example([(("pullRequests", "items", 0, "externalId"), 1234)])
@example([(("pullRequests", "items", 0, "deployments", "_links"), [])])
def test_any_json_in_any_optional_field_makes_a_valid_record(
    changes: list[tuple[Location, Any]],
) -> None:
    """It is passed on untouched; schema, client and console read the record."""
    body = with_changes(changes)
    entry, data = build_data(body)
    assert body in data
    VALIDATOR.validate(json.loads(data))
    parts = [part.encode() for part in ("id", "x:1", *entry.fields)]
    record = parse_entry(b"1-0", [*parts, b"data", data])
    assert isinstance(record, Record)
    assert record.deployment.id == SAMPLE["id"]
    named = record.data.completeness.unreadable_fields or ()
    assert tuple(named) == record.deployment.unreadable_fields == entry.unreadable_fields
    assert [*named] == sorted({*named})
    merged = MergedDeployment(finish_steps(split_deployment(body)))
    finish_steps(merged.find_nested())


def list_other_values(deployment: Deployment, path: str) -> list[tuple[str, Any]]:
    """Return the values that are not below a path."""
    return [
        (name, value)
        for name, value in list_values(deployment)
        if not name.startswith((path, "unreadableFields"))
    ]


@pytest.mark.parametrize("value", [7.5, "many", [], {}, ["x"], True], ids=repr)
def test_field_of_another_type_changes_no_other_field(value: Any) -> None:
    """What is not below the field has the same value as without the change."""
    sample = parse_deployment(json.dumps(SAMPLE).encode())
    assert isinstance(sample, Deployment)
    for location in LOCATIONS:
        path = format_path(location)
        deployment = parse_deployment(with_changes([(location, value)]))
        assert isinstance(deployment, Deployment)
        assert all(name.startswith(path) for name in deployment.unreadable_fields)
        assert list_other_values(deployment, path) == list_other_values(sample, path)


@given(st.lists(st.tuples(st.sampled_from(LOCATIONS), JSON), max_size=4))
@example([(("pullRequests",), "null")])
@example([(("pullRequests", "items"), [None, 7, "null", {}])])
def test_large_deployment_is_parsed_as_a_small_one(changes: list[tuple[Location, Any]]) -> None:
    """One pull request at a time, with the same values and the same names."""
    body = with_changes(changes)
    small = parse_deployment(body)
    with patch.object(models, "LARGE_BYTES", 0):
        assert encode(parse_deployment(body)) == encode(small)


def encode(value: Any) -> bytes:
    """Return a struct as JSON: raw parts cannot be compared."""
    return msgspec.json.encode(value)


@given(JSON)
def test_id_must_decode(value: Any) -> None:
    """A deployment without a readable id is none, whatever else it holds."""
    deployment = parse_deployment(json.dumps({**SAMPLE, "id": value}).encode())
    assert isinstance(deployment, Deployment) is isinstance(value, str)


class Inner(Struct):
    """A struct with a field that is required."""

    name: str
    size: int | None = None


class Outer(Struct):
    """A struct with structs in lists and maps."""

    inner: Inner | None = None
    several: list[Inner | None] | None = None
    by_key: dict[str, Inner | None] | None = None


@pytest.mark.parametrize(
    ("text", "value", "paths"),
    [
        ("{}", Outer(), ()),
        ('{"inner":{"size":1}}', Outer(), ("inner",)),
        ('{"inner":{"name":"a","size":"x"}}', Outer(Inner("a")), ("inner.size",)),
        ('{"several":[{"name":1},{"name":"b"}]}', Outer(several=[None, Inner("b")]),
         ("several[]",)),
        ('{"by_key":{"k":{"name":"c","size":[]}}}', Outer(by_key={"k": Inner("c")}),
         ("by_key.*.size",)),
        ('{"inner":7,"inner":{"name":"last"}}', Outer(Inner("last")), ()),
    ],
)  # fmt: skip
def test_decode_leaves_out_the_smallest_part(
    text: str, value: Outer, paths: tuple[str, ...]
) -> None:
    """A struct whose required field cannot be read is left out as a whole."""
    assert LenientDecoder(Outer).decode(text.encode()) == (value, paths)


def test_decode_reads_each_part_once() -> None:
    """The work grows linearly with the number of parts."""
    pull = {"externalId": 7, "flagReferences": {"items": [{"referencesAdded": "x"}] * 3}}
    counts = []
    for pulls in (10, 20, 40):
        body = json.dumps({"id": "a", "pullRequests": {"items": [pull] * pulls}}).encode()
        with patch.object(ValueReader, "read", autospec=True, side_effect=ValueReader.read) as read:
            parse_deployment(body)
        counts.append(read.call_count)
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0]) > 0
