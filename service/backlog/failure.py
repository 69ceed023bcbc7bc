"""What was given up, and why? Kept for a person, with all that is needed to judge and retry."""

import msgspec
from msgspec import Struct

from service.backlog.ticket import Ticket

RAW_CAP = 64 * 1024


class Failure(Struct, frozen=True, kw_only=True):
    """One ticket given up, or one event set aside. ``raw`` is the answer or body, capped.

    ``fence`` names the lease that gave up, so that the same act sent twice is known again.
    """

    reason: str
    detail: str = ""
    raw: bytes = b""
    raw_cut: bool = False
    ticket: Ticket | None = None
    fence: float = 0.0


def record_failure(
    reason: str,
    *,
    detail: str = "",
    raw: bytes = b"",
    ticket: Ticket | None = None,
    fence: float = 0.0,
) -> Failure:
    """Make a failure, with at most 64 KiB of what was answered."""
    return Failure(
        reason=reason,
        detail=detail[:1000],
        raw=raw[:RAW_CAP],
        raw_cut=len(raw) > RAW_CAP,
        ticket=ticket,
        fence=fence,
    )


def encode_failure(failure: Failure) -> bytes:
    """Give the bytes that are kept."""
    return msgspec.msgpack.encode(failure)


def read_failure(stored: bytes) -> Failure:
    """Read what is kept; raises msgspec.MsgspecError on anything else."""
    return msgspec.msgpack.decode(stored, type=Failure)
