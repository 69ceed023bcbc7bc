"""What does an answer mean for a deployment? Found, Later or Never: decided here alone."""

from http import HTTPStatus
from typing import Literal

from msgspec import Struct

from service.enrich.models import Deployment, Drift, Malformed
from service.enrich.rate_limits import RateLimitHeaders


class Backoff(Struct, frozen=True):
    """Full jitter: anything between nothing and a ceiling that doubles with each attempt.

    base 2 s, cap 300 s:  attempt 1 -> up to 2 s, 2 -> 4, 3 -> 8, ... 8 -> 256, 9 and on -> 300
    """

    base_s: float = 2.0
    cap_s: float = 300.0

    def max_delay(self, attempt: int) -> float:
        """Give the longest wait after the ``attempt``-th try (from 1), in seconds."""
        exponent = min(max(attempt, 1) - 1, 62)
        return min(self.cap_s, self.base_s * 2.0**exponent)

    def delay(self, attempt: int, jitter: float) -> float:
        """Give the wait after the ``attempt``-th try, in seconds; ``chance`` is in [0, 1).

        A tenth of the ceiling is the least, so that no retry follows at once.
        """
        max_delay = self.max_delay(attempt)
        return max_delay / 10 + jitter * max_delay * 9 / 10


class ApiResponse(Struct, frozen=True):
    """What LaunchDarkly said to one call."""

    status: int
    body: bytes
    rate_limits: RateLimitHeaders = RateLimitHeaders()
    oversized: bool = False


class NoResponse(Struct, frozen=True):
    """Nothing usable came back: refused, cut, too slow."""

    reason: str


class Found(Struct, frozen=True):
    """The deployment, whole as far as it could be had; ``body`` is its JSON, bytes as sent."""

    deployment: Deployment
    body: bytes
    stop_reason: str | None = None
    calls: int = 1


class Retry(Struct, frozen=True):
    """Not now: try again after ``wait_s``. ``counts`` tells whether this was an attempt.

    ``repeatable`` is a call that may simply be made again once the budget lets it.
    """

    reason: str
    wait_s: float = 0.0
    counts_as_attempt: bool = True
    retry_in_place: bool = False


class Fail(Struct, frozen=True):
    """Nothing will come of it: for a person, with the reason and the raw answer."""

    reason: str
    detail: str = ""
    raw: bytes = b""


Verdict = Found | Retry | Fail
CallResult = Literal["ok", "rate_limited", "server_error", "unauthorized"]


class AttemptHistory(Struct, frozen=True):
    """What was tried before: attempts that counted, and the age in seconds since it was queued.

    ``chance`` in [0, 1) is the jitter of the next wait. ``again``: it was published before, and is
    only looked at once more.
    """

    attempts: int
    age_s: float
    jitter: float
    is_refresh: bool = False


class RetryPolicy(Struct, frozen=True):
    """How long we try: seconds for what is not there yet, and for an upstream in trouble."""

    not_found_timeout_s: float = 900.0
    outage_timeout_s: float = 86_400.0
    max_attempts: int = 8
    backoff: Backoff = Backoff()
    not_found_backoff: Backoff = Backoff(base_s=2.0, cap_s=60.0)


_UNAUTHORIZED_STATUSES = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_CLIENT_ERROR_STATUSES = range(400, 500)
_TRANSIENT_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY}


def classify_response(response: ApiResponse | NoResponse) -> CallResult:
    """Say what an answer means for everybody's budget."""
    if isinstance(response, NoResponse) or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limited"
    return "unauthorized" if response.status in _UNAUTHORIZED_STATUSES else "ok"


