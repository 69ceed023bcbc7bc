"""What a LaunchDarkly response means for a ticket, such as ``Found``, ``Retry`` or ``Fail``.

Every rule about the response to a GET of a deployment or of a list is in this file; ``report.py``
has those about the answer to a report. All functions are pure: time and chance are arguments.

==============================  ==========================================================
response                        meaning
==============================  ==========================================================
200                             the body is parsed (``LaunchDarkly.get_parsed``)
200, not JSON                   as any other status: a proxy sent it, or it was cut short
200, JSON of another shape      ``Fail("undecodable")`` (``decide_drift``)
200 over the byte cap           ``Fail("too_large")``: a later call would return as much
404, first call                 ``Retry`` until ``not_found_timeout_s`` (``decide_not_found``)
404, a further page             ``Fail("rejected")`` (``decide_page_failure``)
401, 403 "API is in beta"       ``Retry``, no attempt counted; the budget is closed for 30 s
any other 403                   ``Retry`` until ``not_found_timeout_s`` (``decide_forbidden``)
403 with an HTML page           as a 503: a proxy answered, not LaunchDarkly
429                             ``Retry``, no attempt counted; the budget is closed
408, 409, 425                   as any other status
any other 4xx                   ``Fail("rejected")``: the same request would fail again
any other status, no response   the call is repeated (``repeat_wait``), then ``Retry`` until
                                ``outage_timeout_s`` (``decide_call_failure``)
200, deployment not ended       ``Retry`` until ``not_found_timeout_s`` (``decide_unfinished``)
200, list without the version   as a 404 of a first call (``decide_not_found``)
200, list with another one      the same; the detail of the failed ticket names the other one
==============================  ==========================================================

A page whose verdict is ``Fail`` leaves the record incomplete. A page whose verdict is ``Retry``
ends the attempt, and the next attempt starts with the first call.

Vendor sources:

- Statuses 400, 401, 403, 404 and 429 are documented for the deployment routes, 5xx are not:
  https://launchdarkly.com/docs/api/insights-deployments-beta
- "This API is in beta. To use it, your request must include the header `LD-API-Version: beta`."
  is the message of a 403 without that header (launchdarkly/api-client-go#21). It concerns every
  call. Any other 403 concerns the project: a custom role may be limited to some projects.
- "Conflict. Optimistic lock error. Try again later." is LaunchDarkly's message of a 409
  (``StatusConflictErrorRep`` of its OpenAPI document). It is not documented for these routes.
- After a 429, a client waits as the rate-limit headers of the response say, see
  ``rate_limits.py``: https://launchdarkly.com/docs/api#rate-limiting
- The delay until a reported deployment can be fetched is not documented: a 404 is retried.
- LaunchDarkly's own newest client repeats 429 only
  (find-code-references-in-pull-request, internal/ldclient/retry.go). Its Terraform provider
  also repeats connection errors and 5xx, as this module does.
"""

from http import HTTPStatus
from typing import Literal, TypeGuard

from msgspec import Struct

from service.enrich.flag_events import FlagEventsFound
from service.enrich.large_json import Chunk
from service.enrich.models import Deployment, Drift
from service.enrich.rate_limits import RateLimitHeaders


class Backoff(Struct, frozen=True):
    """Exponential backoff with jitter: a random wait below a maximum that doubles each attempt.

    With the defaults the maximum is 2 s after attempt 1, 4 s after 2, 8 s after 3, 256 s after 8,
    and 300 s from attempt 9 on.
    """

    base_s: float = 2.0
    cap_s: float = 300.0

    def max_delay(self, attempt: int) -> float:
        """Return the longest wait after the given attempt (the first is 1), in seconds."""
        exponent = min(max(attempt, 1) - 1, 62)
        return min(self.cap_s, self.base_s * 2.0**exponent)

    def delay(self, attempt: int, jitter: float) -> float:
        """Return the wait after the given attempt, in seconds; ``jitter`` is in [0, 1).

        The wait is at least a tenth of the maximum, so that no retry follows at once.
        """
        return _spread(self.max_delay(attempt), jitter)


