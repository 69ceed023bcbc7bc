"""A deployment as the console shows it, built from a ticket, a failed ticket or a record; pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from service.backlog.failures import (
    MIN_SHOWN_EVENTS,
    FailedTicket,
    FailureRecord,
    parse_parked_job,
)
from service.backlog.lines import due_since_ms
from service.backlog.ticket import Lease, Ticket, decode_lease
from service.client.entry import format_fields
from service.enrich.models import DeploymentHead, parse_head
from service.publish.record import (
    Change,
    EnrichedDeployment,
    FlagEvent,
    PullRequestSummary,
    TouchedFlag,
)

DeploymentStatus = Literal["waiting", "leased", "published", "failed", "parked"]


_MAX_FLAG_STEPS = 20
_FLAG_EVENT_TEXTS = {"enabled_targeting": "turned on", "disabled_targeting": "turned off"}
_REVISION_PATTERN = re.compile(r"[0-9]{1,10}")  # other writers may put anything there


class TimelineStep(Struct, frozen=True):
    """One step of a deployment, and when it happened (epoch ms)."""

    name: str
    at_ms: float
    note: str = ""


class Rollback(Struct, frozen=True):
    """The deployment that rolled another one back, and when it ended (epoch ms)."""

    deployment_id: str
    version: str
    at_ms: float


class PublishedRecord(Struct, frozen=True, kw_only=True):
    """The content of a record; ``refresh`` is 0 for a record that a webhook caused.

    ``change`` is None if nobody knows it. ``flag_urls`` has the flags with a page in LaunchDarkly.
    """

    revision: int
    has_failed: bool = False
    change: Change | None = None
    rolled_back_by: Rollback | None = None
    flag_urls: Mapping[str, str] = {}
    is_complete: bool = True
    incomplete_reason: str = ""
    pull_requests: Sequence[PullRequestSummary] = ()
    flags: Sequence[TouchedFlag] = ()
    lead_time_ms: int | None = None
    refresh: int = 0


class DeploymentView(Struct, frozen=True, kw_only=True):
    """One deployment in one place: the backlog, the failed tickets or the stream.

    ``at_ms`` is when it got there; for a waiting ticket, when it is due. ``key`` is unique among
    all views. ``job`` is empty for a record.
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
    def deployed_ms(self) -> float:
        """When the deployment ended (epoch ms); of a record of another writer, its own time."""
        return next((step.at_ms for step in self.steps if step.name == "deployed"), self.at_ms)

    @property
    def took_ms(self) -> float | None:
        """The time from the webhook to the record or failure; None for all other views.

        None also for a refresh: it runs on a schedule.
        """
        received_ms = next((step.at_ms for step in self.steps if step.name == "webhook"), None)
        is_refresh = self.record is not None and self.record.refresh > 0
        if received_ms is None or is_refresh or self.status not in {"published", "failed"}:
            return None
        return max(0.0, self.at_ms - received_ms)

    def matches(self, query: str) -> bool:
        """Return whether application, version, id, job or delivery contains the query."""
        names = (self.deployment_id, self.application, self.version, self.job, self.delivery)
        lowered_query = query.casefold()
        return any(lowered_query in name.casefold() for name in names)


