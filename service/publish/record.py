"""What is the outgoing contract? One enriched record, as downstream services read it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from service.backlog.schedule import Plan, choose_schedule, plan_looks
from service.backlog.ticket import Lease
from service.enrich.deployment import Deployment, FlagReference
from service.enrich.verdict import Found
from service.publish.summary import Summary, summarize

RECORD_TYPE = "deployment.enriched.v1"
DATA_SCHEMA = "/schemas/enriched-deployment.v1.json"

# The revision is known only to the script that appends: it is written between these two.
BEFORE_REVISION = b'{"schemaVersion":1,"revision":'
_PLACEHOLDER = BEFORE_REVISION + b"0"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


class Looks(Struct, frozen=True):
    """How often LaunchDarkly was asked again since the first record, and until when it will be.

    ``until`` is the last look that is planned (epoch ms), null when no more will follow. A look
    that finds other content makes the next revision; one that finds the same makes no record.
    """

    taken: int
    until: int | None


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
    looks: Looks
    event: SourceEvent


class Entry(Struct, frozen=True):
    """One entry to append: attributes and routing fields, and the data after the revision.

    ``digest`` tells whether the content differs from the last revision, ``plan`` when it is looked
    at again.
    """

    deployment_id: str
    digest: str
    fields: tuple[str, ...]
    data_after_revision: bytes
    complete: bool
    plan: Plan = Plan()


def write_entry(found: Found, lease: Lease, *, now_ms: int, schedule: Sequence[int] = ()) -> Entry:
    """Write the stream entry of a deployment that was found; ``schedule`` says when to look again.

    See :mod:`service.backlog.schedule`.
    """
    ticket, deployment = lease.ticket, found.deployment
    plan = plan_looks(
        choose_schedule(schedule, ended_at=deployment.ended_at, now_ms=now_ms),
        lease,
        deployment.id,
        now_ms=now_ms,
        unfinished=deployment.is_unfinished,
    )
    completeness = measure_completeness(deployment, stopped=found.stopped)
    record = EnrichedDeployment(
        enriched_at=now_ms,
        attempts=ticket.attempts + 1,
        deployment=Raw(found.body),
        summary=summarize(deployment),
        completeness=completeness,
        looks=Looks(plan.taken, plan.until),
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
        digest=blake2b(found.body, digest_size=16).hexdigest(),
        fields=_write_fields(deployment, lease, complete=completeness.complete),
        data_after_revision=msgspec.json.encode(record)[len(_PLACEHOLDER) :],
        complete=completeness.complete,
        plan=plan,
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


def format_time(moment_ms: int, *, fallback_ms: int) -> str:
    """Give an epoch ms as RFC 3339; a moment that no calendar holds gives the fallback's."""
    try:
        moment = _EPOCH + timedelta(milliseconds=moment_ms)
    except OverflowError:
        moment = _EPOCH + timedelta(milliseconds=fallback_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def measure_completeness(deployment: Deployment, *, stopped: str | None) -> Completeness:
    """Compare what is here with what LaunchDarkly counts, at both levels."""
    pulls = deployment.pull_requests
    flags = deployment.flag_references
    items = [item for item in (pulls.items if pulls else None) or () if item is not None]
    parts = [part for item in items for part in (item.deployments, item.flag_references)]
    nested = [Count(part.total_count, _present(part.items)) for part in parts if part is not None]
    outer = (
        Count(pulls.total_count if pulls else None, len(items)),
        Count(flags.total_count if flags else None, _present(flags.items if flags else None)),
    )
    # What one pull request has too many of does not make up for what another lacks.
    complete = stopped is None and all(
        count.expected is None or count.present >= count.expected for count in (*outer, *nested)
    )
    total = Count(
        expected=sum(count.expected or 0 for count in nested),
        present=sum(count.present for count in nested),
    )
    return Completeness(complete, *outer, total, UNSET if stopped is None else stopped)


def _present(items: list[Raw] | list[FlagReference | None] | None) -> int:
    plain = (bytes(item) if isinstance(item, Raw) else item for item in items or ())
    return sum(item not in {None, b"null"} for item in plain)
