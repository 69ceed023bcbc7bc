"""What was given up, and why? Kept for a person, with all that is needed to judge and retry."""

from collections.abc import Mapping
from hashlib import sha1
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.accept.mapping import (
    Batch,
    DeploymentCompleted,
    Event,
    Ignored,
    Unmappable,
    parse_webhook,
)
from service.accept.payload import InvalidPayload
from service.accept.replay import ReplayContext
from service.accept.signatures import SignedRequest
from service.accept.sources import Source
from service.backlog.ticket import Ticket, job_key, ticket_from_event

MAX_RAW_BYTES = 64 * 1024
UNMAPPABLE = "unmappable"
"""The reason of events set aside: a deployment ended, but which one could not be told."""

_PARKED_PREFIX = f"{UNMAPPABLE}:"


class FailureRecord(Struct, frozen=True, kw_only=True):
    """One ticket given up, or one event set aside. ``raw`` is the answer or body, capped.

    ``fence`` names the lease that gave up, so that the same act sent twice is known again.
    ``clues`` is what an event set aside needs beside its body to be read again.
    """

    reason: str
    detail: str = ""
    raw: bytes = b""
    raw_cut: bool = False
    ticket: Ticket | None = None
    fence: float = 0.0
    clues: ReplayContext | None = None


def build_failure_record(
    reason: str,
    *,
    detail: str = "",
    raw: bytes = b"",
    ticket: Ticket | None = None,
    fence: float = 0.0,
    clues: ReplayContext | None = None,
) -> FailureRecord:
    """Make a failure, with at most 64 KiB of what was answered."""
    return FailureRecord(
        reason=reason,
        detail=detail[:1000],
        raw=raw[:MAX_RAW_BYTES],
        raw_cut=len(raw) > MAX_RAW_BYTES,
        ticket=ticket,
        fence=fence,
        clues=clues,
    )


def encode_failure(failure: FailureRecord) -> bytes:
    """Give the bytes that are kept."""
    return msgspec.msgpack.encode(failure)


def decode_failure(stored: bytes) -> FailureRecord:
    """Read what is kept; raises msgspec.MsgspecError on anything else."""
    return msgspec.msgpack.decode(stored, type=FailureRecord)


class FailedTicket(Struct, frozen=True, kw_only=True):
    """One of the failed: its job, when it was given up (Redis ms), and what is kept of it.

    ``digest`` names what was read, so that nothing else is settled for it. Without ``failure`` what
    is kept could not be read.
    """

    job: str
    at_ms: float
    digest: str
    failure: FailureRecord | None

    @property
    def reason(self) -> str:
        """Why it was given up, in a word."""
        return "unreadable" if self.failure is None else self.failure.reason

    @property
    def source(self) -> str:
        """Who sent the webhook; empty where that cannot be told."""
        parked = parse_parked_job(self.job)
        if parked is not None:
            return parked[0]
        return self.failure.ticket.source if self.failure and self.failure.ticket else ""

    @property
    def application(self) -> str:
        """What was deployed; empty where that cannot be told."""
        ticket = self.failure.ticket if self.failure else None
        return (ticket.application if ticket else None) or ""


def decode_failed_ticket(job: str, at_ms: float, stored: bytes | None) -> FailedTicket:
    """Read one of the failed, whatever is kept of it."""
    if stored is None:
        return FailedTicket(job=job, at_ms=at_ms, digest="", failure=None)
    digest = sha1(stored, usedforsecurity=False).hexdigest()
    try:
        failure = decode_failure(stored)
    except (msgspec.MsgspecError, RecursionError):
        return FailedTicket(job=job, at_ms=at_ms, digest=digest, failure=None)
    return FailedTicket(job=job, at_ms=at_ms, digest=digest, failure=failure)


def parked_job(source: str, delivery: str) -> str:
    """Name an event set aside."""
    return f"{_PARKED_PREFIX}{source}/{delivery}"


def parse_parked_job(job: str) -> tuple[str, str] | None:
    """Read source and delivery out of the name of an event set aside; None for any other job."""
    source, separator, delivery = job.removeprefix(_PARKED_PREFIX).partition("/")
    return (source, delivery) if separator and job.startswith(_PARKED_PREFIX) else None


class Requeue(Struct, frozen=True):
    """To be queued as this job, with this ticket."""

    job: str
    ticket: Ticket


class Skip(Struct, frozen=True):
    """To be left, and why; ``failure`` is what to keep in its place, if there is news."""

    reason: str
    failure: FailureRecord | None = None


def plan_retry(failed: FailedTicket, sources: Mapping[str, Source]) -> Requeue | Skip:
    """Say what becomes of one failure."""
    failure, parked = failed.failure, parse_parked_job(failed.job)
    if failure is None:
        return Skip("what is kept of it cannot be read")
    if parked is not None:
        source = sources.get(parked[0])
        if source is None:
            return Skip(f"there is no source {parked[0]!r} here")
        return _plan_parked_retry(source, failure, delivery=parked[1])
    if failure.ticket is None:
        return Skip("its ticket could not be read: let its sender send it again")
    return Requeue(failed.job, replace(failure.ticket, attempts=0, reason=None))


def _plan_parked_retry(source: Source, failure: FailureRecord, *, delivery: str) -> Requeue | Skip:
    if failure.raw_cut:
        return Skip("its body was kept in part only: let its sender send it again")
    context = failure.clues or ReplayContext()
    event = parse_webhook(source, SignedRequest(context.headers, context.query, failure.raw))
    if isinstance(event, DeploymentCompleted):
        # Its mark has the name under which it came, as part of a batch perhaps.
        requeued_event = replace(event, delivery=delivery)
        return Requeue(job_key(requeued_event), ticket_from_event(requeued_event))
    reason = _skip_reason(event)
    if failure.clues is None:
        reason += " (its headers were not kept)"
    return Skip(reason, replace(failure, detail=reason[:1000]))


def _skip_reason(event: Event | Batch) -> str:
    match event:
        case Unmappable(reason):
            return reason
        case Ignored(reason) | InvalidPayload(reason):
            return f"it would be no event any more: {reason}"
        case Batch():
            return "it is a batch of events"
        case DeploymentCompleted():
            return ""
        case unreachable:
            assert_never(unreachable)