def check_response(
    response: ApiResponse | NoResponse, history: AttemptHistory, policy: RetryPolicy
) -> bytes | Retry | Fail:
    """Give the body of a good answer, else what becomes of the deployment."""
    match response:
        case NoResponse():
            return _decide_outage(f"no answer: {response.reason}", b"", history, policy)
        case ApiResponse(status=HTTPStatus.OK, oversized=True):
            return Fail(reason="too_large", detail="the answer is over the byte cap")
        case ApiResponse(status=HTTPStatus.OK):
            return response.body
        case ApiResponse(status=HTTPStatus.NOT_FOUND):
            return decide_not_found(history, policy, raw=response.body)
        case ApiResponse():
            return _decide_error_status(response, history, policy)


def _decide_error_status(
    response: ApiResponse, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Decide on what is neither there nor absent.

    A rate limit and a bad token are not the ticket's fault and cost no attempt: the budget is
    closed for everyone meanwhile.
    """
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        return Retry(reason="rate_limited", counts_as_attempt=False, retry_in_place=True)
    if response.status in _UNAUTHORIZED_STATUSES:
        return Retry(reason=f"token_refused_{response.status}", counts_as_attempt=False)
    if response.status in _CLIENT_ERROR_STATUSES and response.status not in _TRANSIENT_STATUSES:
        return Fail(reason="rejected", detail=f"HTTP {response.status}", raw=response.body)
    return _decide_outage(f"HTTP {response.status}", response.body, history, policy)


def check_page_response(
    response: ApiResponse | NoResponse, history: AttemptHistory, policy: RetryPolicy
) -> bytes | Retry | Fail:
    """Judge a further page as an answer, but one that is not there will not come either."""
    if isinstance(response, ApiResponse) and response.status == HTTPStatus.NOT_FOUND:
        return Fail(reason="rejected", detail="HTTP 404", raw=response.body)
    return check_response(response, history, policy)


def decide_not_found(
    history: AttemptHistory, policy: RetryPolicy, *, raw: bytes = b""
) -> Retry | Fail:
    """Decide on a deployment that is not there yet."""
    if history.is_refresh or history.age_s >= policy.not_found_timeout_s:
        return Fail(reason="not_found", detail=f"not there after {history.age_s:.0f} s", raw=raw)
    wait_s = policy.not_found_backoff.delay(history.attempts + 1, history.jitter)
    return Retry(
        reason="not_found_yet",
        wait_s=min(wait_s, policy.not_found_timeout_s - history.age_s + 0.01),
    )


def decide_malformed(
    problem: Drift | Malformed, raw: bytes, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Decide on a body that cannot be read: a new shape stays new, a cut one may heal."""
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
    """Wait while LaunchDarkly has not heard that it ended; past the deadline take it as it is.

    So is one that was published before: it is looked at again anyway.
    """
    if (
        not deployment.is_unfinished
        or history.is_refresh
        or history.age_s >= policy.not_found_timeout_s
    ):
        return None
    wait_s = policy.not_found_backoff.delay(history.attempts + 1, history.jitter)
    return Retry(
        reason="not_finished_yet",
        wait_s=min(wait_s, policy.not_found_timeout_s - history.age_s + 0.01),
    )


def decide_internal_error(
    reason: str, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Decide after a mistake of our own: a few more tries, then a person must see it."""
    if history.attempts + 1 >= policy.max_attempts:
        return Fail(reason="internal_error", detail=reason)
    wait_s = policy.backoff.delay(history.attempts + 1, history.jitter)
    return Retry(reason="internal_error", wait_s=wait_s)


def _decide_outage(
    reason: str, raw: bytes, history: AttemptHistory, policy: RetryPolicy
) -> Retry | Fail:
    """Outages are not the ticket's fault: a day passes before it is given up.

    A look was told of long ago, and may be left out: for it, tries count.
    """
    attempts_used_up = history.attempts + 1 >= policy.max_attempts
    if attempts_used_up if history.is_refresh else history.age_s >= policy.outage_timeout_s:
        return Fail(reason="upstream_failing", detail=reason, raw=raw)
    return Retry(reason=reason, wait_s=policy.backoff.delay(history.attempts + 1, history.jitter))
