"""The ticket of a deployment that waits, its job, and the lease on it."""

import struct
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.accept.mapping import DeploymentEvent
from service.url_part import quote_part

# Lua writes it before the ticket: generation, crashes, and when it was queued (Redis ms).
_HEADER = struct.Struct(">IHd")
_LISTED_EVENT = struct.Struct(">Id")  # the length of an event, and when it was queued (Redis ms)
_LIST_LENGTH = struct.Struct(">I")
_LIST_END = b"\xc1"  # see lib_tickets.lua: the last byte says what the bytes before it are
REFRESH_END = b"\xc8"
"""The last byte of a stored refresh, as in lib_tickets.lua."""
MAX_EVENTS = 16
"""The most events of one ticket that an add may join, as in lib_tickets.lua."""

_VALID_TIMES_MS = range(253_402_300_800_000)  # ms from 1970 to the end of the year 9999
_ID_JOB_FIELDS: dict[str, None] = {"deployment_id": None}
_FIND_JOB_FIELDS: dict[str, None] = dict.fromkeys(
    ("project", "environment", "application", "version")
)
_OMITTED_FIELDS = {"id": _ID_JOB_FIELDS, "find": _FIND_JOB_FIELDS}


STARTED = "started"
"""The outcome of an event that says that a deployment started."""


REPORT_PATIENCE_S = 60.0
"""How long a report without an answer is looked for in the list, before it is sent again.

LaunchDarkly's lists show a write late: its own Terraform provider waits for up to 30 s.
"""


class RefreshState(Struct, frozen=True, array_like=True):
    """The refreshes of a published deployment: how many are done, and since when (Redis ms).

    ``since`` is when the record of its webhook was published. The schedule counts from there. After
    the schedule's end, one extra refresh may follow; ``is_last`` marks it.
    """

    done: int
    since: int
    is_last: bool = False


class ReportState(Struct, frozen=True, array_like=True):
    """What was reported of a deployment whose source has ``report = true``.

    ``reported_at`` is when this service began to report it (Redis ms); 0 if it did not, or if
    LaunchDarkly certainly did not store it. ``is_stored``: LaunchDarkly confirmed that it did.
    """

    reported_at: int = 0
    is_stored: bool = False
    version_name: str | None = None


LOG_EVENTS = {
    "published": "deployment_published",
    "unchanged": "deployment_unchanged",
    "filtered": "deployment_filtered",
    "failed": "deployment_failed",
    "oldest_dropped": "deployment_failed",
    "postponed": "deployment_postponed",
    "skipped": "refresh_skipped",
    "superseded": "deployment_requeued",
    "lease_lost": "lease_lost",
    "start_reported": "start_reported",
    "start_dropped": "start_dropped",
}
"""The log event for each status that a script returns when it settles an attempt."""