class ApiResponse(Struct, frozen=True):
    """One HTTP response of LaunchDarkly. The body of an ``oversized`` one was not kept.

    ``malformed`` says why a body is not JSON; None if it is, or if nobody parsed it.
    """

    status: int
    body: bytes
    rate_limits: RateLimitHeaders = RateLimitHeaders()
    oversized: bool = False
    malformed: str | None = None


class NoResponse(Struct, frozen=True):
    """A call without a usable response: refused, disconnected or timed out.

    ``is_unsent``: it was certainly not sent, because there was no connection.
    """

    reason: str
    is_unsent: bool = False


WAITED_FOR_MEMORY = NoResponse(reason="waited for memory")
"""A call whose time ran out while this worker had no memory for it: LaunchDarkly did not fail."""

CANCELLED = NoResponse(reason="cancelled")
"""A call that this worker broke off: it stops, lost the lease, or a list took too long."""


class CallFailure(Struct, frozen=True):
    """A call without a usable body, after its last try.

    ``closed_s`` is for how many seconds the shared budget is closed now (0: it is open). It is
    closed after a failure if most calls of all workers fail.
    """

    response: ApiResponse | NoResponse
    closed_s: float = 0.0


class Found(Struct, frozen=True):
    """The deployment was fetched. ``chunks`` are its JSON, with the pages merged in.

    ``stop_reason`` says why pages are missing, if some are. ``calls`` is what the ticket cost.
    ``event_index`` is the event of the ticket that it belongs to, if the ticket has several.
    ``flag_events`` is None if they were not asked for.
    """

    deployment: Deployment
    chunks: tuple[Chunk, ...]
    stop_reason: str | None = None
    calls: int = 1
    event_index: int | None = None
    flag_events: FlagEventsFound | None = None

    @property
    def body(self) -> bytes:
        """The JSON in one piece."""
        return b"".join(self.chunks)


class Shared(Struct, frozen=True):
    """The deployment has its record already, for another event: the event ends without one.

    ``event_index`` is the event of the ticket that ends.
    """

    deployment_id: str
    event_index: int
    calls: int = 1


class Retry(Struct, frozen=True):
    """The ticket is tried again after ``wait_s`` seconds.

    Its due time is rounded up to a multiple of ``round_up_s``, so that tickets which can share a
    call are due together.
    """

    reason: str
    wait_s: float = 0.0
    counts_as_attempt: bool = True
    round_up_s: float = 0.0


class Fail(Struct, frozen=True):
    """The ticket is given up and kept for a person, with the reason and the raw response.

    If the ticket has several events, only the one at ``event_index`` is given up.
    """

    reason: str
    detail: str = ""
    raw: bytes = b""
    event_index: int | None = None


class Unreported(Struct, frozen=True):
    """The event at ``event_index`` is to be reported before its deployment can be listed."""

    event_index: int


class Ended(Struct, frozen=True):
    """The event at ``event_index`` ends without a record: it says that a deployment started.

    ``is_reported``: it was reported. Otherwise LaunchDarkly knows it already.
    """

    event_index: int
    is_reported: bool = False


Verdict = Found | Shared | Retry | Fail | Unreported | Ended
CallResult = Literal["ok", "cancelled", "forbidden", "rate_limited", "server_error", "unauthorized"]


class AttemptHistory(Struct, frozen=True):
    """What happened to a ticket before this attempt.

    ``attempts`` are those that counted, ``age_s`` is the time since the ticket was queued.
    ``jitter`` in [0, 1) scales the next wait. A refresh is of a deployment published before.
    """

    attempts: int
    age_s: float
    jitter: float
    is_refresh: bool = False


class RepeatPolicy(Struct, frozen=True):
    """How often a call is tried in one attempt, and the wait before it is repeated (seconds).

    The first call of a ticket gets fewer tries (``max_first_tries``), because nothing is lost if
    its attempt ends.
    """

    max_tries: int = 10
    max_first_tries: int = 4
    min_wait_s: float = 0.2
    max_wait_s: float = 2.0


