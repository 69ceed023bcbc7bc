"""What is one deployment that waits, and its history?"""

import re
import struct
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.accept.mapping import DeploymentCompleted

# Written by Lua before the ticket: generation, crashes, and when it was queued (Redis ms).
_HEADER = struct.Struct(">IHd")
_VALID_TIMES_MS = range(253_402_300_800_000)  # ms from 1970 to the end of the year 9999
_ID_JOB_FIELDS: dict[str, None] = {"deployment_id": None}
_FIND_JOB_FIELDS: dict[str, None] = dict.fromkeys(
    ("project", "environment", "application", "version")
)
_UNQUOTED = re.compile(r"[A-Za-z0-9_.~-]*")  # what quoting leaves as it is


class RefreshState(Struct, frozen=True, array_like=True):
    """That a published deployment is looked at again: how often before, and since when (Redis ms).

    ``since`` is when the record of its webhook was published; looks are planned from there.
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
"""What the log says, by how an attempt was settled."""


class Ticket(Struct, frozen=True, array_like=True, kw_only=True):
    """One deployment that waits. Stored as a msgpack array: new fields go to the end.

    What the name of its job says is not stored once more.

    ``event_time`` is in ms, ``metadata`` JSON bytes, ``attempts`` the tries that counted,
    ``reason`` why the last one did not end it. With a ``look`` nothing new was told of it.
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
    """A ticket in hand. ``fence`` is its score in the backlog: whoever holds it may settle.

    ``queued_at`` and ``now`` are Redis ms; ``crashes`` counts leases that ran out. ``lead`` is the
    job whose call this ticket shares; None: it came with a call of its own.
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
        """How long it has waited, in seconds by Redis's clock."""
        return max(0, self.now - self.queued_at) / 1000


class CorruptTicket(Struct, frozen=True, kw_only=True):
    """A lease on something that is not a ticket: for a person to look at."""

    job: str
    fence: float
    generation: int
    raw: bytes


def lease_log_fields(lease: Lease) -> dict[str, object]:
    """Give the facts that every line about an attempt carries."""
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
    """Name what an event asks for; equal names coalesce."""
    if event.deployment_id is not None:
        return f"id:{event.deployment_id}"
    parts = (event.project, event.environment, event.application, event.version)
    return "find:" + "/".join(_encode_part(part or "") for part in parts)


def _encode_part(part: str) -> str:
    return part if _UNQUOTED.fullmatch(part) else quote(part, safe="")


def ticket_from_event(event: DeploymentCompleted) -> Ticket:
    """Turn an event into its ticket, not yet tried."""
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
    """Give the bytes that Lua stores behind its header, under the name of its job."""
    omitted = _ID_JOB_FIELDS if job.startswith("id:") else _FIND_JOB_FIELDS
    return msgspec.msgpack.encode(replace(ticket, **omitted))


def new_ticket_bytes(ticket: Ticket, *, job: str, queued_at: int) -> bytes:
    """Give what is stored of a ticket that begins: the header too, which else Lua writes."""
    return _HEADER.pack(1, 0, queued_at) + encode_ticket(ticket, job=job)


def decode_lease(
    job: bytes, *, fence: bytes, stored: bytes, leader: bytes = b"", now: int
) -> Lease | CorruptTicket:
    """Read what claiming handed out."""
    job_text, fence_score = job.decode("utf-8", "replace"), float(fence)
    try:
        generation, crashes, queued_at = _HEADER.unpack_from(stored)
        queued_ms = _VALID_TIMES_MS.index(int(queued_at))  # a ValueError for what is none
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
    """Add what the name of the job says; a ticket that was stored whole stays as it is."""
    kind, _, job_value = job.partition(":")
    if kind == "id" and ticket.deployment_id is None:
        return replace(ticket, deployment_id=job_value)
    parts = job_value.split("/") if kind == "find" else []
    if len(parts) != len(_FIND_JOB_FIELDS) or ticket.project is not None:
        return ticket
    if "%" in job_value:
        parts = [unquote(part) for part in parts]
    return replace(ticket, **dict(zip(_FIND_JOB_FIELDS, parts, strict=True)))
