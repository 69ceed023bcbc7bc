"""Is a ticket read as it was written, by this version and the next?"""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.accept.mapping import DeploymentCompleted
from service.backlog.failures import (
    MAX_RAW_BYTES,
    FailureRecord,
    decode_failure,
    encode_failure,
)
from service.backlog.ticket import (
    CorruptTicket,
    Lease,
    Ticket,
    decode_lease,
    encode_ticket,
    job_key,
    ticket_from_event,
)

HEADER = struct.pack(">IHd", 3, 1, 1_795_428_000_000.0)
NAMES = st.text(max_size=20) | st.none()


def make_event(**fields: str | None) -> DeploymentCompleted:
    """Make an event; what is not said is not known."""
    known = dict.fromkeys(("project", "environment", "application", "version", "deployment_id"))
    return DeploymentCompleted(
        source="native",
        delivery="d",
        outcome="succeeded",
        event_time=None,
        metadata=None,
        metadata_dropped=False,
        time_unreadable=False,
        traceparent=None,
        **{**known, **fields},
    )


def test_an_id_names_its_job_and_four_parts_name_another() -> None:
    """Parts are percent-encoded, so that no two sets of parts meet."""
    assert job_key(make_event(deployment_id="abc", project="p")) == "id:abc"
    parts = {"project": "p/q", "environment": "e", "application": "a b", "version": "1%2"}
    assert job_key(make_event(**parts)) == "find:p%2Fq/e/a%20b/1%252"


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
def test_it_comes_back_as_it_went(ticket: Ticket, name: str | None) -> None:
    """Header and ticket, as Lua stores them; by its id, or by its four names."""
    names = (ticket.project, ticket.environment, ticket.application, ticket.version)
    if name is None and None in names:
        return  # nobody can ask for that
    ticket = replace(ticket, deployment_id=name)
    told = dict(zip(("project", "environment", "application", "version"), names, strict=True))
    job = job_key(make_event(**told, deployment_id=name))
    stored = HEADER + encode_ticket(ticket, job=job)
    lease = decode_lease(job.encode(), fence=b"5.5", stored=stored, now=9)
    assert isinstance(lease, Lease)
    assert lease.ticket == ticket
    assert (lease.generation, lease.crashes, lease.fence) == (3, 1, 5.5)
    assert lease.age_s == 0  # a clock set back makes nobody younger than new


def test_what_the_name_says_is_not_stored_twice() -> None:
    """A million tickets wait in memory; one that was stored whole is read all the same."""
    parts = {"project": "p/q", "environment": "e", "application": "a b", "version": "1%2"}
    ticket = ticket_from_event(make_event(**parts))
    job = job_key(make_event(**parts))
    stored = encode_ticket(ticket, job=job)
    assert b"a b" not in stored
    for each in (stored, msgspec.msgpack.encode(ticket)):
        lease = decode_lease(job.encode(), fence=b"1.5", stored=HEADER + each, now=0)
        assert isinstance(lease, Lease)
        assert lease.ticket == ticket


def test_ticket_carries_that_metadata_was_dropped() -> None:
    """The record names it later; the field is the last of the stored array."""
    event = replace(make_event(version="1"), metadata_dropped=True)
    ticket = ticket_from_event(event)
    assert ticket.metadata_dropped
    assert msgspec.msgpack.decode(encode_ticket(ticket, job="id:x"))[-1] is True


def test_tickets_of_an_older_and_of_a_newer_version_are_read() -> None:
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
def test_a_ticket_queued_at_no_moment_is_unreadable(queued_at: float) -> None:
    """Such a header was not written by us: no record could bear its time, nor its age be told."""
    stored = struct.pack(">IHd", 3, 0, queued_at) + encode_ticket(
        ticket_from_event(make_event(deployment_id="a")), job="id:a"
    )
    told = decode_lease(b"id:a", fence=b"1.5", stored=stored, now=0)
    assert isinstance(told, CorruptTicket)
    assert (told.generation, told.raw) == (3, stored)


@given(st.binary(max_size=60))
def test_anything_else_is_unreadable_and_keeps_its_bytes(stored: bytes) -> None:
    """Never an exception: a person shall see it."""
    lease = decode_lease(b"\xff", fence=b"1.5", stored=stored, now=0)
    if isinstance(lease, CorruptTicket):
        assert lease.raw == stored


def test_a_failure_keeps_the_ticket_and_a_capped_answer() -> None:
    """It is read as it was written."""
    ticket = ticket_from_event(make_event(version="1"))
    failure = FailureRecord(
        reason="not_found", detail="x" * 2000, raw=b"y" * (MAX_RAW_BYTES + 1), ticket=ticket
    )
    kept = decode_failure(encode_failure(failure))
    assert kept == failure
    assert (len(kept.detail), len(kept.raw), kept.raw_cut) == (1000, MAX_RAW_BYTES, True)


def test_a_ticket_from_no_time_at_all_is_unreadable() -> None:
    """One broken header must not keep the others from being claimed."""
    ticket = encode_ticket(ticket_from_event(make_event(version="1")), job="id:x")
    for queued_at in (float("nan"), float("inf"), float("-inf")):
        stored = struct.pack(">IHd", 3, 1, queued_at) + ticket
        lease = decode_lease(b"j", fence=b"1.5", stored=stored, now=0)
        assert isinstance(lease, CorruptTicket)
        assert (lease.generation, lease.raw) == (3, stored)
