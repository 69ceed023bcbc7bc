"""What a LaunchDarkly response means for a ticket: ``Found``, ``Retry`` or ``Fail``.

Every rule about a response is in this file. Other modules send calls and parse bodies, but do
not interpret a status. All functions are pure: time and chance are arguments.

==============================  ==========================================================
response                        meaning
==============================  ==========================================================
200                             the body is parsed (``check_response``)
200 over the byte cap           ``Fail("too_large")``: a later call would return as much
404, first call                 ``Retry`` until ``not_found_timeout_s`` (``decide_not_found``)
404, a further page             ``Fail("rejected")`` (``check_page_response``)
401, 403 "API is in beta"       ``Retry``, no attempt counted; the budget is closed for 30 s
any other 403                   ``Retry`` until ``not_found_timeout_s`` (``decide_forbidden``)
403 with an HTML page           as a 503: a proxy answered, not LaunchDarkly
429                             ``Retry``, no attempt counted; the budget is closed
408, 409, 425                   ``Retry`` as for an outage
any other 4xx                   ``Fail("rejected")``: the same request would fail again
any other status, no response   ``Retry`` until ``outage_timeout_s``
200, JSON of another shape      ``Fail("undecodable")`` (``decide_malformed``)
200, not JSON                   ``Retry`` until ``max_attempts`` (``decide_malformed``)
200, deployment not ended       ``Retry`` until ``not_found_timeout_s`` (``decide_unfinished``)
200, list without the version   as a 404 of a first call (``decide_not_found``)
200, list with an earlier one   the same (``decide_earlier_deployment``)
==============================  ==========================================================

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

from service.enrich.models import Deployment, Drift, Malformed
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
        max_delay = self.max_delay(attempt)
        return max_delay / 10 + jitter * max_delay * 9 / 10


class ApiResponse(Struct, frozen=True):
    """One HTTP response of LaunchDarkly. The body of an ``oversized`` one was not kept."""

    status: int
    body: bytes
    rate_limits: RateLimitHeaders = RateLimitHeaders()
    oversized: bool = False


class NoResponse(Struct, frozen=True):
    """A call without a usable response: refused, disconnected or timed out."""

    reason: str


class Found(Struct, frozen=True):
    """The deployment was fetched. ``body`` is its JSON, with the pages merged in.

    ``stop_reason`` says why pages are missing, if some are. ``calls`` is what the ticket cost.
    """

    deployment: Deployment
    body: bytes
    stop_reason: str | None = None
    calls: int = 1


class Retry(Struct, frozen=True):
    """The ticket is tried again after ``wait_s`` seconds."""

    reason: str
    wait_s: float = 0.0
    counts_as_attempt: bool = True


class Fail(Struct, frozen=True):
    """The ticket is given up and kept for a person, with the reason and the raw response."""

    reason: str
    detail: str = ""
    raw: bytes = b""


Verdict = Found | Retry | Fail
CallResult = Literal["ok", "forbidden", "rate_limited", "server_error", "unauthorized"]


class AttemptHistory(Struct, frozen=True):
    """What happened to a ticket before this attempt.

    ``attempts`` are those that counted, ``age_s`` is the time since the ticket was queued.
    ``jitter`` in [0, 1) scales the next wait. A refresh is of a deployment published before.
    """

    attempts: int
    age_s: float
    jitter: float
    is_refresh: bool = False


class RetryPolicy(Struct, frozen=True):
    """How long a ticket is retried, in seconds and attempts, and the waits in between."""

    not_found_timeout_s: float = 900.0
    outage_timeout_s: float = 86_400.0
    max_attempts: int = 8
    backoff: Backoff = Backoff()
    not_found_backoff: Backoff = Backoff(base_s=2.0, cap_s=60.0)


FORBIDDEN = "forbidden"
"""The reason of a verdict while LaunchDarkly refuses the token access to the project."""

_BETA_MARKS = (b"ld-api-version", b"api is in beta")
_MESSAGE_BYTES = 4096
_CLIENT_ERROR_STATUSES = range(400, 500)
_TRANSIENT_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY}


def has_body(response: ApiResponse | NoResponse) -> TypeGuard[ApiResponse]:
    """Return whether a response carries the body that was asked for: 200, under the byte cap."""
    return (
        isinstance(response, ApiResponse)
        and response.status == HTTPStatus.OK
        and not response.oversized
    )


def classify_response(response: ApiResponse | NoResponse) -> CallResult:
    """Return what a response means for the shared budget.

    Any 4xx but 401, 403 and 429 is "ok": the API works. Every 5xx and every missing response
    counts towards the circuit breaker of the budget (``record_response.lua``). "unauthorized"
    concerns the token, and "forbidden" only the project.
    """
    if isinstance(response, NoResponse) or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    match response.status:
        case HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limited"
        case HTTPStatus.UNAUTHORIZED:
            return "unauthorized"
        case HTTPStatus.FORBIDDEN:
            return _classify_forbidden(response.body[:_MESSAGE_BYTES].lower())
        case _:
            return "ok"


def _classify_forbidden(message: bytes) -> CallResult:
    """Return what a 403 means: LaunchDarkly's body is JSON, and a proxy's is an HTML page."""
    if any(mark in message for mark in _BETA_MARKS):
        return "unauthorized"
    return "server_error" if message.lstrip().startswith(b"<") else "forbidden"


def check_response(
    response: ApiResponse | NoResponse, history: AttemptHistory, policy: RetryPolicy
) -> bytes | Retry | Fail:
    """Return the body of a good response, else the verdict on the ticket."""
    match response:
        case NoResponse():
            return _decide_outage(f"no answer: {response.reason}", b"", history, policy)
        case ApiResponse(status=HTTPStatus.OK, oversized=True):
            return Fail(reason="too_large", detail="the response is over the byte cap")
        case ApiResponse(status=HTTPStatus.OK):
            return response.body
        case ApiResponse(status=HTTPStatus.NOT_FOUND):
            return decide_not_found(history, policy, raw=response.body)
        case ApiResponse():
            return _decide_error_status(response, history, policy)


def _decide_error_status(
    response: ApiResponse, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict on a status that is neither 200 nor 404.

    A rate limit and a refused token say nothing about the ticket, so they cost no attempt. The
    budget is closed for all workers meanwhile.
    """
    match classify_response(response):
        case "rate_limited":
            return Retry(reason="rate_limited", counts_as_attempt=False)
        case "unauthorized":
            return Retry(reason=f"token_refused_{response.status}", counts_as_attempt=False)
        case "forbidden":
            return decide_forbidden(history, policy, raw=response.body)
        case "ok" if _is_rejection(response.status):
            return Fail(reason="rejected", detail=f"HTTP {response.status}", raw=response.body)
        case _:
            return _decide_outage(f"HTTP {response.status}", response.body, history, policy)