def view_from_record(position: str, raw_fields: Mapping[bytes, bytes]) -> DeploymentView:
    """Return the view of a stream entry; an entry of another writer has fewer fields."""
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
    """Return the view of a ticket; a score with a fraction is a lease."""
    due_ms = due_since_ms(float(score))
    status: DeploymentStatus = "waiting" if float(score).is_integer() else "leased"
    view = DeploymentView(status=status, key=f"job:{job}", at_ms=due_ms, job=job)
    lease = decode_lease(job.encode("utf-8", "replace"), fence=score, stored=stored, now=now_ms)
    if not isinstance(lease, Lease):
        return msgspec.structs.replace(view, reason="corrupt_ticket")
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
    """Return the view of a failed or parked ticket."""
    parked, failure = parse_parked_job(failed.job), failed.failure
    view = DeploymentView(
        status="failed" if parked is None else "parked",
        key=f"failed:{failed.job}",
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


class RollbackFinder:
    """Finds what rolled a deployment back: a later one, by the last revision of its record."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[int, str | None, Rollback]] = {}

    def add(self, views: Iterable[DeploymentView]) -> None:
        """Look at further records, in any order."""
        for view in views:
            record = view.record
            known_revision = self._records.get(view.deployment_id, (0,))[0]
            if record is None or record.revision < known_revision:
                continue
            change = record.change
            previous = change.previous if change is not None and change.rollback else None
            self._records[view.deployment_id] = (
                record.revision,
                previous.deployment_id if previous is not None else None,
                Rollback(view.deployment_id, view.version, view.deployed_ms),
            )

    def list_rollbacks(self) -> Mapping[str, Rollback]:
        """Return what rolled back each deployment, by the id of the latter."""
        return {
            rolled_back: rollback
            for _, rolled_back, rollback in self._records.values()
            if rolled_back is not None
        }


def with_rollback(view: DeploymentView, rollbacks: Mapping[str, Rollback]) -> DeploymentView:
    """Return the view of a record with what rolled it back, if anything did."""
    rollback = rollbacks.get(view.deployment_id)
    if view.record is None or rollback is None:
        return view
    record = msgspec.structs.replace(view.record, rolled_back_by=rollback)
    return msgspec.structs.replace(view, record=record)


def view_failed_events(failed: FailedTicket) -> Sequence[DeploymentView]:
    """Return the views of the webhooks of a version, if several failed, the newest first."""
    if len(failed.events) < MIN_SHOWN_EVENTS:
        return ()
    view = view_from_failed(failed)
    return [
        _with_ticket(
            view,
            event.ticket,
            _first_steps(event.ticket, float(event.queued_at)),
            reason=event.ticket.outcome,
        )
        for event in failed.events
    ]


def format_raw(failure: FailureRecord | None, *, max_chars: int) -> tuple[str, bool]:
    """Return the raw response or body as text, and whether it was cut."""
    if failure is None:
        return "", False
    # A large body is not formatted: that would take long. UTF-8 has at most 4 bytes a character.
    text = failure.raw[: 4 * max_chars].decode("utf-8", "replace")
    if len(failure.raw) <= 4 * max_chars:
        with suppress(msgspec.MsgspecError, RecursionError):  # not JSON, or cut: shown as received
            text = msgspec.json.format(text, indent=2)
    is_cut = failure.raw_cut or len(text) > max_chars or len(failure.raw) > 4 * max_chars
    return text[:max_chars], is_cut


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
    except (msgspec.MsgspecError, RecursionError):
        return None
    head = parse_head(record.deployment)
    return (record, head) if isinstance(head, DeploymentHead) else None


def _with_record(
    view: DeploymentView, decoded: tuple[EnrichedDeployment, DeploymentHead]
) -> DeploymentView:
    record, deployment = decoded
    event, summary, completeness = record.event, record.summary, record.completeness
    deployed_ms = deployment.ended_at or event.event_time
    steps = [TimelineStep("deployed", float(deployed_ms))] if deployed_ms else []
    refresh = record.refreshes.done
    notes = [f"refresh {refresh}"] if refresh else []
    notes += [] if record.attempts == 1 else [f"attempt {record.attempts}"]
    steps += [
        TimelineStep("webhook", float(event.received_at), event.source),
        *map(_flag_step, (record.flag_events or ())[:_MAX_FLAG_STEPS]),
        TimelineStep("enriched", float(record.enriched_at), ", ".join(notes)),
        TimelineStep("record", view.at_ms, f"revision {record.revision}"),
    ]
    steps.sort(key=lambda step: step.at_ms)
    return msgspec.structs.replace(
        view,
        version=deployment.application_version or "",
        source=event.source,
        delivery=event.delivery,
        attempts=record.attempts,
        steps=tuple(steps),
        record=PublishedRecord(
            revision=record.revision,
            has_failed=event.outcome == "failed",
            change=record.change,
            flag_urls={link.key: link.url for link in record.links.flags},
            is_complete=completeness.complete,
            incomplete_reason="" if completeness.reason is UNSET else completeness.reason,
            pull_requests=summary.pull_requests,
            flags=summary.flags,
            lead_time_ms=summary.lead_time_ms,
            refresh=refresh,
        ),
    )


def _flag_step(event: FlagEvent) -> TimelineStep:
    what = _FLAG_EVENT_TEXTS.get(event.event_type or "", "") or event.description
    return TimelineStep(
        f"flag {event.flag_key}",
        float(event.event_time),
        f"{what or event.event_type or 'changed'}{_format_impact(event.impact)}",
    )


def _format_impact(json: Raw) -> str:
    """Return what is readable of an impact, which is LaunchDarkly's own JSON."""
    try:
        impact = msgspec.json.decode(json)
    except (msgspec.MsgspecError, RecursionError):
        return ""
    match impact:
        case {"reason": "waiting"}:
            return ", impact not known yet"
        case {"percentage": int() | float() as percentage, "size": str() as size}:
            return f", impact {percentage:.3g} % ({size})"
        case {"percentage": int() | float() as percentage}:
            return f", impact {percentage:.3g} %"
        case _:
            return ""
