"""Reports: when a deployment is reported to LaunchDarkly, how, and what its answer means.

A source with ``report = true`` needs no other program that reports to LaunchDarkly. All functions
are pure: time and chance are arguments.

============================  ==================================================================
what is known of the event    what follows
============================  ==================================================================
listed, and it has ended      nothing is reported: the deployment is published
listed as in progress         its end is reported, unless it was before
not listed, never reported    it is reported
not listed, LD confirmed it   the list is read again, as for any deployment that is not listed yet
not listed, no clear answer   the list is read again for 60 s, then it is reported again
a start, listed or later      nothing is reported: the ticket ends
============================  ==================================================================

LaunchDarkly's answer to ``POST /deployment-events`` is 201 without an id, and there is no
idempotency key (https://launchdarkly.com/docs/api/insights-deployments-beta). So the list is the
only place where an event without an answer can be found.

============================  ==================================================================
answer                        meaning
============================  ==================================================================
2xx                           stored: the list is read after 1 to 2 s
429, 401, 403 "beta"          not stored; ``Retry``, no attempt counted; the budget is closed
any other 403                 not stored; ``Retry`` until ``not_found_timeout_s``, then ``Fail``
no connection                 not stored; ``Retry`` until ``outage_timeout_s``
408, 409, 425, 3xx, 5xx       unclear, as is no answer; ``Retry`` until ``outage_timeout_s``
any other 4xx                 not stored; ``Fail("report_rejected")``
============================  ==================================================================
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import (
    REPORT_PATIENCE_S,
    STARTED,
    QueuedEvent,
    ReportState,
    Ticket,
)
from service.enrich.matching import CLOCK_SKEW_MS, Match, NoMatch, contradicts_outcome
from service.enrich.matching import DeploymentQuery as Query
from service.enrich.models import DeploymentHead
from service.enrich.verdict import (
    ApiResponse,
    AttemptHistory,
    CallFailure,
    CallResult,
    Ended,
    Fail,
    NoResponse,
    Retry,
    RetryPolicy,
    Unreported,
    classify_response,
    decide_call_failure,
    is_passing_fault,
    not_found_wait,
)

REPORT_FORBIDDEN = "report_forbidden"
"""The reason of a verdict while the token may not report deployments."""

_VERSION = re.compile(r"[A-Za-z0-9._-]+")  # PostDeploymentEventInput of LaunchDarkly's OpenAPI
_EVENT_TYPES = {"succeeded": "finished", "failed": "failed", STARTED: "started"}
_SAME_EVENT_MS = 1_000  # as SAME_SENDER_MS in lib_tickets.lua
_SAME_WITHOUT_TIME_MS = 900_000  # as NO_TIME_MS in lib_tickets.lua
_FIRST_WAIT_S = 1.0
_LONGEST_BUSY_WAIT_S = 10.0


def check_version(ticket: Ticket) -> Fail | None:
    """Return ``Fail`` for a version that cannot be reported."""
    if ticket.report is None or _VERSION.fullmatch(ticket.version or ""):
        return None
    detail = (
        "LaunchDarkly accepts only letters, digits, '.', '-' and '_' in a version, and this one is "
        f"{ticket.version!r}: choose another field as version in the source"
    )
    return Fail(reason="report_invalid", detail=detail)


def encode_report(event: QueuedEvent) -> bytes:
    """Return the JSON of a deployment event (``PostDeploymentEventInput``).

    Metadata that is no JSON object is put into one.
    """
    ticket = event.ticket
    body: dict[str, object] = {
        "projectKey": ticket.project,
        "environmentKey": ticket.environment,
        "applicationKey": ticket.application,
        "version": ticket.version,
        "eventType": _EVENT_TYPES[ticket.outcome],
        "eventTime": event.time_ms,
    }
    if ticket.report is not None and ticket.report.version_name:
        body["versionName"] = ticket.report.version_name
    if ticket.metadata is not None and ticket.metadata != b"null":
        metadata = msgspec.Raw(ticket.metadata)
        is_object = ticket.metadata.lstrip()[:1] == b"{"
        body["eventMetadata"] = metadata if is_object else {"metadata": metadata}
    return msgspec.json.encode(body)


def describe_report(ticket: Ticket) -> str:
    """Return what is probably missing if LaunchDarkly does not list a deployment, for a person."""
    if ticket.report is None:
        return (
            "LaunchDarkly lists a deployment only if it is reported. If no pipeline or SDK"
            f" reports it, set report = true in the source {ticket.source}"
        )
    if ticket.report.is_stored:
        return "LaunchDarkly accepted the report of this service, but does not list it"
    return ""


def waits_since(event: QueuedEvent, now_ms: int) -> int:
    """Return since when an event waits for its deployment to be listed (Redis ms).

    An event to report waits from then on: a backlog or an outage before does not count.
    """
    report = event.ticket.report
    if report is None or event.ticket.deployment_id is not None:
        return event.queued_at
    return max(event.queued_at, report.reported_at) if report.reported_at else now_ms


def decide_report(
    events: Sequence[QueuedEvent],
    result: Match | NoMatch,
    *,
    now_ms: int,
    history: AttemptHistory,
    policy: RetryPolicy,
) -> Unreported | Retry | Ended | None:
    """Return whether to report one of the events; None: go on by the list.

    ``result`` is that of a list which was read after ``now_ms``.
    """
    if isinstance(result, Match):
        is_running = result.head.is_unfinished and not result.is_shared
        return (
            _decide_unreported(events, [result.index], now_ms, history, policy)
            if is_running
            else None
        )
    if result.unreadable is not None:
        return None  # it may be the deployment: nobody can know
    if events[0].ticket.outcome == STARTED:
        return _decide_start(events, result.listed, now_ms, history, policy)
    order = sorted(range(len(events)), key=lambda index: events[index].time_ms)
    missing = [index for index in order if not _is_repetition(events[index], result.listed)]
    return _decide_unreported(events, missing, now_ms, history, policy)


def _decide_start(
    events: Sequence[QueuedEvent],
    listed: Iterable[DeploymentHead],
    now_ms: int,
    history: AttemptHistory,
    policy: RetryPolicy,
) -> Unreported | Retry | Ended:
    """Return what follows for the first of some starts: it ends, or it is reported."""
    report = events[0].ticket.report or ReportState()
    if report.is_stored or any(_has_start(head, events[0]) for head in listed):
        return Ended(0)
    return _decide_unreported(events, [0], now_ms, history, policy) or Ended(0)


def _has_start(head: DeploymentHead, event: QueuedEvent) -> bool:
    """Return whether a deployment of the version began with this event, or ended after it.

    A deployment that has been in progress for longer lost its end: it is another one.
    """
    if head.is_unfinished:
        return (head.started_at or 0) >= event.time_ms - CLOCK_SKEW_MS
    return (head.ended_at or head.started_at or 0) >= event.time_ms


def _is_repetition(event: QueuedEvent, listed: Iterable[DeploymentHead]) -> bool:
    """Return whether its source reported the same end by another event before.

    Nothing is reported then: the event ends with the deployment of the other one.
    """
    ticket = event.ticket
    query = Query("", "", "", event.time_ms, outcome=ticket.outcome)
    limit_ms = _SAME_WITHOUT_TIME_MS if ticket.event_time is None else _SAME_EVENT_MS
    return any(
        head.id in ticket.taken
        and not contradicts_outcome(head, query)
        and abs((head.ended_at or head.started_at or 0) - event.time_ms) <= limit_ms
        for head in listed
    )


def _decide_unreported(
    events: Sequence[QueuedEvent],
    indexes: Iterable[int],
    now_ms: int,
    history: AttemptHistory,
    policy: RetryPolicy,
) -> Unreported | Retry | None:
    """Return the first of these events to report; ``Retry`` while its answer is unclear.

    An event that may have been reported waits for the list; another one is reported meanwhile.
    """
    unclear_until_ms = None
    for index in indexes:
        report = events[index].ticket.report
        if report is None or report.is_stored:
            continue
        again_at_ms = (
            report.reported_at + round(REPORT_PATIENCE_S * 1000) if report.reported_at else now_ms
        )
        if again_at_ms <= now_ms:
            return Unreported(index)
        unclear_until_ms = min(again_at_ms, unclear_until_ms or again_at_ms)
    if unclear_until_ms is None:
        return None
    wait_s = not_found_wait(replace(history, age_s=0.0), policy)
    return Retry(
        reason="report_unclear", wait_s=min(wait_s, (unclear_until_ms - now_ms) / 1000 + 0.01)
    )


class ReportAnswer(Struct, frozen=True):
    """What LaunchDarkly's answer means: the new state of the report, and the verdict."""

    report: ReportState
    verdict: Retry | Fail | Ended


