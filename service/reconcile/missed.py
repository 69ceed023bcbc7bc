"""Which of the listed deployments may no webhook have told of? And from where to list next time?

LaunchDarkly does not say whether `from` and `to` bound the beginning of a deployment or its end. So
where one is still in progress, the next list begins no later than it did.
"""

from collections.abc import Iterable, Iterator

from msgspec import Raw, Struct
from msgspec.structs import replace

from service.accept.choice import Only
from service.accept.events import DeploymentCompleted
from service.backlog.ticket import name_job, store_ticket, write_ticket
from service.enrich.deployment import Outline, read_outline

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


class Span(Struct, frozen=True):
    """From and until when something is listed (epoch ms)."""

    begin: int
    end: int


class Missed(Struct, frozen=True):
    """A deployment that was not missed if its mark, or a job of it, is there."""

    deployment_id: str
    sought_as: str
    ticket: bytes


class Sifted(Struct, frozen=True):
    """A page of the list: how many it held, how many may be missed, and those still open.

    ``oldest_open`` is when the first of those began that have not ended, or have just now.
    """

    listed: int = 0
    ended: tuple[Outline, ...] = ()
    open: int = 0
    unreadable: int = 0
    oldest_open: int | None = None


def sift_page(items: Iterable[Raw], *, settled_before: int) -> Sifted:
    """Tell those that ended some time ago from those whose webhook may be on its way."""
    ended: list[Outline] = []
    began: list[int] = []
    listed = unfinished = unreadable = 0
    for item in items:
        outline = read_outline(item)
        if outline is None:
            continue
        listed += 1
        if not isinstance(outline, Outline):
            unreadable += 1
        elif outline.is_unfinished or (_find_end(outline) or 0) > settled_before:
            unfinished += 1
            began += [] if outline.started_at is None else [outline.started_at]
        else:
            ended.append(outline)
    return Sifted(
        listed=listed,
        ended=tuple(ended),
        open=unfinished,
        unreadable=unreadable,
        oldest_open=min(began, default=None),
    )


def write_missed(outline: Outline, scope: Scope, only: Only) -> Missed | None:
    """Write what is queued for a listed deployment, as if a webhook had told of it.

    None: nobody wants it.
    """
    event = DeploymentCompleted(
        source=scope.source,
        delivery=outline.id,
        project=scope.project,
        environment=scope.environment,
        application=outline.application_key,
        version=outline.application_version,
        deployment_id=outline.id,
        outcome="failed" if outline.status == "failed" else "succeeded",
        event_time=_find_end(outline),
        metadata=None,
        metadata_dropped=False,
        traceparent=None,
    )
    if only.sift(event) is not event:
        return None
    # When it was queued is written once it is taken up: see look_again.lua.
    ticket = store_ticket(write_ticket(event), job=name_job(event), queued_at=0)
    sought_as = name_job(replace(event, deployment_id=None))
    return Missed(outline.id, sought_as, ticket)


def split_span(span: Span) -> Iterator[Span]:
    """Split a span into days: each is listed to its end before the next, whatever the order is."""
    for begin in range(span.begin, span.end, _DAY_MS):
        yield Span(begin, min(begin + _DAY_MS, span.end))


def advance(now_ms: int, oldest_open: int | None, *, window_ms: int) -> int:
    """Give the next checkpoint: now, but not past what has been open for up to ``window_ms``."""
    return now_ms if oldest_open is None else min(now_ms, max(oldest_open, now_ms - window_ms))


def _find_end(outline: Outline) -> int | None:
    return outline.ended_at or outline.started_at
