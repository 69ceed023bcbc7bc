"""What becomes of a failure when a person says "again"? Its ticket anew, or its event read anew.

A ticket begins as if it had just come: no attempts, and its age counts from now. An event set aside
is read by its source as that is configured now.
"""

from collections.abc import Mapping
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from service.accept.clues import ReplayContext
from service.accept.decode import InvalidPayload
from service.accept.events import (
    Batch,
    DeploymentCompleted,
    Event,
    Ignored,
    Unmappable,
    parse_webhook,
)
from service.accept.signature import SignedRequest
from service.accept.sources import Source
from service.backlog.failure import FailedTicket, FailureRecord, parse_parked_job
from service.backlog.ticket import Ticket, job_key, ticket_from_event


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
