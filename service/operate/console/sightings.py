"""What became of a deployment? What Redis keeps of it in, one sighting with its way out."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import UNSET, Struct

from service.backlog.failure import Failed, Failure, read_aside
from service.backlog.ticket import Lease, Ticket, read_lease
from service.enrich.deployment import Outline
from service.publish.reading import read_as_text
from service.publish.record import EnrichedDeployment
from service.publish.summary import PullRequestSummary, TouchedFlag

Fate = Literal["waiting", "in hand", "published", "failed", "set aside"]


_REVISION = re.compile(r"[0-9]{1,10}")  # what somebody else wrote may be no number of ours


class Step(Struct, frozen=True):
    """One step of its way, and when (epoch ms)."""

    name: str
    at_ms: float
    note: str = ""


class Outcome(Struct, frozen=True, kw_only=True):
    """What a record says that was published; ``look`` counts looks, 0: a webhook asked for it."""

    revision: int
    complete: bool = True
    missing: str = ""
    pulls: Sequence[PullRequestSummary] = ()
    flags: Sequence[TouchedFlag] = ()
    lead_time_ms: int | None = None
    look: int = 0


class Sighting(Struct, frozen=True, kw_only=True):
    """One deployment where it was seen. ``at_ms`` is when that came about, or when it is due.

    ``key`` names the sighting among all others; ``job`` is empty where it was published.
    """

    fate: Fate
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
    steps: Sequence[Step] = ()
    outcome: Outcome | None = None

    @property
    def took_ms(self) -> float | None:
        """How long it took from the webhook to its end; None while it has not come to one.

        A look comes when it is planned: since the webhook says nothing of it.
        """
        begun = next((step.at_ms for step in self.steps if step.name == "webhook"), None)
        is_look = self.outcome is not None and self.outcome.look > 0
        if begun is None or is_look or self.fate not in {"published", "failed"}:
            return None
        return max(0.0, self.at_ms - begun)

    def answers_to(self, words: str) -> bool:
        """Tell whether this is what a person seeks by application, version, id or job."""
        names = (self.deployment_id, self.application, self.version, self.job, self.delivery)
        sought = words.casefold()
        return any(sought in name.casefold() for name in names)


def sight_record(position: str, told: Mapping[bytes, bytes]) -> Sighting:
    """See an entry of the output stream; one that is not ours, or was cut, tells less."""
    fields = read_as_text(told)
    at_ms = float(position.partition("-")[0])
    record = _read_record(fields.get("data", ""))
    revision = fields.get("revision", "")
    known = Sighting(
        fate="published",
        key=f"record:{position}",
        at_ms=at_ms,
        deployment_id=fields.get("subject", ""),
        project=fields.get("projectkey", ""),
        environment=fields.get("environmentkey", ""),
        application=fields.get("applicationkey", ""),
        source=fields.get("source", "").rpartition("/")[2],
        steps=(Step("record", at_ms),),
        outcome=Outcome(
            revision=int(revision) if _REVISION.fullmatch(revision) else 0,
            complete=fields.get("complete") != "false",
        ),
    )
    return known if record is None else _add_record(known, record)


def sight_ticket(job: str, score: bytes, stored: bytes, *, now_ms: int) -> Sighting:
    """See what waits. A score with a part of a millisecond is a lease: somebody works on it."""
    due_ms = float(score)
    fate: Fate = "waiting" if due_ms.is_integer() else "in hand"
    known = Sighting(fate=fate, key=f"job:{job}", at_ms=due_ms, job=job)
    lease = read_lease(job.encode("utf-8", "replace"), fence=score, stored=stored, now=now_ms)
    if not isinstance(lease, Lease):
        return msgspec.structs.replace(known, reason="unreadable")
    ticket = lease.ticket
    end = Step("due", due_ms) if fate == "waiting" else Step("lease ends", due_ms)
    return _add_ticket(
        known, ticket, (*_begin(ticket, float(lease.queued_at)), end), reason=ticket.reason or ""
    )


def sight_failed(failed: Failed) -> Sighting:
    """See what was given up or set aside."""
    aside, failure = read_aside(failed.job), failed.failure
    known = Sighting(
        fate="failed" if aside is None else "set aside",
        key=f"job:{failed.job}",
        at_ms=failed.at_ms,
        job=failed.job,
        source=failed.source,
        delivery=aside[1] if aside else "",
        reason=failed.reason,
        detail=failure.detail if failure else "",
        steps=(Step("failed" if aside is None else "set aside", failed.at_ms),),
    )
    ticket = failure.ticket if failure else None
    if failure is None or ticket is None:
        return known
    return _add_ticket(
        known, ticket, (*_begin(ticket, None), *known.steps), reason=failure.reason, tried=1
    )


def show_raw(failure: Failure | None, *, most: int) -> tuple[str, bool]:
    """Give the raw answer or body as text, and whether it goes on."""
    if failure is None:
        return "", False
    text = failure.raw.decode("utf-8", "replace")
    with suppress(msgspec.MsgspecError, RecursionError):  # no JSON, or cut: shown as it came
        text = msgspec.json.format(text, indent=2)
    return text[:most], failure.raw_cut or len(text) > most


def _begin(ticket: Ticket, queued_ms: float | None) -> tuple[Step, ...]:
    deployed = () if ticket.event_time is None else (Step("deployed", float(ticket.event_time)),)
    queued = () if queued_ms is None else (Step("webhook", queued_ms),)
    return (*deployed, *queued)


def _add_ticket(
    known: Sighting, ticket: Ticket, steps: tuple[Step, ...], *, reason: str, tried: int = 0
) -> Sighting:
    return msgspec.structs.replace(
        known,
        deployment_id=ticket.deployment_id or "",
        project=ticket.project or "",
        environment=ticket.environment or "",
        application=ticket.application or "",
        version=ticket.version or "",
        source=ticket.source,
        delivery=ticket.delivery,
        attempts=ticket.attempts + tried,
        reason=reason,
        steps=steps,
    )


def _read_record(data: str) -> tuple[EnrichedDeployment, Outline] | None:
    try:
        record = msgspec.json.decode(data, type=EnrichedDeployment)
        return record, msgspec.json.decode(record.deployment, type=Outline)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _add_record(known: Sighting, read: tuple[EnrichedDeployment, Outline]) -> Sighting:
    record, outline = read
    event, summary, told = record.event, record.summary, record.completeness
    deployed_ms = outline.ended_at or event.event_time
    steps = [Step("deployed", float(deployed_ms))] if deployed_ms else []
    look = record.looks.taken
    notes = [f"at look {look}"] if look else []
    notes += [] if record.attempts == 1 else [f"at try {record.attempts}"]
    steps += [
        Step("webhook", float(event.received_at), event.source),
        Step("enriched", float(record.enriched_at), ", ".join(notes)),
        Step("record", known.at_ms, f"revision {record.revision}"),
    ]
    return msgspec.structs.replace(
        known,
        version=outline.application_version or "",
        source=event.source,
        delivery=event.delivery,
        attempts=record.attempts,
        steps=tuple(steps),
        outcome=Outcome(
            revision=record.revision,
            complete=told.complete,
            missing="" if told.reason is UNSET else told.reason,
            pulls=summary.pull_requests,
            flags=summary.flags,
            lead_time_ms=summary.lead_time_ms,
            look=look,
        ),
    )
