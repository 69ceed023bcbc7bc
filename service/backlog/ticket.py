"""The ticket of a deployment that waits, its job, and the lease on it."""

import re
import struct
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.accept.mapping import DeploymentCompleted

# Lua writes it before the ticket: generation, crashes, and when it was queued (Redis ms).
_HEADER = struct.Struct(">IHd")
_VALID_TIMES_MS = range(253_402_300_800_000)  # ms from 1970 to the end of the year 9999
_ID_JOB_FIELDS: dict[str, None] = {"deployment_id": None}
_FIND_JOB_FIELDS: dict[str, None] = dict.fromkeys(
    ("project", "environment", "application", "version")
)
_UNQUOTED = re.compile(r"[A-Za-z0-9_.~-]*")  # text that quoting does not change


class RefreshState(Struct, frozen=True, array_like=True):
    """The refreshes of a published deployment: how many are done, and since when (Redis ms).

    ``since`` is when the record of its webhook was published. The schedule counts from there.
    """

    done: int
    since: int


LOG_EVENTS = {
    "published": "deployment_published",
    "unchanged": "deployment_unchanged",
    "filtered": "deployment_filtered",
    "failed": "deployment_failed",
    "postponed": "deployment_postponed",
    "skipped": "refresh_skipped",
    "superseded": "deployment_requeued",
    "lease_lost": "lease_lost",
}
"""The log event for each status that a script returns when it settles an attempt."""


class Ticket(Struct, frozen=True, array_like=True, kw_only=True):
    """A deployment that waits. It is stored as a msgpack array: add new fields at the end.

    The stored form omits the fields that its job contains.

    ``event_time`` is epoch ms, ``metadata`` JSON bytes. ``attempts`` counts the attempts so far;
    ``reason`` says why the last one did not end. With ``refresh`` it is a refresh, not a webhook.
    """

    source: str
    delivery: str
    outcome: str
    project: str | None = None
    environment: str | None = None
    application: str | None = None
    version: str | None = None
    deployment_id: str | None = None
    event_time: int | None = None
    metadata: bytes | None = None
    traceparent: str | None = None
    attempts: int = 0
    reason: str | None = None
    refresh: RefreshState | None = None
    metadata_dropped: bool = False


class Lease(Struct, frozen=True, kw_only=True):
    """A ticket that a worker has claimed. ``fence`` is its score in the backlog and guards writes.

    ``queued_at`` and ``now`` are Redis ms; ``crashes`` counts leases that ran out. ``leader`` is
    the job whose call this ticket shares; None if it has a call of its own.
    """

    job: str
    fence: float
    generation: int
    crashes: int
    queued_at: int
    now: int
    ticket: Ticket
    leader: str | None = None

    @property
    def age_s(self) -> float:
        """The time since it was queued, in seconds of the Redis clock."""
        return max(0, self.now - self.queued_at) / 1000


class CorruptTicket(Struct, frozen=True, kw_only=True):
    """A lease on bytes that are not a ticket; it becomes a failed ticket for a person."""

    job: str
    fence: float
    generation: int
    raw: bytes


def lease_log_fields(lease: Lease) -> dict[str, object]:
    """Return the fields of every log event about an attempt."""
    ticket = lease.ticket
    refresh_field = {} if ticket.refresh is None else {"refresh": ticket.refresh.done + 1}
    return refresh_field | {
        "deployment_id": ticket.deployment_id,
        "job": lease.job,
        "attempt": ticket.attempts + 1,
        "source": ticket.source,
        "delivery": ticket.delivery,
    }


def job_key(event: DeploymentCompleted) -> str:
    """Return the job of an event; events with the same job share one ticket."""
    if event.deployment_id is not None:
        return f"id:{event.deployment_id}"
    parts = (event.project, event.environment, event.application, event.version)
    return "find:" + "/".join(_encode_part(part or "") for part in parts)


def _encode_part(part: str) -> str:
    return part if _UNQUOTED.fullmatch(part) else quote(part, safe="")


def ticket_from_event(event: DeploymentCompleted) -> Ticket:
    """Return the ticket of an event, without attempts."""
    return Ticket(
        source=event.source,
        delivery=event.delivery,
        outcome=event.outcome,
        project=event.project,
        environment=event.environment,
        application=event.application,
        version=event.version,
        deployment_id=event.deployment_id,
        event_time=event.event_time,
        metadata=None if event.metadata is None else bytes(event.metadata),
        traceparent=event.traceparent,
        metadata_dropped=event.metadata_dropped,
    )


def encode_ticket(ticket: Ticket, *, job: str) -> bytes:
    """Return a ticket as the bytes that Lua stores after the header, under its job."""
    omitted = _ID_JOB_FIELDS if job.startswith("id:") else _FIND_JOB_FIELDS
    return msgspec.msgpack.encode(replace(ticket, **omitted))


def new_ticket_bytes(ticket: Ticket, *, job: str, queued_at: int) -> bytes:
    """Return the stored form of a new ticket, with the header that otherwise Lua writes."""
    return _HEADER.pack(1, 0, queued_at) + encode_ticket(ticket, job=job)


def decode_lease(
    job: bytes, *, fence: bytes, stored: bytes, leader: bytes = b"", now: int
) -> Lease | CorruptTicket:
    """Return the lease that claim.lua replied; a CorruptTicket if it cannot be decoded."""
    job_text, fence_score = job.decode("utf-8", "replace"), float(fence)
    try:
        generation, crashes, queued_at = _HEADER.unpack_from(stored)
        queued_ms = _VALID_TIMES_MS.index(int(queued_at))  # raises ValueError for other numbers
        ticket = msgspec.msgpack.decode(memoryview(stored)[_HEADER.size :], type=Ticket)
        ticket = _fill_from_job(ticket, job_text)
    except (struct.error, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        generation = int.from_bytes(stored[:4], "big")
        return CorruptTicket(job=job_text, fence=fence_score, generation=generation, raw=stored)
    return Lease(
        job=job_text,
        fence=fence_score,
        generation=generation,
        crashes=crashes,
        queued_at=queued_ms,
        now=now,
        ticket=ticket,
        leader=leader.decode("utf-8", "replace") or None,
    )


def _fill_from_job(ticket: Ticket, job: str) -> Ticket:
    """Add the fields that the job contains; a ticket that has them is returned unchanged."""
    kind, _, job_value = job.partition(":")
    if kind == "id" and ticket.deployment_id is None:
        return replace(ticket, deployment_id=job_value)
    parts = job_value.split("/") if kind == "find" else []
    if len(parts) != len(_FIND_JOB_FIELDS) or ticket.project is not None:
        return ticket
    if "%" in job_value:
        parts = [unquote(part) for part in parts]
    return replace(ticket, **dict(zip(_FIND_JOB_FIELDS, parts, strict=True)))