class Ticket(Struct, frozen=True, array_like=True, kw_only=True):
    """A deployment that waits. It is stored as a msgpack array: add new fields at the end.

    The stored form omits the fields that its job contains.

    ``event_time`` is epoch ms, ``metadata`` JSON bytes. ``attempts`` counts the attempts so far;
    ``reason`` says why the last one did not end. With ``refresh`` it is a refresh, not a webhook.
    ``received_at`` is when its webhook arrived (Redis ms), if not when it was queued. ``taken``
    are the ids of deployments that its source reported by other events. ``report`` is set if its
    source has ``report = true``.
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
    received_at: int | None = None
    taken: tuple[str, ...] = ()
    metadata_dropped: bool = False
    report: ReportState | None = None


class QueuedEvent(Struct, frozen=True):
    """One event of a ticket, and when it was queued (Redis ms)."""

    ticket: Ticket
    queued_at: int

    @property
    def time_ms(self) -> int:
        """The time of the event (epoch ms). The arrival stands in for a missing time."""
        ticket = self.ticket
        return ticket.event_time or ticket.received_at or self.queued_at


class Lease(Struct, frozen=True, kw_only=True):
    """A ticket that a worker has claimed. ``fence`` is its score in the backlog and guards writes.

    ``queued_at`` and ``now`` are Redis ms; ``crashes`` counts leases that ran out. ``leader`` is
    the job whose call this ticket shares; None if it has a call of its own.

    ``events`` are the events of the ticket, if there are several; ``ticket`` and ``queued_at`` are
    those of the event at ``index``. If the job is an id, they are all of one deployment.
    """

    job: str
    fence: float
    generation: int
    crashes: int
    queued_at: int
    now: int
    ticket: Ticket
    leader: str | None = None
    events: tuple[QueuedEvent, ...] = ()
    index: int = 0

    @property
    def received_at(self) -> int:
        """When the webhook arrived (Redis ms)."""
        return self.ticket.received_at or self.queued_at

    @property
    def settled_events(self) -> tuple[int, int]:
        """The first and the last event, counted from 1, that end with the attempt.

        A refresh ends none: a webhook that arrives meanwhile replaces it.
        """
        if self.ticket.refresh is not None:
            return 0, 0
        if self.job.startswith("id:"):
            return 1, len(self.events) or 1
        return self.index + 1, self.index + 1

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


def job_key(event: DeploymentEvent) -> str:
    """Return the job of an event; events with the same job share one ticket."""
    if event.deployment_id is not None:
        return f"id:{event.deployment_id}"
    parts = (event.project, event.environment, event.application, event.version)
    kind = "start" if event.outcome == STARTED else "find"
    return f"{kind}:" + "/".join(quote_part(part or "") for part in parts)


def ticket_from_event(event: DeploymentEvent) -> Ticket:
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
        report=ReportState(version_name=event.version_name) if event.report else None,
    )


def select_event(lease: Lease, index: int) -> Lease:
    """Return the lease with the event at an index as its ticket."""
    if not lease.events:
        return lease
    event = lease.events[index]
    return replace(lease, ticket=event.ticket, queued_at=event.queued_at, index=index)


def with_ticket(lease: Lease, ticket: Ticket) -> Lease:
    """Return the lease with a new state of its ticket, and so of the event at its index."""
    events = tuple(
        replace(event, ticket=ticket) if index == lease.index else event
        for index, event in enumerate(lease.events)
    )
    return replace(lease, ticket=ticket, events=events)


def list_events(lease: Lease) -> tuple[QueuedEvent, ...]:
    """Return the events of a ticket, of which there is at least one."""
    return lease.events or (QueuedEvent(lease.ticket, lease.queued_at),)


def encode_ticket(ticket: Ticket, *, job: str) -> bytes:
    """Return a ticket as the bytes that Lua stores after the header, under its job."""
    omitted = _OMITTED_FIELDS.get(job.partition(":")[0], {})
    encoded = msgspec.msgpack.encode(replace(ticket, **omitted))
    return encoded if ticket.refresh is None else encoded + REFRESH_END


def encode_attempted(lease: Lease, ticket: Ticket) -> bytes:
    """Return the ticket of a lease after an attempt, as Lua stores it after the header.

    ``ticket`` is the new state of the event that was attempted. The other events of the lease get
    the same number of attempts more.
    """
    if not lease.events:
        return encode_ticket(ticket, job=lease.job)
    attempts = ticket.attempts - lease.ticket.attempts
    events = [
        replace(
            event,
            ticket=ticket
            if index == lease.index
            else replace(
                event.ticket, attempts=event.ticket.attempts + attempts, reason=ticket.reason
            ),
        )
        for index, event in enumerate(lease.events)
    ]
    first = encode_ticket(events[0].ticket, job=lease.job)
    return first + encode_event_list(events[1:], job=lease.job)


def encode_event_list(events: Iterable[QueuedEvent], *, job: str) -> bytes:
    """Return events as the list that ends a stored ticket or a failure record."""
    encoded = [(encode_ticket(event.ticket, job=job), event.queued_at) for event in events]
    listed = b"".join(_LISTED_EVENT.pack(len(item), at_ms) + item for item, at_ms in encoded)
    return listed + _LIST_LENGTH.pack(len(listed)) + _LIST_END


def split_event_list(stored: bytes) -> tuple[bytes, bytes]:
    """Return the bytes before an event list, and the list; raise ValueError if it is cut."""
    if stored[-1:] != _LIST_END:
        return stored, b""
    footer_at = len(stored) - _LIST_LENGTH.size - 1
    start = footer_at - _LIST_LENGTH.unpack_from(stored, max(footer_at, 0))[0]
    if start < 0:
        raise ValueError(stored)
    return stored[:start], stored[start:footer_at]


def decode_event_list(listed: bytes, job: str) -> Iterator[QueuedEvent]:
    """Yield the events of a list; raise ValueError, struct.error or msgspec.MsgspecError."""
    position = 0
    while position < len(listed):
        length, queued_at = _LISTED_EVENT.unpack_from(listed, position)
        position += _LISTED_EVENT.size + length
        item = listed[position - length : position]
        yield QueuedEvent(_decode_ticket(item, job), _VALID_TIMES_MS.index(int(queued_at)))


def _decode_ticket(encoded: bytes, job: str) -> Ticket:
    ticket = msgspec.msgpack.decode(encoded.removesuffix(REFRESH_END), type=Ticket)
    return _fill_from_job(ticket, job)


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
        first, listed = split_event_list(stored[_HEADER.size :])
        ticket = _decode_ticket(first, job_text)
        others = (*decode_event_list(listed, job_text),)
    except (struct.error, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        generation = int.from_bytes(stored[:4], "big")
        return CorruptTicket(job=job_text, fence=fence_score, generation=generation, raw=stored)
    lease = Lease(
        job=job_text,
        fence=fence_score,
        generation=generation,
        crashes=crashes,
        queued_at=queued_ms,
        now=now,
        ticket=ticket,
        leader=leader.decode("utf-8", "replace") or None,
    )
    return _with_events(lease, others) if others else lease


def decode_handed_over(element: bytes) -> Lease | CorruptTicket | None:
    """Return the lease in an element of the wakeup list, as lib_hand_over.lua writes it.

    None if the element only wakes a worker, or is none that the script writes.
    """
    try:
        fence, now, job_size, rest = element.split(b" ", 3)
        job, stored = rest[: int(job_size)], rest[int(job_size) :]
        return decode_lease(job, fence=fence, stored=stored, now=int(now))
    except ValueError:
        return None


def _with_events(lease: Lease, others: tuple[QueuedEvent, ...]) -> Lease:
    """Add further events to a lease. An id is one deployment, of which the last event counts."""
    events = (QueuedEvent(lease.ticket, lease.queued_at), *others)
    if not lease.job.startswith("id:"):
        return replace(lease, events=events)
    last = events[-1]
    ticket = replace(last.ticket, received_at=last.ticket.received_at or last.queued_at)
    return replace(lease, events=events, index=len(events) - 1, ticket=ticket)


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