def _is_rejection(status: int) -> bool:
    return status in _CLIENT_ERROR_STATUSES and status not in _TRANSIENT_STATUSES


def check_page_response(
    response: ApiResponse | NoResponse, history: AttemptHistory, policy: RetryPolicy
) -> bytes | Retry | Fail:
    """Return the body of a further page, else the verdict.

    A 404 is final here: LaunchDarkly itself sent the link, so waiting would not help.
    """
    if isinstance(response, ApiResponse) and response.status == HTTPStatus.NOT_FOUND:
        return Fail(reason="rejected", detail="HTTP 404", raw=response.body)
    return check_response(response, history, policy)


def decide_not_found(
    history: AttemptHistory, policy: RetryPolicy, *, raw: bytes = b""
) -> Retry | Fail:
    """Return the verdict on a deployment that LaunchDarkly does not know (yet).

    A refresh fails at once: the deployment was there, so it was deleted.
    """
    if history.is_refresh or history.age_s >= policy.not_found_timeout_s:
        return Fail(reason="not_found", detail=f"not there after {history.age_s:.0f} s", raw=raw)
    return Retry(reason="not_found_yet", wait_s=_not_found_wait(history, policy))


def decide_forbidden(history: AttemptHistory, policy: RetryPolicy, *, raw: bytes) -> Retry | Fail:
    """Return the verdict while LaunchDarkly refuses the token access to the ticket's project.

    A person may widen the token's role meanwhile. A refresh fails at once: it is skipped.
    """
    if history.is_refresh or history.age_s >= policy.not_found_timeout_s:
        detail = "HTTP 403: the access token may not read this project and environment"
        return Fail(reason=FORBIDDEN, detail=detail, raw=raw)
    return Retry(reason=FORBIDDEN, wait_s=_not_found_wait(history, policy))


def decide_earlier_deployment(history: AttemptHistory, policy: RetryPolicy) -> Retry | Fail | None:
    """Return the verdict if the listed deployment ended long before the sender's time.

    The deployment that the sender meant may not be listed yet. After ``not_found_timeout_s`` the
    listed one is taken: None.
    """
    if history.age_s >= policy.not_found_timeout_s:
        return None
    return decide_not_found(history, policy)


def decide_malformed(
    problem: Drift | Malformed, raw: bytes, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict on a body that cannot be parsed.

    JSON of another shape (``Drift``) will have that shape next time too: the ticket fails. A body
    that is not JSON may come from a proxy or be cut short: the ticket is retried.
    """
    match problem:
        case Drift():
            return Fail(reason="undecodable", detail=problem.reason, raw=raw)
        case Malformed() if history.attempts + 1 >= policy.max_attempts:
            return Fail(reason="undecodable", detail=problem.reason, raw=raw)
        case Malformed():
            wait_s = policy.backoff.delay(history.attempts + 1, history.jitter)
            return Retry(reason="garbled", wait_s=wait_s)


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
    return Retry(reason="not_finished_yet", wait_s=_not_found_wait(history, policy))


def decide_internal_error(
    reason: str, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict after an error in this program: ``Fail`` once attempts are used up."""
    if history.attempts + 1 >= policy.max_attempts:
        return Fail(reason="internal_error", detail=reason)
    wait_s = policy.backoff.delay(history.attempts + 1, history.jitter)
    return Retry(reason="internal_error", wait_s=wait_s)


def _not_found_wait(history: AttemptHistory, policy: RetryPolicy) -> float:
    """Return the seconds to wait for a deployment to appear or end, or for access to it.

    The last wait ends just after the timeout, so that the last attempt is made then.
    """
    wait_s = policy.not_found_backoff.delay(history.attempts + 1, history.jitter)
    return min(wait_s, policy.not_found_timeout_s - history.age_s + 0.01)


def _decide_outage(
    reason: str, raw: bytes, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Return the verdict while LaunchDarkly or the network fails.

    A first fetch is retried until ``outage_timeout_s``, however many attempts that takes. A
    refresh is queued long after the webhook and may be skipped: its attempts are limited instead.
    """
    attempts_used_up = history.attempts + 1 >= policy.max_attempts
    if attempts_used_up if history.is_refresh else history.age_s >= policy.outage_timeout_s:
        return Fail(reason="upstream_failing", detail=reason, raw=raw)
    return Retry(reason=reason, wait_s=policy.backoff.delay(history.attempts + 1, history.jitter))