def classify_report(response: ApiResponse | NoResponse) -> CallResult:
    """Return what the answer to a report means for the shared budget."""
    return "ok" if _is_stored(response) else classify_response(response)


def _is_stored(response: ApiResponse | NoResponse) -> bool:
    return isinstance(response, ApiResponse) and HTTPStatus(200) <= response.status < HTTPStatus(
        300
    )


def decide_answer(
    answered: CallFailure,
    ticket: Ticket,
    history: AttemptHistory,
    policy: RetryPolicy,
    *,
    index: int = 0,
) -> ReportAnswer:
    """Return what the answer to a report means; ``answered`` holds a good one, too."""
    response, report = answered.response, ticket.report or ReportState()
    if _is_stored(response):
        stored = replace(report, is_stored=True)
        if ticket.outcome == STARTED:
            return ReportAnswer(stored, Ended(index, is_reported=True))
        return ReportAnswer(stored, Retry("reported", wait_s=_FIRST_WAIT_S + history.jitter))
    unreported = replace(report, reported_at=0)
    if is_passing_fault(response):
        is_unsent = isinstance(response, NoResponse) and response.is_unsent
        verdict = decide_call_failure(answered, history, policy)
        return ReportAnswer(unreported if is_unsent else report, verdict)
    assert isinstance(response, ApiResponse)  # noqa: S101 - no response is a passing fault
    match classify_response(response):
        case "forbidden":
            return ReportAnswer(unreported, _decide_forbidden(response, history, policy))
        case "rate_limited" | "unauthorized":
            return ReportAnswer(unreported, decide_call_failure(answered, history, policy))
        case _:
            detail = f"LaunchDarkly rejects the report with HTTP {response.status}"
            return ReportAnswer(unreported, Fail("report_rejected", detail, response.body))


def decide_busy(history: AttemptHistory, policy: RetryPolicy) -> Retry:
    """Return the verdict on an end whose start is being reported.

    A start is reported within seconds, unless its worker died.
    """
    wait_s = policy.not_found_backoff.delay(history.attempts + 1, history.jitter)
    return Retry("report_busy", wait_s=min(wait_s, _LONGEST_BUSY_WAIT_S))


def _decide_forbidden(
    response: ApiResponse, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict while the token may read the project, but not report deployments.

    A person may widen the token's role meanwhile, as for a project that it may not read.
    """
    if history.age_s >= policy.not_found_timeout_s:
        detail = (
            "HTTP 403: the access token may not report deployments to LaunchDarkly. Give it the"
            " role Writer, or remove report = true from the source"
        )
        return Fail(REPORT_FORBIDDEN, detail, response.body)
    wait_s = policy.not_found_backoff.delay(history.attempts + 1, history.jitter)
    return Retry(REPORT_FORBIDDEN, wait_s=wait_s)
