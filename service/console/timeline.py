"""What became of a deployment? What Redis keeps of it in, one sighting with its way out."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import UNSET, Struct

from service.backlog.failures import FailedTicket, FailureRecord, parse_parked_job
from service.backlog.ticket import Lease, Ticket, decode_lease
from service.client.entry import format_fields
from service.enrich.models import DeploymentHead
from service.publish.record import EnrichedDeployment, PullRequestSummary, TouchedFlag

DeploymentStatus = Literal["waiting", "leased", "published", "failed", "parked"]


_REVISION_PATTERN = re.compile(r"[0-9]{1,10}")  # what somebody else wrote may be no number of ours


class TimelineStep(Struct, frozen=True):
    """One step of its way, and when (epoch ms)."""

    name: str
    at_ms: float
    note: str = ""


class PublishedRecord(Struct, frozen=True, kw_only=True):
    """What a record says that was published; ``look`` counts looks, 0: a webhook asked for it."""

    revision: int
    is_complete: bool = True
    incomplete_reason: str = ""
    pull_requests: Sequence[PullRequestSummary] = ()
    flags: Sequence[TouchedFlag] = ()
    lead_time_ms: int | None = None
    refresh: int = 0


class DeploymentView(Struct, frozen=True, kw_only=True):
    """One deployment where it was seen. ``at_ms`` is when that came about, or when it is due.

    ``key`` names the sighting among all others; ``job`` is empty where it was published.
    """

    status: DeploymentStatus
    key: str
    at_ms: float
    job: str = ""
    deployment_id: str = ""
    project: str = ""
    environment: str = ""
    application: str = ""
    version: str = ""
    source: str = ""
    delivery: str = ""
    attempts: int = 0
    reason: str = ""
    detail: str = ""
    steps: Sequence[TimelineStep] = ()
    record: PublishedRecord | None = None

    @property
    def took_ms(self) -> float | None:
        """How long it took from the webhook to its end; None while it has not come to one.

        A look comes when it is planned: since the webhook says nothing of it.
        """
        received_ms = next((step.at_ms for step in self.steps if step.name == "webhook"), None)
        is_refresh = self.record is not None and self.record.refresh > 0
        if received_ms is None or is_refresh or self.status not in {"published", "failed"}:
            return None
        return max(0.0, self.at_ms - received_ms)

    def matches(self, query: str) -> bool:
        """Tell whether this is what a person seeks by application, version, id or job."""
        names = (self.deployment_id, self.application, self.version, self.job, self.delivery)
        lowered_query = query.casefold()
        return any(lowered_query in name.casefold() for name in names)


def view_from_record(position: str, raw_fields: Mapping[bytes, bytes]) -> DeploymentView:
    """See an entry of the output stream; one that is not ours, or was cut, tells less."""
    fields = format_fields(raw_fields)
    at_ms = float(position.partition("-")[0])
    record = _decode_record(fields.get("data", ""))
    revision = fields.get("revision", "")
    view = DeploymentView(
        status="published",
        key=f"record:{position}",
        at_ms=at_ms,
        deployment_id=fields.get("subject", ""),
        project=fields.get("projectkey", ""),
        environment=fields.get("environmentkey", ""),
        application=fields.get("applicationkey", ""),
        source=fields.get("source", "").rpartition("/")[2],
        steps=(TimelineStep("record", at_ms),),
        record=PublishedRecord(
            revision=int(revision) if _REVISION_PATTERN.fullmatch(revision) else 0,
            is_complete=fields.get("complete") != "false",
        ),
    )
    return view if record is None else _with_record(view, record)


def view_from_ticket(job: str, score: bytes, stored: bytes, *, now_ms: int) -> DeploymentView:
    """See what waits. A score with a part of a millisecond is a lease: somebody works on it."""
    due_ms = float(score)
    status: DeploymentStatus = "waiting" if due_ms.is_integer() else "leased"
    view = DeploymentView(status=status, key=f"job:{job}", at_ms=due_ms, job=job)
    lease = decode_lease(job.encode("utf-8", "replace"), fence=score, stored=stored, now=now_ms)
    if not isinstance(lease, Lease):
        return msgspec.structs.replace(view, reason="unreadable")
    ticket = lease.ticket
    last_step = (
        TimelineStep("due", due_ms) if status == "waiting" else TimelineStep("lease ends", due_ms)
    )
    return _with_ticket(
        view,
        ticket,
        (*_first_steps(ticket, float(lease.queued_at)), last_step),
        reason=ticket.reason or "",
    )


def view_from_failed(failed: FailedTicket) -> DeploymentView:
    """See what was given up or set aside."""
    parked, failure = parse_parked_job(failed.job), failed.failure
    view = DeploymentView(
        status="failed" if parked is None else "parked",
        key=f"job:{failed.job}",
        at_ms=failed.at_ms,
        job=failed.job,
        source=failed.source,
        delivery=parked[1] if parked else "",
        reason=failed.reason,
        detail=failure.detail if failure else "",
        steps=(TimelineStep("failed" if parked is None else "parked", failed.at_ms),),
    )
    ticket = failure.ticket if failure else None
    if failure is None or ticket is None:
        return view
    return _with_ticket(
        view,
        ticket,
        (*_first_steps(ticket, None), *view.steps),
        reason=failure.reason,
        extra_attempts=1,
    )


def format_raw(failure: FailureRecord | None, *, max_chars: int) -> tuple[str, bool]:
    """Give the raw answer or body as text, and whether it goes on."""
    if failure is None:
        return "", False
    text = failure.raw.decode("utf-8", "replace")
    with suppress(msgspec.MsgspecError, RecursionError):  # no JSON, or cut: shown as it came
        text = msgspec.json.format(text, indent=2)
    return text[:max_chars], failure.raw_cut or len(text) > max_chars


def _first_steps(ticket: Ticket, queued_ms: float | None) -> tuple[TimelineStep, ...]:
    deployed = (
        () if ticket.event_time is None else (TimelineStep("deployed", float(ticket.event_time)),)
    )
    queued = () if queued_ms is None else (TimelineStep("webhook", queued_ms),)
    return (*deployed, *queued)


def _with_ticket(
    view: DeploymentView,
    ticket: Ticket,
    steps: tuple[TimelineStep, ...],
    *,
    reason: str,
    extra_attempts: int = 0,
) -> DeploymentView:
    return msgspec.structs.replace(
        view,
        deployment_id=ticket.deployment_id or "",
        project=ticket.project or "",
        environment=ticket.environment or "",
        application=ticket.application or "",
        version=ticket.version or "",
        source=ticket.source,
        delivery=ticket.delivery,
        attempts=ticket.attempts + extra_attempts,
        reason=reason,
        steps=steps,
    )


def _decode_record(data: str) -> tuple[EnrichedDeployment, DeploymentHead] | None:
    try:
        record = msgspec.json.decode(data, type=EnrichedDeployment)
        return record, msgspec.json.decode(record.deployment, type=DeploymentHead)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _with_record(
    view: DeploymentView, decoded: tuple[EnrichedDeployment, DeploymentHead]
) -> DeploymentView:
    record, outline = decoded
    event, summary, completeness = record.event, record.summary, record.completeness
    deployed_ms = outline.ended_at or event.event_time
    steps = [TimelineStep("deployed", float(deployed_ms))] if deployed_ms else []
    refresh = record.refreshes.done
    notes = [f"at look {refresh}"] if refresh else []
    notes += [] if record.attempts == 1 else [f"at try {record.attempts}"]
    steps += [
        TimelineStep("webhook", float(event.received_at), event.source),
        TimelineStep("enriched", float(record.enriched_at), ", ".join(notes)),
        TimelineStep("record", view.at_ms, f"revision {record.revision}"),
    ]
    return msgspec.structs.replace(
        view,
        version=outline.application_version or "",
        source=event.source,
        delivery=event.delivery,
        attempts=record.attempts,
        steps=tuple(steps),
        record=PublishedRecord(
            revision=record.revision,
            is_complete=completeness.complete,
            incomplete_reason="" if completeness.reason is UNSET else completeness.reason,
            pull_requests=summary.pull_requests,
            flags=summary.flags,
            lead_time_ms=summary.lead_time_ms,
            refresh=refresh,
        ),
    )
