"""What becomes of a failure when a person says "again"? Its ticket anew, or its event read anew.

A ticket begins as if it had just come: no attempts, and its age counts from now. An event set aside
is read by its source as that is configured now.
"""

from collections.abc import Mapping
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from service.accept.clues import Clues
from service.accept.decode import Unreadable
from service.accept.events import (
    Batch,
    DeploymentCompleted,
    Event,
    Ignored,
    Unmappable,
    read_webhook,
)
from service.accept.signature import SignedRequest
from service.accept.sources import Source
from service.backlog.failure import Failed, Failure, read_aside
from service.backlog.ticket import Ticket, name_job, write_ticket


class Anew(Struct, frozen=True):
    """To be queued as this job, with this ticket."""

    job: str
    ticket: Ticket


class Left(Struct, frozen=True):
    """To be left, and why; ``failure`` is what to keep in its place, if there is news."""

    reason: str
    failure: Failure | None = None


def take_up(failed: Failed, sources: Mapping[str, Source]) -> Anew | Left:
    """Say what becomes of one failure."""
    failure, aside = failed.failure, read_aside(failed.job)
    if failure is None:
        return Left("what is kept of it cannot be read")
    if aside is not None:
        source = sources.get(aside[0])
        if source is None:
            return Left(f"there is no source {aside[0]!r} here")
        return _read_again(source, failure, delivery=aside[1])
    if failure.ticket is None:
        return Left("its ticket could not be read: let its sender send it again")
    return Anew(failed.job, replace(failure.ticket, attempts=0, reason=None))


def _read_again(source: Source, failure: Failure, *, delivery: str) -> Anew | Left:
    if failure.raw_cut:
        return Left("its body was kept in part only: let its sender send it again")
    clues = failure.clues or Clues()
    event = read_webhook(source, SignedRequest(clues.headers, clues.query, failure.raw))
    if isinstance(event, DeploymentCompleted):
        # Its mark has the name under which it came, as part of a batch perhaps.
        known = replace(event, delivery=delivery)
        return Anew(name_job(known), write_ticket(known))
    reason = _tell_why_not(event)
    if failure.clues is None:
        reason += " (its headers were not kept)"
    return Left(reason, replace(failure, detail=reason[:1000]))


def _tell_why_not(event: Event | Batch) -> str:
    match event:
        case Unmappable(reason):
            return reason
        case Ignored(reason) | Unreadable(reason):
            return f"it would be no event any more: {reason}"
        case Batch():
            return "it is a batch of events"
        case DeploymentCompleted():
            return ""
        case never:
            assert_never(never)