class RetryPolicy(Struct, frozen=True):
    """How long a ticket is retried, in seconds and attempts, and the waits in between.

    ``repeats`` is for the calls inside one attempt.
    """

    not_found_timeout_s: float = 900.0
    outage_timeout_s: float = 86_400.0
    max_attempts: int = 8
    backoff: Backoff = Backoff()
    not_found_backoff: Backoff = Backoff(base_s=2.0, cap_s=60.0)
    repeats: RepeatPolicy = RepeatPolicy()


FORBIDDEN = "forbidden"
"""The reason of a verdict while LaunchDarkly refuses the token access to the project."""

_BETA_MARKS = (b"ld-api-version", b"api is in beta")
_MESSAGE_BYTES = 4096
_FORBIDDEN_ROUND_UP_S = 10.0
_CLIENT_ERROR_STATUSES = range(400, 500)
_TRANSIENT_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY}


def has_body(response: ApiResponse | NoResponse) -> TypeGuard[ApiResponse]:
    """Return whether a response carries the body that was asked for: 200, under the byte cap."""
    return (
        isinstance(response, ApiResponse)
        and response.status == HTTPStatus.OK
        and not response.oversized
        and response.malformed is None
    )


_BROKEN_OFF: dict[NoResponse, CallResult] = {WAITED_FOR_MEMORY: "ok", CANCELLED: "cancelled"}
_RESULT_BY_STATUS: dict[int, CallResult] = {
    HTTPStatus.OK: "ok",
    **dict.fromkeys(_CLIENT_ERROR_STATUSES, "ok"),
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
    HTTPStatus.UNAUTHORIZED: "unauthorized",
}


def classify_response(response: ApiResponse | NoResponse) -> CallResult:
    """Return what a response means for the shared budget.

    Any 4xx but 401, 403 and 429 is "ok": the API works. Every other status but 200, every body
    that is not JSON and every missing response counts towards the circuit breaker of the budget
    (``record_response.lua``). "unauthorized" concerns the token, and "forbidden" only the project.
    "cancelled" is a call that this worker broke off: LaunchDarkly may have counted it.
    """
    if isinstance(response, NoResponse):
        return _BROKEN_OFF.get(response, "server_error")
    if response.malformed is not None:
        return "server_error"
    if response.status == HTTPStatus.FORBIDDEN:
        return _classify_forbidden(response.body[:_MESSAGE_BYTES].lower())
    return _RESULT_BY_STATUS.get(response.status, "server_error")


def _classify_forbidden(message: bytes) -> CallResult:
    """Return what a 403 means: LaunchDarkly's body is JSON, and a proxy's is an HTML page."""
    if any(mark in message for mark in _BETA_MARKS):
        return "unauthorized"
    return "server_error" if message.lstrip().startswith(b"<") else "forbidden"


def is_passing_fault(response: ApiResponse | NoResponse) -> bool:
    """Return whether the same call may succeed soon: LaunchDarkly or the network fails."""
    return (
        isinstance(response, NoResponse)
        or classify_response(response) == "server_error"
        or response.status in _TRANSIENT_STATUSES
    )


def repeat_wait(
    failure: CallFailure, *, tries: int, has_progress: bool, jitter: float, policy: RepeatPolicy
) -> float | None:
    """Return the seconds to wait before a call is tried again; None if its attempt should end.

    ``tries`` counts the tries of this call. ``has_progress`` says that responses would be lost
    with the attempt. Without progress, nothing is repeated while the budget is closed. A rate
    limited call is repeated as soon as the budget allows. ``jitter`` is in [0, 1).
    """
    if tries >= (policy.max_tries if has_progress else policy.max_first_tries):
        return None
    if failure.closed_s and not has_progress:
        return None
    if classify_response(failure.response) == "rate_limited":
        return 0.0 if has_progress else None
    if not is_passing_fault(failure.response):
        return None
    return policy.min_wait_s + jitter * (policy.max_wait_s - policy.min_wait_s)


