"""What is the outgoing contract? One enriched record, as downstream services read it."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from service.backlog.ticket import Lease
from service.enrich.deployment import (
    Deployment,
    FlagReferences,
    NestedDeployments,
    PullRequests,
)
from service.enrich.verdict import Found
from service.publish.summary import Summary, summarize

RECORD_TYPE = "deployment.enriched.v1"
DATA_SCHEMA = "/schemas/enriched-deployment.v1.json"

# The revision is known only to the script that appends: it is written between these two.
BEFORE_REVISION = b'{"schemaVersion":1,"revision":'
_PLACEHOLDER = BEFORE_REVISION + b"0"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST_LENGTH = 32  # hex digits of a SHA-256: processors have instructions for it


class Count(Struct, frozen=True, omit_defaults=True):
    """How many items LaunchDarkly counts, and how many are here. Expected is null if untold."""

    expected: int | None
    present: int


class Completeness(Struct, frozen=True, rename="camel"):
    """Whether everything that LaunchDarkly counts is in the record, and if not, why.

    ``nested`` sums the deployments and flag references inside the pull requests.
    """

    complete: bool
    pull_requests: Count
    flag_references: Count
    nested: Count
    reason: str | UnsetType = UNSET


class SourceEvent(Struct, frozen=True, rename="camel"):
    """The webhook that caused the record. Times are epoch ms."""

    source: str
    delivery: str
    received_at: int
    outcome: str
    event_time: int | None
    metadata: Raw


class EnrichedDeployment(Struct, frozen=True, rename="camel", kw_only=True):
    """The ``data`` of one stream entry. ``deployment`` is LaunchDarkly's own JSON, bytes as sent.

    The first two fields stay first: the revision is written in by the script that appends.
    """

    schema_version: Literal[1] = 1
    revision: int = 0
    enriched_at: int
    attempts: int
    deployment: Raw
    summary: Summary
    completeness: Completeness
    event: SourceEvent


class Entry(Struct, frozen=True):
    """One entry to append: attributes and routing fields, and the data after the revision.

    ``digest`` tells whether the content differs from the last revision.
    """

    deployment_id: str
    digest: str
    fields: tuple[str, ...]
    data_after_revision: bytes
    complete: bool


def write_entry(found: Found, lease: Lease, *, now_ms: int) -> Entry:
    """Write the stream entry of a deployment that was found."""
    ticket, deployment = lease.ticket, found.deployment
    completeness = measure_completeness(deployment, stopped=found.stopped)
    record = EnrichedDeployment(
        enriched_at=now_ms,
        attempts=ticket.attempts + 1,
        deployment=Raw(found.body),
        summary=summarize(deployment),
        completeness=completeness,
        event=SourceEvent(
            source=ticket.source,
            delivery=ticket.delivery,
            received_at=lease.queued_at,
            outcome=ticket.outcome,
            event_time=ticket.event_time,
            metadata=Raw(ticket.metadata or b"null"),
        ),
    )
    return Entry(
        deployment_id=deployment.id,
        digest=sha256(found.body).hexdigest()[:_DIGEST_LENGTH],
        fields=_write_fields(deployment, lease, complete=completeness.complete),
        data_after_revision=msgspec.json.encode(record)[len(_PLACEHOLDER) :],
        complete=completeness.complete,
    )


def _write_fields(deployment: Deployment, lease: Lease, *, complete: bool) -> tuple[str, ...]:
    ticket = lease.ticket
    happened = deployment.ended_at or ticket.event_time or lease.queued_at
    fields = {
        "specversion": "1.0",
        "source": f"/deployment-enricher/{ticket.source}",
        "type": RECORD_TYPE,
        "subject": deployment.id,
        "time": format_time(happened, fallback_ms=lease.queued_at),
        "datacontenttype": "application/json",
        "dataschema": DATA_SCHEMA,
        "projectkey": ticket.project or "",
        "environmentkey": deployment.environment_key or ticket.environment or "",
        "applicationkey": deployment.application_key or ticket.application or "",
        "complete": "true" if complete else "false",
    }
    if ticket.traceparent is not None:
        fields["traceparent"] = ticket.traceparent
    return tuple(part for pair in fields.items() for part in pair)


def name_span(entry: Entry, traceparent: str | None) -> Entry:
    """Let an entry name another span than its webhook's."""
    pairs = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    if traceparent is not None:
        pairs["traceparent"] = traceparent
    return replace(entry, fields=tuple(part for pair in pairs.items() for part in pair))


def format_time(moment_ms: int, *, fallback_ms: int) -> str:
    """Give an epoch ms as RFC 3339; a moment that no calendar holds gives the fallback's."""
    try:
        moment = _EPOCH + timedelta(milliseconds=moment_ms)
    except OverflowError:
        moment = _EPOCH + timedelta(milliseconds=fallback_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def measure_completeness(deployment: Deployment, *, stopped: str | None) -> Completeness:
    """Compare what is here with what LaunchDarkly counts, at both levels."""
    pulls, flags = deployment.pull_requests, deployment.flag_references
    items = [item for item in (pulls.items if pulls else None) or () if item is not None]
    parts = [part for item in items for part in (item.deployments, item.flag_references)]
    nested = [_count(part) for part in parts if part is not None]
    outer = (_count(pulls), _count(flags))
    # What one pull request has too many of does not make up for what another lacks.
    complete = stopped is None and not any(map(_is_short, (*outer, *nested)))
    total = Count(
        expected=sum([count.expected or 0 for count in nested]),
        present=sum([count.present for count in nested]),
    )
    return Completeness(complete, *outer, total, UNSET if stopped is None else stopped)


def _count(part: PullRequests | FlagReferences | NestedDeployments | None) -> Count:
    if part is None or part.items is None:
        return Count(part.total_count if part else None, 0)
    if isinstance(part, NestedDeployments):
        nulls = sum([bytes(item) == b"null" for item in part.items])
    else:
        nulls = part.items.count(None)
    return Count(part.total_count, len(part.items) - nulls)


def _is_short(count: Count) -> bool:
    return count.expected is not None and count.present < count.expected
