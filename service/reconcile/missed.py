"""Which of the listed deployments may no webhook have told of? And from where to list next time?

LaunchDarkly does not say whether `from` and `to` bound the beginning of a deployment or its end. So
where one is still in progress, the next list begins no later than it did.
"""

from collections.abc import Iterable, Iterator

from msgspec import Raw, Struct
from msgspec.structs import replace

from service.accept.filters import DeploymentFilter
from service.accept.mapping import DeploymentCompleted
from service.backlog.ticket import job_key, new_ticket_bytes, ticket_from_event
from service.enrich.models import DeploymentHead, parse_head

_DAY_MS = 86_400_000


class Scope(Struct, frozen=True):
    """What is listed: the deployments of one project and environment, of some applications or all.

    ``source`` is what their records name as the source of the event.
    """

    project: str
    environment: str
    source: str = "reconcile"
    applications: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name what is listed."""
        return "/".join((self.project, self.environment, *self.applications))


class TimeRange(Struct, frozen=True):
    """From and until when something is listed (epoch ms)."""

    start_ms: int
    end_ms: int


class MissedDeployment(Struct, frozen=True):
    """A deployment that was not missed if its mark, or a job of it, is there."""

    deployment_id: str
    version_job: str
    ticket: bytes


class PageResult(Struct, frozen=True):
    """A page of the list: how many it held, how many may be missed, and those still open.

    ``oldest_open`` is when the first of those began that have not ended, or have just now.
    """

    listed: int = 0
    ended: tuple[DeploymentHead, ...] = ()
    still_open: int = 0
    unreadable: int = 0
    oldest_open_ms: int | None = None


def classify_page(items: Iterable[Raw], *, settled_before_ms: int) -> PageResult:
    """Tell those that ended some time ago from those whose webhook may be on its way."""
    ended: list[DeploymentHead] = []
    start_times: list[int] = []
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
            start_times += [] if head.started_at is None else [head.started_at]
        else:
            ended.append(head)
    return PageResult(
        listed=listed,
        ended=tuple(ended),
        still_open=unfinished,
        unreadable=unreadable,
        oldest_open_ms=min(start_times, default=None),
    )


def build_missed(
    head: DeploymentHead, scope: Scope, deployment_filter: DeploymentFilter
) -> MissedDeployment | None:
    """Write what is queued for a listed deployment, as if a webhook had told of it.

    None: nobody wants it.
    """
    event = DeploymentCompleted(
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
    if deployment_filter.rejection_reason(
        application=event.application, environment=event.environment, outcome=event.outcome
    ):
        return None
    # When it was queued is written once it is taken up: see look_again.lua.
    ticket = new_ticket_bytes(ticket_from_event(event), job=job_key(event), queued_at=0)
    version_job = job_key(replace(event, deployment_id=None))
    return MissedDeployment(head.id, version_job, ticket)


def split_by_day(time_range: TimeRange) -> Iterator[TimeRange]:
    """Split a span into days: each is listed to its end before the next, whatever the order is."""
    for start_ms in range(time_range.start_ms, time_range.end_ms, _DAY_MS):
        yield TimeRange(start_ms, min(start_ms + _DAY_MS, time_range.end_ms))


def next_checkpoint(now_ms: int, oldest_open_ms: int | None, *, lookback_ms: int) -> int:
    """Give the next checkpoint: now, but not past what has been open for up to ``window_ms``."""
    return (
        now_ms if oldest_open_ms is None else min(now_ms, max(oldest_open_ms, now_ms - lookback_ms))
    )


def _ended_at(head: DeploymentHead) -> int | None:
    return head.ended_at or head.started_at