def decide_call_failure(
    failure: CallFailure, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict on a ticket whose call failed.

    A rate limit and a refused token say nothing about the ticket, so they cost no attempt. The
    budget is closed for all workers meanwhile.
    """
    response = failure.response
    if is_passing_fault(response):
        return _decide_outage(failure, history, policy)
    assert isinstance(response, ApiResponse)  # noqa: S101 - a missing response is a passing fault
    match classify_response(response):
        case "rate_limited":
            return Retry(reason="rate_limited", counts_as_attempt=False)
        case "unauthorized":
            return Retry(reason=f"token_refused_{response.status}", counts_as_attempt=False)
        case "forbidden":
            return decide_forbidden(history, policy, raw=response.body)
        case _:
            return _decide_final_answer(response, history, policy)


def _decide_final_answer(
    response: ApiResponse, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict on an answer that the same call would get again."""
    match response.status:
        case HTTPStatus.OK:
            return Fail(reason="too_large", detail="the response is over the byte cap")
        case HTTPStatus.NOT_FOUND:
            return decide_not_found(history, policy, raw=response.body)
        case status:
            return Fail(reason="rejected", detail=f"HTTP {status}", raw=response.body)


def decide_page_failure(
    failure: CallFailure, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict on a ticket of which a further page failed.

    A 404 is final here: LaunchDarkly itself sent the link, so waiting would not help.
    """
    response = failure.response
    if isinstance(response, ApiResponse) and response.status == HTTPStatus.NOT_FOUND:
        return Fail(reason="rejected", detail="HTTP 404", raw=response.body)
    return decide_call_failure(failure, history, policy)


def ends_refresh(failure: Fail, history: AttemptHistory) -> bool:
    """Return whether a page that failed ends a refresh, so that no complete record gets worse."""
    return history.is_refresh and failure.reason in {"upstream_failing", FORBIDDEN}


def decide_not_found(
    history: AttemptHistory,
    policy: RetryPolicy,
    *,
    raw: bytes = b"",
    known: str = "",
    advice: str = "",
) -> Retry | Fail:
    """Return the verdict on a deployment that LaunchDarkly does not know (yet).

    A refresh fails at once: the deployment was there, so it was deleted. ``known`` names another
    deployment of the version. It is never taken instead: its record would tell about another event.
    ``advice`` says what is probably missing.
    """
    if history.is_refresh or history.age_s >= policy.not_found_timeout_s:
        parts = (f"not there after {history.age_s:.0f} s", known, advice)
        return Fail(reason="not_found", detail="; ".join(filter(None, parts)), raw=raw)
    return Retry(reason="not_found_yet", wait_s=not_found_wait(history, policy))


def decide_forbidden(history: AttemptHistory, policy: RetryPolicy, *, raw: bytes) -> Retry | Fail:
    """Return the verdict while LaunchDarkly refuses the token access to the ticket's project.

    A person may widen the token's role meanwhile. The tickets of one project are due together, so
    that a list call serves them all: the calls are for other projects. A refresh fails at once: it
    is skipped.
    """
    if history.is_refresh or history.age_s >= policy.not_found_timeout_s:
        detail = "HTTP 403: the access token may not read this project and environment"
        return Fail(reason=FORBIDDEN, detail=detail, raw=raw)
    wait_s = not_found_wait(history, policy)
    return Retry(
        reason=FORBIDDEN,
        wait_s=wait_s,
        round_up_s=min(_FORBIDDEN_ROUND_UP_S, max(1.0, wait_s // 1)),
    )


def decide_taken(history: AttemptHistory, policy: RetryPolicy) -> Retry:
    """Return the verdict if the source reported the found deployment by another event before.

    The deployment of this event may not be listed yet.
    """
    return Retry(reason="not_found_yet", wait_s=max(0.0, not_found_wait(history, policy)))


def decide_drift(problem: Drift, raw: bytes) -> Fail:
    """Return the verdict on JSON of another shape: it will have that shape next time too."""
    return Fail(reason="undecodable", detail=problem.reason, raw=raw)


def decide_unfinished(
    deployment: Deployment, history: AttemptHistory, policy: RetryPolicy
) -> Retry | None:
    """Return ``Retry`` while LaunchDarkly shows the deployment as unfinished, else None.

    The pipeline's "finished" event may reach LaunchDarkly after the webhook reached us. After
    ``not_found_timeout_s`` the deployment is published as it is. A refresh never waits: the next
    one is scheduled anyway.
    """
    if (
        not deployment.is_unfinished
        or history.is_refresh
        or history.age_s >= policy.not_found_timeout_s
    ):
        return None
    return Retry(reason="not_finished_yet", wait_s=not_found_wait(history, policy))


def decide_internal_error(
    reason: str, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict after an error in this program: ``Fail`` once attempts are used up."""
    if history.attempts + 1 >= policy.max_attempts:
        return Fail(reason="internal_error", detail=reason)
    wait_s = policy.backoff.delay(history.attempts + 1, history.jitter)
    return Retry(reason="internal_error", wait_s=wait_s)


def not_found_wait(history: AttemptHistory, policy: RetryPolicy) -> float:
    """Return the seconds to wait for a deployment to appear or end, or for access to it.

    The last wait ends just after the timeout, so that the last attempt is made then.
    """
    wait_s = policy.not_found_backoff.delay(history.attempts + 1, history.jitter)
    return min(wait_s, policy.not_found_timeout_s - history.age_s + 0.01)


def _decide_outage(
    failure: CallFailure, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict while LaunchDarkly or the network fails.

    A first fetch is retried until ``outage_timeout_s``, however many attempts that takes. A
    refresh is queued long after the webhook and may be skipped: its attempts are limited instead.
    """
    reason, detail, raw = _describe_fault(failure.response)
    attempts_used_up = history.attempts + 1 >= policy.max_attempts
    if attempts_used_up if history.is_refresh else history.age_s >= policy.outage_timeout_s:
        return Fail(reason="upstream_failing", detail=detail, raw=raw)
    return Retry(reason=reason, wait_s=outage_wait(history, policy, closed_s=failure.closed_s))


def _describe_fault(response: ApiResponse | NoResponse) -> tuple[str, str, bytes]:
    """Return the reason of a retry, the detail of a failed ticket, and the raw body."""
    match response:
        case NoResponse(reason):
            return f"no answer: {reason}", f"no answer: {reason}", b""
        case ApiResponse(malformed=str(problem), body=body):
            return "garbled", f"not JSON: {problem}", body
        case ApiResponse(status=status, body=body):
            return f"HTTP {status}", f"HTTP {status}", body


def outage_wait(history: AttemptHistory, policy: RetryPolicy, *, closed_s: float) -> float:
    """Return the seconds until the next attempt after a failed call.

    While most calls of all workers fail, the budget is closed, longer each time. Every ticket
    waits until it opens (``closed_s``) and up to two seconds more, however often it was tried.
    While other calls succeed, the maximum doubles with each attempt, up to a tenth of the age of
    the ticket. So a passing fault costs seconds, and a deployment that always fails costs few
    calls. A refresh may be skipped: its maximum always doubles.
    """
    longest_s = policy.backoff.max_delay(history.attempts + 1)
    if not history.is_refresh:
        tolerable_s = 0.0 if closed_s else history.age_s / 10
        longest_s = min(longest_s, max(policy.backoff.base_s, tolerable_s))
    return closed_s + _spread(longest_s, history.jitter)


def _spread(longest_s: float, jitter: float) -> float:
    """Return a wait between a tenth of the longest one and all of it; ``jitter`` is in [0, 1)."""
    return longest_s / 10 + jitter * longest_s * 9 / 10
