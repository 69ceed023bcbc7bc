"""Tests of the entry that a deployment becomes: content, size limit and filter."""

from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.accept.filters import DeploymentFilter
from service.backlog.ticket import Lease
from service.client.entry import Record, parse_entry
from service.contracts import build_record_schema
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Fail, Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder
from tests.factories import make_lease, make_ticket

QUEUED_AT = 1_795_428_000_000
LEASE = make_lease(make_ticket(outcome="failed", metadata=b'{"run":7}'), now=QUEUED_AT + 5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def build_entry(body: bytes, writer: EntryBuilder, *, lease: Lease = LEASE) -> Entry | Fail:
    """Return the entry of a deployment with this body from LaunchDarkly."""
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    return writer.build(Found(deployment=deployment, chunks=(body,)), lease, now_ms=QUEUED_AT + 99)


def parse_built_entry(entry: Entry | Fail, revision: bytes) -> Record:
    """Return the record of an entry, its revision inserted as the script does."""
    assert isinstance(entry, Entry)
    data = BEFORE_REVISION + revision + entry.data_after_revision
    parts = [b"id", b"a:7", *(part.encode() for part in entry.fields), b"data", data]
    record = parse_entry(b"1-0", parts)
    assert isinstance(record, Record)
    return record


@given(VALUES)
def test_entry_data_passes_unknown_values_through(value: Any) -> None:
    """A field of LaunchDarkly that the service does not know reaches the reader unchanged."""
    body = msgspec.json.encode({"id": "a", "endedAt": QUEUED_AT, "novel": value})
    record = parse_built_entry(build_entry(body, EntryBuilder()), b"7")
    assert record.raw["deployment"] == msgspec.json.decode(body)
    assert bytes(record.data.deployment) == body
    assert record.data.revision == 7
    assert record.raw["enrichedAt"] == QUEUED_AT + 99


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**40])
def test_entry_data_keeps_integers_beyond_64_bits(number: int) -> None:
    """The digits of a large integer are passed on as LaunchDarkly sent them."""
    body = msgspec.json.encode({"id": "a"})[:-1] + f',"odd":{number}}}'.encode()
    record = parse_built_entry(build_entry(body, EntryBuilder()), b"7")
    assert bytes(record.data.deployment) == body


@pytest.mark.parametrize("dropped", [True, False])
def test_entry_data_names_dropped_metadata(*, dropped: bool) -> None:
    """The field is present only when metadata was dropped."""
    ticket = replace(LEASE.ticket, metadata=None, metadata_dropped=dropped)
    entry = build_entry(b'{"id": "a"}', EntryBuilder(), lease=replace(LEASE, ticket=ticket))
    record = parse_built_entry(entry, b"7")
    assert record.data.event.metadata_dropped is dropped
    assert record.raw["event"].get("metadataDropped", False) is dropped
    assert ("metadataDropped" in record.raw["event"]) is dropped
    jsonschema.Draft202012Validator(build_record_schema()).validate(record.raw)


def test_entry_builder_refuses_data_above_the_size_limit() -> None:
    """The limit counts the bytes that follow the revision; data of exactly that size is built."""
    body = msgspec.json.encode({"id": "a", "novel": "x" * 1000})
    entry = build_entry(body, EntryBuilder())
    assert isinstance(entry, Entry)
    size = len(entry.data_after_revision)
    assert build_entry(body, EntryBuilder(max_bytes=size)) == entry
    refused = build_entry(body, EntryBuilder(max_bytes=size - 1))
    assert isinstance(refused, Fail)
    assert (refused.reason, refused.detail) == (
        "record_too_large",
        f"{size} bytes, the limit is {size - 1}",
    )


def test_filter_uses_launchdarklys_names_before_those_of_the_webhook() -> None:
    """LaunchDarkly's application key wins; a filtered entry holds no fields, data or plan."""
    body = msgspec.json.encode({"id": "a", "applicationKey": "shop", "environmentKey": "staging"})
    ticket = replace(LEASE.ticket, application="payments", environment="production")
    lease = replace(LEASE, ticket=ticket)
    writer = EntryBuilder(
        deployment_filter=DeploymentFilter(applications=["payments"]), refresh_schedule=(1000,)
    )
    entry = build_entry(body, writer, lease=lease)
    assert isinstance(entry, Entry)
    assert (
        entry.filtered_because == "the application shop is not among ENRICHER_INCLUDE_APPLICATIONS"
    )
    assert (entry.fields, entry.data_after_revision, entry.plan.due) == ((), b"", None)
    nameless = build_entry(b'{"id": "a"}', writer, lease=lease)
    assert isinstance(nameless, Entry)
    assert nameless.filtered_because == ""
    assert isinstance(nameless.plan.due, int)
