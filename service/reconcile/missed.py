"""Missed deployments: which listed ones no webhook may have reported, and the next checkpoint.

LaunchDarkly does not say whether `from` and `to` limit the start or the end of a deployment. So
while a deployment is in progress, the next list starts no later than that deployment did.
"""

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Raw, Struct
from msgspec.structs import replace

from service.accept.filters import DeploymentFilter
from service.accept.mapping import DeploymentEvent
from service.backlog.ticket import job_key, new_ticket_bytes, ticket_from_event
from service.enrich.models import DeploymentHead, parse_head

MAX_OUT_OF_VIEW = 50
"""The most deployments of a scope that are in progress since before its checkpoint."""

_DAY_MS = 86_400_000
_MAX_OPEN_MS = 30 * _DAY_MS


class Scope(Struct, frozen=True):
    """The deployments of one project and environment, of some applications or of all.

    ``source`` is the source of the event in their records.
    """

    project: str
    environment: str
    source: str = "reconcile"
    applications: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the scope in keys and logs."""
        return "/".join((self.project, self.environment, *self.applications))


class TimeRange(Struct, frozen=True):
    """Start and end of a list (epoch ms)."""

    start_ms: int
    end_ms: int


class MissedDeployment(Struct, frozen=True):
    """A listed deployment. It was missed if Redis has no record and no job of it."""

    deployment_id: str
    version_job: str
    ticket: bytes


class PageResult(Struct, frozen=True):
    """A classified page of the list: deployments listed, ended, still open and unreadable.

    ``open_starts`` maps those that are open or have only just ended to when they started (ms).
    """

    listed: int = 0
    ended: tuple[DeploymentHead, ...] = ()
    still_open: int = 0
    unreadable: int = 0
    open_starts: Mapping[str, int] = {}


def classify_page(items: Iterable[Raw], *, settled_before_ms: int) -> PageResult:
    """Separate deployments that ended some time ago from those whose webhook may still arrive."""
    ended: list[DeploymentHead] = []
    open_starts: dict[str, int] = {}
    listed = unfinished = unreadable = 0
    for item in items:
        head = parse_head(item)
        if head is None:
            continue
        listed += 1
        if not isinstance(head, DeploymentHead):
            unreadable += 1
        elif head.is_unfinished or (_ended_at(head) or 0) > settled_before_ms:
            unfinished += 1
            if head.started_at is not None:
                open_starts[head.id] = head.started_at
        else:
            ended.append(head)
    return PageResult(
        listed=listed,
        ended=tuple(ended),
        still_open=unfinished,
        unreadable=unreadable,
        open_starts=open_starts,
    )


def build_missed(
    head: DeploymentHead, scope: Scope, deployment_filter: DeploymentFilter
) -> MissedDeployment | None:
    """Return what is queued for a listed deployment, as if a webhook had reported it.

    Return None if the filter excludes the deployment.
    """
    event = DeploymentEvent(
        source=scope.source,
        delivery=head.id,
        project=scope.project,
        environment=scope.environment,
        application=head.application_key,
        version=head.application_version,
        deployment_id=head.id,
        outcome="failed" if head.status == "failed" else "succeeded",
        event_time=_ended_at(head),
        metadata=None,
        metadata_dropped=False,
        traceparent=None,
    )
    rejection = deployment_filter.rejection_reason(
        application=event.application, environment=event.environment, outcome=event.outcome
    )
    if rejection is not None:
        return None
    # refresh_due.lua replaces queued_at when it queues the ticket.
    ticket = new_ticket_bytes(ticket_from_event(event), job=job_key(event), queued_at=0)
    version_job = job_key(replace(event, deployment_id=None))
    return MissedDeployment(head.id, version_job, ticket)


def split_by_day(time_range: TimeRange) -> Iterator[TimeRange]:
    """Split a range into days, so that each day is listed completely before the next."""
    for start_ms in range(time_range.start_ms, time_range.end_ms, _DAY_MS):
        yield TimeRange(start_ms, min(start_ms + _DAY_MS, time_range.end_ms))


def next_checkpoint(now_ms: int, open_starts: Mapping[str, int], *, lookback_ms: int) -> int:
    """Return the next checkpoint: now or the oldest open start, at most ``lookback_ms`` ago."""
    oldest_open_ms = min(open_starts.values(), default=now_ms)
    return min(now_ms, max(oldest_open_ms, now_ms - lookback_ms))


def select_out_of_view(
    open_starts: Mapping[str, int], *, checkpoint: int, now_ms: int
) -> dict[str, int]:
    """Return the open deployments that the next list may no longer hold, the newest first.

    They are fetched by their id until they end: at most ``MAX_OUT_OF_VIEW``, for 30 days.
    """
    out_of_view = [
        (start_ms, deployment_id)
        for deployment_id, start_ms in open_starts.items()
        if now_ms - _MAX_OPEN_MS < start_ms < checkpoint
    ]
    newest = sorted(out_of_view, reverse=True)[:MAX_OUT_OF_VIEW]
    return {deployment_id: start_ms for start_ms, deployment_id in newest}


def _ended_at(head: DeploymentHead) -> int | None:
    return head.ended_at or head.started_at
