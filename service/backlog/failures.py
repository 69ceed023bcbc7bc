"""Failure records: why a ticket failed or an event was parked, and how each is retried."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from hashlib import sha1
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr, replace

from service.accept.mapping import (
    Batch,
    DeploymentEvent,
    Event,
    Ignored,
    Unmappable,
    parse_webhook,
)
from service.accept.payload import InvalidPayload
from service.accept.replay import ReplayContext
from service.accept.signatures import SignedRequest
from service.accept.sources import Source
from service.backlog.ticket import (
    QueuedEvent,
    Ticket,
    decode_event_list,
    job_key,
    split_event_list,
    ticket_from_event,
)

MAX_RESPONSE_BYTES = 64 * 1024
MAX_DETAIL_LENGTH = 1000
UNMAPPABLE = "unmappable"
"""The reason of parked events: a deployment finished, but the event does not say which one."""

MIN_SHOWN_EVENTS = 2
"""From so many events of a ticket on, all are shown: the ticket is one of them."""

_PARKED_PREFIX = f"{UNMAPPABLE}:"
_COMPRESSION_LEVEL = 1  # JSON shrinks to a fifth or less; higher levels take several times longer


class FailureRecord(Struct, frozen=True, kw_only=True):
    """A failed ticket or a parked event, with what a person needs to judge and retry it.

    ``raw`` is the body of a parked event, whole, or the response: at most ``MAX_RESPONSE_BYTES``,
    else ``raw_cut`` is true. It is stored apart, because it may be large: ``raw`` is empty where
    only the record was read, and ``raw_size`` says how many bytes there are.
    ``fence`` names the lease that failed, so that a repeated call is recognised.
    ``replay_context`` is what a parked event needs beside its body to be parsed again.
    Lua reads the reason, which must stay the first field.
    """

    reason: str
    detail: str = ""
    raw: bytes = b""
    raw_cut: bool = False
    ticket: Ticket | None = None
    fence: float = 0.0
    replay_context: ReplayContext | None = None
    raw_size: int = 0

    def __post_init__(self) -> None:
        """Cut what is too long to store."""
        if len(self.detail) > MAX_DETAIL_LENGTH:
            force_setattr(self, "detail", self.detail[:MAX_DETAIL_LENGTH])
        if self.reason != UNMAPPABLE and len(self.raw) > MAX_RESPONSE_BYTES:
            force_setattr(self, "raw", self.raw[:MAX_RESPONSE_BYTES])
            force_setattr(self, "raw_cut", True)
        if self.raw:
            force_setattr(self, "raw_size", len(self.raw))


def encode_failure(failure: FailureRecord) -> bytes:
    """Return a failure record as msgpack, without the raw response or body."""
    return msgspec.msgpack.encode(replace(failure, raw=b""))


def compress_raw(raw: bytes) -> bytes:
    """Return a raw response or body as it is stored; empty if there is none."""
    return zlib.compress(raw, _COMPRESSION_LEVEL) if raw else b""


def with_raw(failed: "FailedTicket", stored: bytes | None) -> "FailedTicket":
    """Return a failed ticket with its stored response or body, if that can be decompressed."""
    if failed.failure is None or not stored:
        return failed
    try:
        raw = zlib.decompress(stored, bufsize=max(failed.failure.raw_size, 1))
    except zlib.error:
        return failed
    return replace(failed, failure=replace(failed.failure, raw=raw))


def _decode_failure(stored: bytes) -> tuple[FailureRecord, bytes]:
    """Return a record, and the list of failed events that follows it; raise MsgspecError."""
    try:
        record, listed = split_event_list(stored)
    except (ValueError, struct.error) as error:
        raise msgspec.DecodeError(str(error)) from error
    return msgspec.msgpack.decode(record, type=FailureRecord), listed


class FailedTicket(Struct, frozen=True, kw_only=True):
    """A failed ticket or parked event: its job, when it failed (Redis ms), and its record.

    ``digest`` is the SHA-1 of the record as it was read, so that a retry or a drop changes no other
    record. ``failure`` is None if the record cannot be decoded. ``events`` are the events that
    failed, the newest first, if the job is a version: it may have several deployments.
    """

    job: str
    at_ms: float
    digest: str
    failure: FailureRecord | None
    events: tuple[QueuedEvent, ...] = ()

    @property
    def reason(self) -> str:
        """The reason of the failure, as one word."""
        return "unreadable" if self.failure is None else self.failure.reason

    @property
    def source(self) -> str:
        """The source of the webhook; empty if it is not known."""
        parked = parse_parked_job(self.job)
        if parked is not None:
            return parked[0]
        return self.failure.ticket.source if self.failure and self.failure.ticket else ""

    @property
    def application(self) -> str:
        """The key of the deployed application; empty if it is not known."""
        ticket = self.failure.ticket if self.failure else None
        return (ticket.application if ticket else None) or ""


def decode_failed_ticket(job: str, at_ms: float, stored: bytes | None) -> FailedTicket:
    """Return the failed ticket of a job, even if its record is missing or cannot be decoded."""
    if stored is None:
        return FailedTicket(job=job, at_ms=at_ms, digest="", failure=None)
    digest = sha1(stored, usedforsecurity=False).hexdigest()
    try:
        failure, listed = _decode_failure(stored)
    except (msgspec.MsgspecError, RecursionError):
        return FailedTicket(job=job, at_ms=at_ms, digest=digest, failure=None)
    try:
        events = (*decode_event_list(listed, job),)
    except (msgspec.MsgspecError, RecursionError, ValueError, struct.error):
        events = ()
    failure = replace(failure, ticket=_choose_ticket(failure.ticket, events))
    return FailedTicket(job=job, at_ms=at_ms, digest=digest, failure=failure, events=events)


def _choose_ticket(ticket: Ticket | None, events: Sequence[QueuedEvent]) -> Ticket | None:
    """Return the ticket of a record; that of its newest event if its own has another job now."""
    deliveries = {(event.ticket.source, event.ticket.delivery) for event in events}
    if ticket is None or not deliveries or (ticket.source, ticket.delivery) in deliveries:
        return ticket
    return events[0].ticket


def parked_job(source: str, delivery: str) -> str:
    """Return the job under which a parked event is stored."""
    return f"{_PARKED_PREFIX}{source}/{delivery}"


def parse_parked_job(job: str) -> tuple[str, str] | None:
    """Return source and delivery of a parked event; None for any other job."""
    source, separator, delivery = job.removeprefix(_PARKED_PREFIX).partition("/")
    return (source, delivery) if separator and job.startswith(_PARKED_PREFIX) else None


class Requeue(Struct, frozen=True):
    """The decision to queue a failed ticket as this job, with this ticket."""

    job: str
    ticket: Ticket


class Skip(Struct, frozen=True):
    """The decision to leave a failed ticket, and why; ``failure`` is its new record, if any."""

    reason: str
    failure: FailureRecord | None = None


def plan_retry(failed: FailedTicket, sources: Mapping[str, Source]) -> Requeue | Skip:
    """Decide whether a failed ticket can be retried; a parked event needs its body."""
    failure, parked = failed.failure, parse_parked_job(failed.job)
    if failure is None:
        return Skip("its failure record cannot be read")
    if parked is not None:
        source = sources.get(parked[0])
        if source is None:
            return Skip(f"there is no source {parked[0]!r} here")
        return _plan_parked_retry(source, failure, delivery=parked[1])
    if failure.ticket is None:
        return Skip("its ticket is not readable: ask its sender to send it again")
    return Requeue(failed.job, replace(failure.ticket, attempts=0, reason=None))


def _plan_parked_retry(source: Source, failure: FailureRecord, *, delivery: str) -> Requeue | Skip:
    if len(failure.raw) < failure.raw_size:
        reason = "its body cannot be read: ask its sender to send it again"
        return Skip(reason, replace(failure, detail=reason))  # or it is gone: retry.lua says which
    context = failure.replay_context or ReplayContext()
    event = parse_webhook(source, SignedRequest(context.headers, context.query, failure.raw))
    if isinstance(event, DeploymentEvent):
        # The delivery mark has the id under which the event arrived, perhaps in a batch.
        requeued_event = replace(event, delivery=delivery)
        return Requeue(job_key(requeued_event), ticket_from_event(requeued_event))
    reason = _skip_reason(event)
    if failure.replay_context is None:
        reason += " (its headers were not stored)"
    return Skip(reason, replace(failure, detail=reason))


def _skip_reason(event: Event | Batch) -> str:
    match event:
        case Unmappable(reason):
            return reason
        case Ignored(reason) | InvalidPayload(reason):
            return f"it no longer is an event: {reason}"
        case Batch():
            return "it is a batch of events"
        case DeploymentEvent():
            return ""
        case unreachable:
            assert_never(unreachable)
