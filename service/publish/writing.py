"""How is a deployment that was found written down? As one entry of the stream, its data last."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from service.accept.choice import Only
from service.backlog.schedule import Plan, choose_schedule, plan_looks
from service.backlog.ticket import Lease
from service.enrich.deployment import Deployment
from service.enrich.verdict import Found, Never
from service.publish.record import (
    DATA_SCHEMA,
    JSON,
    MSGPACK,
    RECORD_TYPE,
    EnrichedDeployment,
    Looks,
    SourceEvent,
    measure_completeness,
)
from service.publish.summary import summarize

Payload = Literal["json", "msgpack"]

# The revision is known only to the script that appends: it is written between these and the rest.
BEFORE_REVISION = b'{"schemaVersion":1,"revision":'
_PACKED_REVISION = msgspec.msgpack.encode("revision")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST_LENGTH = 32  # hex digits of a SHA-256: processors have instructions for it


class Entry(Struct, frozen=True):
    """One entry to append: attributes and routing fields, and the data around its revision.

    ``digest`` tells whether the content differs from the last revision, ``plan`` when it is looked
    at again. Of one that was ``left_out``, which says why, nothing is appended.
    """

    deployment_id: str
    digest: str
    fields: tuple[str, ...] = ()
    data_after_revision: bytes = b""
    complete: bool = True
    plan: Plan = Plan()
    data_before_revision: bytes = BEFORE_REVISION
    payload: Payload = "json"
    left_out: str = ""


class Writer(Struct, frozen=True, kw_only=True):
    """Writes what is wanted, in the form that is wanted, up to a size.

    ``schedule`` says when to look again, see :mod:`service.backlog.schedule`. A record whose data
    is larger than ``most_bytes`` is not written.
    """

    schedule: Sequence[int] = ()
    only: Only = Only()
    payload: Payload = "json"
    most_bytes: int = 1 << 26

    def write(self, found: Found, lease: Lease, *, now_ms: int) -> Entry | Never:
        """Write the entry of a deployment; Never when no entry can hold it."""
        ticket, deployment = lease.ticket, found.deployment
        digest = sha256(found.body).hexdigest()[:_DIGEST_LENGTH]
        objection = self.only.find_objection(
            application=deployment.application_key or ticket.application,
            environment=deployment.environment_key or ticket.environment,
            outcome=ticket.outcome,
        )
        if objection is not None:
            return Entry(deployment_id=deployment.id, digest=digest, left_out=objection)
        plan = plan_looks(
            choose_schedule(self.schedule, ended_at=deployment.ended_at, now_ms=now_ms),
            lease,
            deployment.id,
            now_ms=now_ms,
            unfinished=deployment.is_unfinished,
        )
        record = _write_record(found, lease, plan, now_ms=now_ms)
        data = self._encode(record)
        if isinstance(data, Never):
            return data
        before, after = data
        # Nothing is cut in silence: what no store or reader should be asked to hold is refused.
        if len(after) > self.most_bytes:
            detail = f"{len(after)} bytes, the most is {self.most_bytes}"
            return Never(reason="record_too_large", detail=detail)
        complete = record.completeness.complete
        return Entry(
            deployment_id=deployment.id,
            digest=digest,
            fields=_write_fields(deployment, lease, complete=complete, payload=self.payload),
            data_before_revision=before,
            data_after_revision=after,
            payload=self.payload,
            complete=complete,
            plan=plan,
        )

    def _encode(self, record: EnrichedDeployment) -> tuple[bytes, bytes] | Never:
        """Give what stands before the revision, and what stands after it."""
        if self.payload == "json":
            return BEFORE_REVISION, msgspec.json.encode(record)[len(BEFORE_REVISION) + 1 :]
        try:
            packed = msgspec.msgpack.encode(_repack(record))
        except (msgspec.MsgspecError, OverflowError, UnicodeEncodeError, RecursionError) as error:
            return Never(reason="record_not_packable", detail=str(error))
        before, key, after = packed.partition(_PACKED_REVISION)
        return before + key, after[1:]


def _write_record(found: Found, lease: Lease, plan: Plan, *, now_ms: int) -> EnrichedDeployment:
    ticket = lease.ticket
    return EnrichedDeployment(
        enriched_at=now_ms,
        attempts=ticket.attempts + 1,
        deployment=Raw(found.body),
        summary=summarize(found.deployment),
        completeness=measure_completeness(found.deployment, stopped=found.stopped),
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


def _repack(record: EnrichedDeployment) -> EnrichedDeployment:
    """Write again in msgpack what came as JSON."""
    event = msgspec.structs.replace(record.event, metadata=_pack(record.event.metadata))
    return msgspec.structs.replace(record, deployment=_pack(record.deployment), event=event)


def _pack(told: Raw) -> Raw:
    return Raw(msgspec.msgpack.encode(msgspec.json.decode(told)))


def _write_fields(
    deployment: Deployment, lease: Lease, *, complete: bool, payload: Payload
) -> tuple[str, ...]:
    ticket = lease.ticket
    happened = deployment.ended_at or ticket.event_time or lease.queued_at
    fields = {
        "specversion": "1.0",
        "source": f"/deployment-enricher/{ticket.source}",
        "type": RECORD_TYPE,
        "subject": deployment.id,
        "time": format_time(happened, fallback_ms=lease.queued_at),
        "datacontenttype": JSON if payload == "json" else MSGPACK,
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
