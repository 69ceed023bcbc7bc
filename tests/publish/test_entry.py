"""Is a deployment written in the form that was asked for, or refused, and never bent?"""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.accept.filters import DeploymentFilter
from service.backlog.ticket import Lease, Ticket
from service.client.entry import Record, parse_entry
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Fail, Found
from service.publish.entry import Entry, EntryBuilder, PayloadFormat

QUEUED_AT = 1_795_428_000_000
LEASE = Lease(
    job="id:a",
    fence=1.5,
    generation=1,
    crashes=0,
    queued_at=QUEUED_AT,
    now=QUEUED_AT + 5,
    ticket=Ticket(source="native", delivery="d1", outcome="failed", metadata=b'{"run":7}'),
)
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
    """Write the entry of a deployment as LaunchDarkly tells it."""
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    return writer.build(Found(deployment=deployment, body=body), lease, now_ms=QUEUED_AT + 99)


def parse_built_entry(entry: Entry | Fail, revision: bytes) -> Record:
    """Read an entry as a reader would, its revision written as the script does."""
    assert isinstance(entry, Entry)
    data = entry.data_before_revision + revision + entry.data_after_revision
    parts = [b"id", b"a:7", *(part.encode() for part in entry.fields), b"data", data]
    record = parse_entry(b"1-0", parts)
    assert isinstance(record, Record)
    return record


@given(VALUES)
def test_msgpack_says_what_json_says(value: Any) -> None:
    """The same record, value for value, in either form."""
    body = msgspec.json.encode({"id": "a", "endedAt": QUEUED_AT, "novel": value})
    forms: dict[PayloadFormat, bytes] = {"json": b"7", "msgpack": b"\xce\x00\x00\x00\x07"}
    as_json, as_msgpack = (
        parse_built_entry(build_entry(body, EntryBuilder(payload_format=payload)), revision)
        for payload, revision in forms.items()
    )
    assert as_msgpack.is_msgpack
    assert not as_json.is_msgpack
    assert as_msgpack.raw == as_json.raw
    assert as_msgpack.deployment == as_json.deployment
    assert as_msgpack.data.revision == as_json.data.revision == 7
    assert math.isclose(as_msgpack.raw["enrichedAt"], QUEUED_AT + 99)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**40])
def test_what_msgpack_cannot_hold_is_refused(number: int) -> None:
    """A whole number of more than 64 bits would have to be bent: a person decides."""
    body = msgspec.json.encode({"id": "a"})[:-1] + f',"odd":{number}}}'.encode()
    refused = build_entry(body, EntryBuilder(payload_format="msgpack"))
    assert isinstance(refused, Fail)
    assert refused.reason == "record_not_packable"
    assert isinstance(build_entry(body, EntryBuilder()), Entry)


@pytest.mark.parametrize("payload", ["json", "msgpack"])
def test_a_record_is_as_large_as_it_may_be_and_no_larger(payload: PayloadFormat) -> None:
    """The bound is of the bytes that are written, in either form."""
    body = msgspec.json.encode({"id": "a", "novel": "x" * 1000})
    entry = build_entry(body, EntryBuilder(payload_format=payload))
    assert isinstance(entry, Entry)
    size = len(entry.data_after_revision)
    assert build_entry(body, EntryBuilder(payload_format=payload, max_bytes=size)) == entry
    refused = build_entry(body, EntryBuilder(payload_format=payload, max_bytes=size - 1))
    assert isinstance(refused, Fail)
    assert (refused.reason, refused.detail) == (
        "record_too_large",
        f"{size} bytes, the most is {size - 1}",
    )


def test_what_launchdarkly_tells_decides_what_is_left_out() -> None:
    """The deployment's own names go before those of the webhook; nothing else is written of it."""
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
    silent = build_entry(b'{"id": "a"}', writer, lease=lease)
    assert isinstance(silent, Entry)
    assert silent.filtered_because == ""
    assert isinstance(silent.plan.due, int)
