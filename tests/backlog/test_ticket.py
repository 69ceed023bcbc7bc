"""Tests of tickets: each version decodes what it and other versions encoded."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.backlog.failures import (
    MAX_RESPONSE_BYTES,
    FailureRecord,
    compress_raw,
    decode_failed_ticket,
    encode_failure,
    with_raw,
)
from service.backlog.ticket import (
    CorruptTicket,
    Lease,
    ReportState,
    Ticket,
    decode_lease,
    encode_ticket,
    job_key,
    ticket_from_event,
)
from tests.factories import make_event

HEADER = struct.pack(">IHd", 3, 1, 1_795_428_000_000.0)
NAMES = st.text(max_size=20) | st.none()


def test_job_key_with_and_without_an_id() -> None:
    """The parts are percent-encoded, so that different parts never make the same job."""
    assert job_key(make_event(deployment_id="abc")) == "id:abc"
    parts = {"project": "p/q", "environment": "e", "application": "a b", "version": "1%2"}
    assert job_key(make_event(1, **parts, deployment_id=None)) == "find:p%2Fq/e/a%20b/1%252"


TICKETS = st.builds(
    Ticket,
    source=st.just("s"),
    delivery=st.just("d"),
    outcome=st.just("failed"),
    project=NAMES,
    environment=NAMES,
    application=NAMES,
    version=NAMES,
    reason=NAMES,
    attempts=st.integers(0, 10),
    metadata=st.binary(max_size=20) | st.none(),
)


@given(TICKETS, NAMES)
def test_encode_then_decode_returns_the_same_lease(ticket: Ticket, name: str | None) -> None:
    """The job is the deployment id or the four parts."""
    names = (ticket.project, ticket.environment, ticket.application, ticket.version)
    if name is None and None in names:
        return  # an event without an id has all four parts
    ticket = replace(ticket, deployment_id=name)
    parts = dict(zip(("project", "environment", "application", "version"), names, strict=True))
    job = job_key(make_event(1, **parts, deployment_id=name))
    stored = HEADER + encode_ticket(ticket, job=job)
    lease = decode_lease(job.encode(), fence=b"5.5", stored=stored, now=9)
    assert isinstance(lease, Lease)
    assert lease.ticket == ticket
    assert (lease.generation, lease.crashes, lease.fence) == (3, 1, 5.5)
    assert lease.age_s == 0  # the age is never negative, even if the clock was set back


def test_encode_omits_the_fields_of_the_job() -> None:
    """It saves memory per waiting ticket; a ticket that holds all fields is decoded too."""
    parts = {"project": "p/q", "environment": "e", "application": "a b", "version": "1%2"}
    ticket = ticket_from_event(make_event(1, **parts, deployment_id=None))
    job = job_key(make_event(1, **parts, deployment_id=None))
    stored = encode_ticket(ticket, job=job)
    assert b"a b" not in stored
    for ticket_bytes in (stored, msgspec.msgpack.encode(ticket)):
        lease = decode_lease(job.encode(), fence=b"1.5", stored=HEADER + ticket_bytes, now=0)
        assert isinstance(lease, Lease)
        assert lease.ticket == ticket


def test_encode_of_dropped_metadata_sets_its_field() -> None:
    """The record names it later; only the report follows it in the stored array."""
    event = replace(make_event(version="1"), metadata_dropped=True)
    ticket = ticket_from_event(event)
    assert ticket.metadata_dropped
    assert msgspec.msgpack.decode(encode_ticket(ticket, job="id:x"))[-2:] == [True, None]


def test_ticket_of_a_source_with_report_knows_what_was_told() -> None:
    """Nothing yet; a start is a job of its own, whose ticket has all its fields."""
    event = make_event(report=True, version_name="June", deployment_id=None)
    ticket = ticket_from_event(event)
    assert ticket.report == ReportState(reported_at=0, is_stored=False, version_name="June")
    started = replace(event, outcome="started")
    assert job_key(started) == job_key(event).replace("find:", "start:")
    reported = replace(
        ticket_from_event(started), report=ReportState(reported_at=7, is_stored=True)
    )
    stored = HEADER + encode_ticket(reported, job=job_key(started))
    lease = decode_lease(job_key(started).encode(), fence=b"1.5", stored=stored, now=0)
    assert isinstance(lease, Lease)
    assert lease.ticket == reported


def test_decode_of_tickets_of_other_versions_returns_leases() -> None:
    """New fields go to the end: an older array is shorter, a newer one longer."""
    fields = msgspec.msgpack.decode(
        encode_ticket(ticket_from_event(make_event(version="1")), job="id:x")
    )
    for stored in (fields[:8], [*fields, "new"]):
        lease = decode_lease(
            b"j", fence=b"1.5", stored=HEADER + msgspec.msgpack.encode(stored), now=0
        )
        assert isinstance(lease, Lease)
        assert lease.ticket.version == "1"


@pytest.mark.parametrize("queued_at", [-1.0, -1e243, 1e18, float("inf"), float("nan")])
def test_decode_of_an_invalid_queue_time_returns_a_corrupt_ticket(queued_at: float) -> None:
    """No record could hold such a time."""
    stored = struct.pack(">IHd", 3, 0, queued_at) + encode_ticket(
        ticket_from_event(make_event(deployment_id="a")), job="id:a"
    )
    corrupt = decode_lease(b"id:a", fence=b"1.5", stored=stored, now=0)
    assert isinstance(corrupt, CorruptTicket)
    assert (corrupt.generation, corrupt.raw) == (3, stored)


@given(st.binary(max_size=60))
def test_decode_of_other_bytes_returns_a_corrupt_ticket_with_them(stored: bytes) -> None:
    """It never raises: a person must be able to see the bytes."""
    lease = decode_lease(b"\xff", fence=b"1.5", stored=stored, now=0)
    if isinstance(lease, CorruptTicket):
        assert lease.raw == stored


def test_failure_record_holds_the_ticket_and_a_cut_response() -> None:
    """Decoding returns what was encoded."""
    ticket = ticket_from_event(make_event(version="1"))
    failure = FailureRecord(
        reason="not_found", detail="x" * 2000, raw=b"y" * (MAX_RESPONSE_BYTES + 1), ticket=ticket
    )
    record_only = decode_failed_ticket("id:x", 0, encode_failure(failure))
    assert record_only.failure == replace(failure, raw=b"")
    decoded = with_raw(record_only, compress_raw(failure.raw)).failure
    assert decoded == failure
    assert (len(decoded.detail), decoded.raw_size, decoded.raw_cut) == (
        *(1000, MAX_RESPONSE_BYTES),
        True,
    )
    damaged = with_raw(record_only, b"not compressed")
    assert damaged == record_only


def test_decode_of_a_queue_time_that_is_no_number_returns_a_corrupt_ticket() -> None:
    """One broken header must not block the claim of others."""
    ticket = encode_ticket(ticket_from_event(make_event(version="1")), job="id:x")
    for queued_at in (float("nan"), float("inf"), float("-inf")):
        stored = struct.pack(">IHd", 3, 1, queued_at) + ticket
        lease = decode_lease(b"j", fence=b"1.5", stored=stored, now=0)
        assert isinstance(lease, CorruptTicket)
        assert (lease.generation, lease.raw) == (3, stored)
