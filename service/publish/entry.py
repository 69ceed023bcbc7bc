"""The entry of the output stream for one deployment: attributes, routing fields and data."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from service.accept.filters import DeploymentFilter
from service.backlog.refresh_schedule import RefreshPlan, plan_refresh, schedule_for
from service.backlog.ticket import Lease
from service.enrich.large_json import Chunk, measure_chunks
from service.enrich.models import Deployment
from service.enrich.steps import LARGE_BYTES, STEP_BYTES, Steps, cut_slices, finish_steps, pause_if
from service.enrich.verdict import Fail, Found
from service.publish.flag_events import (
    TOO_LARGE_FLAG_EVENTS,
    build_completeness,
    build_flag_events,
    extend_digest,
)
from service.publish.history import HistoryLine, build_history_line
from service.publish.links import build_links
from service.publish.record import (
    DATA_SCHEMA_ID,
    JSON_CONTENT_TYPE,
    RECORD_TYPE,
    EnrichedDeployment,
    RefreshProgress,
    SourceEvent,
    measure_completeness,
    summarize,
)

# Only the script that appends knows the revision and the change: it inserts both after this prefix.
BEFORE_REVISION = b'{"schemaVersion":1,"revision":'
_PLACEHOLDER_LENGTH = len(b'0,"change":null')
_CONSTANT_FIELDS = (
    *("specversion", "1.0"),
    *("type", RECORD_TYPE),
    *("datacontenttype", JSON_CONTENT_TYPE),
    *("dataschema", DATA_SCHEMA_ID),
)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, without the offset that would be formatted
_DIGEST_LENGTH = 32  # hex digits of a SHA-256, which processors compute in hardware


class Entry(Struct, frozen=True):
    """One entry to append: its fields as names and values in turn, and the data.

    ``data_chunks`` are the data after the revision and the change. ``digest`` identifies the
    content: an equal digest and an equal change make no new revision. ``plan`` says when the
    deployment is refreshed, ``history`` where and when it ended. If ``filtered_because`` holds a
    reason, nothing is appended. An entry that ``is_shared`` appends nothing either: another
    event of the deployment has the record.
    """

    deployment_id: str
    digest: str
    fields: tuple[str, ...] = ()
    data_chunks: tuple[Chunk, ...] = ()
    complete: bool = True
    unreadable_fields: tuple[str, ...] = ()
    plan: RefreshPlan = RefreshPlan()
    history: HistoryLine = HistoryLine()
    filtered_because: str = ""
    is_shared: bool = False

    @property
    def data_after_revision(self) -> bytes:
        """The data after the revision, in one piece."""
        return b"".join(self.data_chunks)


class EntryBuilder(Struct, frozen=True, kw_only=True):
    """Builds the entries of the deployments that the filter lets through.

    ``refresh_schedule``: see :mod:`service.backlog.refresh_schedule`. ``max_bytes`` is the largest
    data of a record. ``launchdarkly_origin`` is where the links to flags lead.
    """

    refresh_schedule: Sequence[int] = ()
    deployment_filter: DeploymentFilter = DeploymentFilter()
    max_bytes: int = 1 << 26
    launchdarkly_origin: str = "https://app.launchdarkly.com"

    def build(self, found: Found, lease: Lease, *, now_ms: int) -> Entry | Fail:
        """Return the entry of a deployment at once, as :meth:`build_in_steps` does."""
        return finish_steps(self.build_in_steps(found, lease, now_ms=now_ms))

    def build_in_steps(self, found: Found, lease: Lease, *, now_ms: int) -> Steps[Entry | Fail]:
        """Return the entry of a deployment; Fail when its data exceeds the size limit."""
        ticket, deployment = lease.ticket, found.deployment
        digest = yield from _digest_content(found.chunks)
        rejection = self.deployment_filter.rejection_reason(
            application=deployment.application_key or ticket.application,
            environment=deployment.environment_key or ticket.environment,
            outcome=ticket.outcome,
        )
        if rejection is not None:
            return Entry(deployment_id=deployment.id, digest=digest, filtered_because=rejection)
        plan = plan_refresh(
            schedule_for(self.refresh_schedule, ended_at=deployment.ended_at, now_ms=now_ms),
            lease,
            deployment.id,
            now_ms=now_ms,
            unfinished=deployment.is_unfinished,
            may_change=found.flag_events is not None and found.flag_events.may_change,
        )
        record = yield from self._build_record(found, lease, plan, now_ms=now_ms)
        data_chunks = _encode_data(record, found.chunks)
        size = measure_chunks(data_chunks)
        if size > self.max_bytes and record.flag_events:
            too_large = replace(found, flag_events=TOO_LARGE_FLAG_EVENTS)
            return (yield from self.build_in_steps(too_large, lease, now_ms=now_ms))
        if size > self.max_bytes:  # it is never cut: a person decides
            detail = f"{size} bytes, the limit is {self.max_bytes}"
            return Fail(reason="record_too_large", detail=detail)
        return Entry(
            deployment_id=deployment.id,
            digest=extend_digest(digest, found.flag_events, record.flag_events),
            fields=_build_fields(deployment, lease, complete=record.completeness.complete),
            data_chunks=data_chunks,
            complete=record.completeness.complete,
            unreadable_fields=deployment.unreadable_fields,
            plan=plan,
            history=build_history_line(deployment, ticket),
        )

    def _build_record(
        self, found: Found, lease: Lease, plan: RefreshPlan, *, now_ms: int
    ) -> Steps[EnrichedDeployment]:
        ticket, deployment = lease.ticket, found.deployment
        is_large = measure_chunks(found.chunks) >= LARGE_BYTES
        yield from pause_if(is_large)
        summary = yield from summarize(deployment)
        yield from pause_if(is_large)
        links = yield from build_links(
            summary,
            origin=self.launchdarkly_origin,
            project=ticket.project,
            environment=deployment.environment_key or ticket.environment,
        )
        yield from pause_if(is_large)
        completeness = yield from measure_completeness(deployment, stop_reason=found.stop_reason)
        yield from pause_if(is_large)
        return EnrichedDeployment(
            enriched_at=now_ms,
            attempts=ticket.attempts + 1,
            deployment=Raw(b""),
            summary=summary,
            links=links,
            flag_events=build_flag_events(found.flag_events),
            completeness=replace(completeness, flag_events=build_completeness(found.flag_events)),
            refreshes=RefreshProgress(plan.done, plan.until),
            event=_build_source_event(lease),
        )


def _digest_content(chunks: Iterable[Chunk]) -> Steps[str]:
    content = sha256()
    step_bytes = 0
    for chunk in chunks:
        for part, _ in cut_slices(chunk):
            if step_bytes >= STEP_BYTES:
                step_bytes = 0
                yield
            content.update(part)
            step_bytes += part.nbytes
    return content.hexdigest()[:_DIGEST_LENGTH]


def _encode_data(record: EnrichedDeployment, deployment: Iterable[Chunk]) -> tuple[Chunk, ...]:
    """Return the data after the change, in chunks, so that the deployment is not copied.

    Nothing before the deployment holds a text that could look like its name.
    """
    before, name, after = msgspec.json.encode(record).partition(b'"deployment":')
    return before[len(BEFORE_REVISION) + _PLACEHOLDER_LENGTH :] + name, *deployment, after


def _build_source_event(lease: Lease) -> SourceEvent:
    ticket = lease.ticket
    return SourceEvent(
        source=ticket.source,
        delivery=ticket.delivery,
        received_at=lease.received_at,
        outcome=ticket.outcome,
        event_time=ticket.event_time,
        metadata=Raw(ticket.metadata or b"null"),
        metadata_dropped=ticket.metadata_dropped,
        reported_at=(ticket.report.reported_at or None) if ticket.report is not None else None,
    )


def _build_fields(deployment: Deployment, lease: Lease, *, complete: bool) -> tuple[str, ...]:
    ticket = lease.ticket
    occurred_at = deployment.ended_at or ticket.event_time or lease.received_at
    return (
        *_CONSTANT_FIELDS,
        *("source", f"/deployment-enricher/{ticket.source}"),
        *("subject", deployment.id),
        *("time", format_time(occurred_at, fallback_ms=lease.queued_at)),
        *("projectkey", ticket.project or ""),
        *("environmentkey", deployment.environment_key or ticket.environment or ""),
        *("applicationkey", deployment.application_key or ticket.application or ""),
        *("complete", "true" if complete else "false"),
        *(() if ticket.traceparent is None else ("traceparent", ticket.traceparent)),
    )


def format_time(time_ms: int, *, fallback_ms: int) -> str:
    """Return a time in epoch ms as RFC 3339; the fallback if the calendar cannot hold it."""
    try:
        moment = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        moment = _EPOCH + timedelta(milliseconds=fallback_ms)
    return moment.isoformat(timespec="milliseconds") + "Z"
