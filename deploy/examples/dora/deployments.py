"""Deployments as the page needs them, taken from records; pure. Times are epoch ms."""

from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

_MAX_LISTED = 40  # pull requests, flags or flag events of one deployment


class Scope(NamedTuple):
    """One application in one environment of a project: the measures are computed for each."""

    project: str
    environment: str
    application: str


class Previous(Struct, frozen=True):
    """The deployment that ended before another one."""

    deployment_id: str
    version: str = ""
    succeeded: bool = True


class Change(Struct, frozen=True):
    """What a deployment changed in its environment; ``recovery_ms`` is how long a failure lasted.

    That is None unless the deployment ended a failure.
    """

    previous: Previous | None = None
    since_previous_ms: int | None = None
    redeployment: bool = False
    rollback: bool = False
    recovery_ms: int | None = None


class Impact(Struct, frozen=True):
    """How much a flag event changed the evaluations of the flag; ``percentage`` is 0 to 100."""

    size: str = ""
    percentage: float | None = None
    is_waiting: bool = False


class FlagEvent(Struct, frozen=True):
    """What happened to a flag after a deployment that touched it, and who did it, if known."""

    flag_key: str
    event_type: str
    event_time: int
    description: str
    impact: Impact
    member: str


class PullRequest(Struct, frozen=True):
    """A pull request of a deployment; ``url`` is empty if the record has no link to it."""

    number: str
    title: str
    author: str
    url: str


class Flag(Struct, frozen=True):
    """A flag that a deployment touched; ``url`` is empty if the record has no link to it."""

    key: str
    url: str


class Deployment(Struct, frozen=True, kw_only=True):
    """One revision of a deployment.

    ``change`` is None if nobody knows it, ``flag_events`` if they were not asked for.
    """

    id: str
    revision: int
    scope: Scope
    version: str = ""
    ended_at: int
    succeeded: bool
    lead_time_ms: int | None = None
    change: Change | None = None
    pull_requests: tuple[PullRequest, ...] = ()
    pull_request_count: int = 0
    flags: tuple[Flag, ...] = ()
    flag_events: tuple[FlagEvent, ...] | None = None


def parse_record(record: Any) -> Deployment:
    """Return the deployment of a record of the client."""
    data, deployment = record.data, record.deployment
    event_times = (deployment.ended_at, data.event.event_time, data.event.received_at)
    return Deployment(
        id=record.id.rpartition(":")[0] or record.id,
        revision=data.revision,
        scope=Scope(record.project, record.environment, record.application),
        version=deployment.application_version or "",
        ended_at=next(time for time in event_times if time is not None),
        succeeded=data.event.outcome != "failed",
        lead_time_ms=data.summary.lead_time_ms,
        change=_read_change(data.change),
        pull_requests=_list_pull_requests(data),
        pull_request_count=len(data.summary.pull_requests),
        flags=_list_flags(data),
        flag_events=_list_flag_events(data.flag_events),
    )


def _read_change(change: Any) -> Change | None:
    if change is None:
        return None
    previous = change.previous
    return Change(
        previous=previous
        and Previous(
            previous.deployment_id, previous.version or "", previous.outcome == "succeeded"
        ),
        since_previous_ms=change.since_previous_ms,
        redeployment=change.redeployment,
        rollback=change.rollback,
        recovery_ms=change.recovery and change.recovery.after_ms,
    )


def _list_flag_events(events: Any) -> tuple[FlagEvent, ...] | None:
    if events is None:
        return None
    return tuple(
        FlagEvent(
            flag_key=event.flag_key,
            event_type=event.event_type or "changed",
            event_time=event.event_time,
            description=event.description or "",
            impact=_read_impact(msgspec.json.decode(event.impact)),
            member=event.member_email or "",
        )
        for event in sorted(events, key=lambda event: event.event_time)[:_MAX_LISTED]
    )


def _read_impact(impact: Any) -> Impact:
    """Return what is readable of an impact."""
    match impact:
        case {"reason": "waiting"}:
            return Impact(is_waiting=True)
        case {"percentage": int() | float() as percentage, **rest}:
            size = rest.get("size")
            return Impact(size if isinstance(size, str) else "", percentage)
        case {"size": str() as size}:
            return Impact(size)
        case _:
            return Impact()


def _list_pull_requests(data: Any) -> tuple[PullRequest, ...]:
    linked_urls = {link.url for link in data.links.pull_requests if _is_http_url(link.url)}
    return tuple(
        PullRequest(
            pull.number or "",
            pull.title or "",
            pull.author or "",
            pull.url if pull.url in linked_urls else "",
        )
        for pull in data.summary.pull_requests[:_MAX_LISTED]
    )


def _list_flags(data: Any) -> tuple[Flag, ...]:
    urls = {link.key: link.url for link in data.links.flags if _is_http_url(link.url)}
    keys = dict.fromkeys(flag.key for flag in data.summary.flags)
    return tuple(Flag(key, urls.get(key, "")) for key in list(keys)[:_MAX_LISTED])


def _is_http_url(url: str) -> bool:
    """Return whether a URL is safe as a link: a ``javascript:`` URL would run as a script."""
    try:
        return urlsplit(url).scheme in {"http", "https"}
    except ValueError:
        return False
