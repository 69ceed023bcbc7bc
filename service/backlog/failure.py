"""What was given up, and why? Kept for a person, with all that is needed to judge and retry."""

from hashlib import sha1

import msgspec
from msgspec import Struct

from service.accept.clues import ReplayContext
from service.backlog.ticket import Ticket

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
