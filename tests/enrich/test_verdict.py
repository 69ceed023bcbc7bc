"""Tests of the verdict on each kind of response."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.enrich.models import Deployment, Drift
from service.enrich.verdict import (
    ApiResponse,
    AttemptHistory,
    CallFailure,
    Fail,
    NoResponse,
    Retry,
    RetryPolicy,
    classify_response,
    decide_call_failure,
    decide_drift,
    decide_internal_error,
    decide_not_found,
    decide_page_failure,
    decide_taken,
    decide_unfinished,
    ends_refresh,
)

RETRY_POLICY = RetryPolicy()
FORBIDDEN_BODY = (
    b'{"code":"forbidden","message":"Forbidden. Access to the requested resource was denied."}'
)
BETA_BODY = (
    b'{"message":"This API is in beta. To use it, your request must include the header '
    b'`LD-API-Version: beta`."}'
)
RECENT = AttemptHistory(attempts=0, age_s=1.0, jitter=0.5)
OLD = AttemptHistory(attempts=50, age_s=100_000.0, jitter=0.5)


@pytest.mark.parametrize(
    ("status", "recent_reason", "old_reason"),
    [
        (400, "rejected", "rejected"),
        (401, "token_refused_401", "token_refused_401"),
        (403, "forbidden", "forbidden"),
        (404, "not_found_yet", "not_found"),
        (408, "HTTP 408", "upstream_failing"),
        (409, "HTTP 409", "upstream_failing"),
        (410, "rejected", "rejected"),
        (429, "rate_limited", "rate_limited"),
        (204, "HTTP 204", "upstream_failing"),
        (302, "HTTP 302", "upstream_failing"),
        (500, "HTTP 500", "upstream_failing"),
        (503, "HTTP 503", "upstream_failing"),
        (599, "HTTP 599", "upstream_failing"),
    ],
)
def test_decide_call_failure_by_status_and_history_returns_the_verdict(
    status: int, recent_reason: str, old_reason: str
) -> None:
    """The verdict is checked for a new ticket and for one older than a day."""
    failure = CallFailure(ApiResponse(status=status, body=b"raw"))
    for history, reason in ((RECENT, recent_reason), (OLD, old_reason)):
        verdict = decide_call_failure(failure, history, RETRY_POLICY)
        assert verdict.reason == reason
        if isinstance(verdict, Fail):
            assert verdict.raw == b"raw"
        else:
            assert verdict.counts_as_attempt is (status not in {401, 429})


def test_decide_call_failure_of_403_decides_by_whom_it_concerns() -> None:
    """A project is retried until the deadline, the token without end, a proxy as an outage."""
    forbidden, beta, page = (
        CallFailure(ApiResponse(status=403, body=body))
        for body in (FORBIDDEN_BODY, BETA_BODY, b"<html>no")
    )
    retry = decide_call_failure(forbidden, RECENT, RETRY_POLICY)
    assert isinstance(retry, Retry)
    assert (retry.reason, retry.counts_as_attempt) == ("forbidden", True)
    assert 0 < retry.wait_s <= RETRY_POLICY.not_found_backoff.cap_s
    assert retry.round_up_s == 1.0
    late = decide_call_failure(forbidden, AttemptHistory(9, 300.0, 0.5), RETRY_POLICY)
    assert isinstance(late, Retry)
    assert late.round_up_s == 10.0 < late.wait_s
    failure = decide_call_failure(forbidden, OLD, RETRY_POLICY)
    assert isinstance(failure, Fail)
    assert (failure.reason, failure.raw) == ("forbidden", FORBIDDEN_BODY)
    refresh = AttemptHistory(attempts=0, age_s=1.0, jitter=0.5, is_refresh=True)
    assert isinstance(decide_call_failure(forbidden, refresh, RETRY_POLICY), Fail)
    assert isinstance(decide_page_failure(forbidden, RECENT, RETRY_POLICY), Retry)
    assert decide_call_failure(beta, OLD, RETRY_POLICY) == Retry(
        reason="token_refused_403", counts_as_attempt=False
    )
    blocked = decide_call_failure(page, RECENT, RETRY_POLICY)
    assert isinstance(blocked, Retry)
    assert blocked.reason == "HTTP 403"


def test_decide_call_failure_of_an_oversized_200_fails() -> None:
    """A later call would return as much."""
    oversized = CallFailure(ApiResponse(status=200, body=b"", oversized=True))
    verdict = decide_call_failure(oversized, RECENT, RETRY_POLICY)
    assert isinstance(verdict, Fail)
    assert verdict.reason == "too_large"


@given(
    st.integers(100, 599),
    st.integers(0, 1000),
    st.floats(0, 1e6),
    st.floats(0, 1, exclude_max=True),
)
def test_decide_call_failure_of_any_status_bounds_the_wait(
    status: int, attempts: int, age_s: float, jitter: float
) -> None:
    """Only rate limits and refused tokens cost no attempt."""
    failure = CallFailure(
        ApiResponse(status=status, body=b"", malformed="cut" if status == 200 else None)
    )
    verdict = decide_call_failure(failure, AttemptHistory(attempts, age_s, jitter), RETRY_POLICY)
    if isinstance(verdict, Retry):
        assert 0 <= verdict.wait_s <= RETRY_POLICY.backoff.cap_s
        assert verdict.counts_as_attempt is (status not in {401, 429})
        assert verdict.counts_as_attempt is False or age_s < RETRY_POLICY.outage_timeout_s


def test_decide_call_failure_without_a_response_retries_for_a_day() -> None:
    """After a day the ticket fails."""
    failure = CallFailure(NoResponse("timed out"))
    assert isinstance(decide_call_failure(failure, RECENT, RETRY_POLICY), Retry)
    verdict = decide_call_failure(failure, OLD, RETRY_POLICY)
    assert verdict == Fail(reason="upstream_failing", detail="no answer: timed out")


def test_decide_call_failure_of_a_body_that_is_not_json_retries_for_a_day() -> None:
    """The page of a proxy is an outage: however many attempts were made, the ticket waits."""
    failure = CallFailure(ApiResponse(status=200, body=b"<html>", malformed="no JSON"))
    often_tried = AttemptHistory(attempts=50, age_s=80_000.0, jitter=0.5)
    for history in (RECENT, often_tried):
        verdict = decide_call_failure(failure, history, RETRY_POLICY)
        assert isinstance(verdict, Retry)
        assert verdict.reason == "garbled"
    assert decide_call_failure(failure, OLD, RETRY_POLICY) == Fail(
        reason="upstream_failing", detail="not JSON: no JSON", raw=b"<html>"
    )


def test_decide_page_failure_of_404_fails() -> None:
    """A 404 is final for a further page; other statuses are decided as for the first call."""
    for status, kind in ((404, Fail), (503, Retry), (429, Retry), (400, Fail)):
        failure = CallFailure(ApiResponse(status=status, body=b""))
        assert isinstance(decide_page_failure(failure, RECENT, RETRY_POLICY), kind)


def test_ends_refresh_if_a_page_of_a_refresh_cannot_be_fetched() -> None:
    """A refresh during an outage must not replace a complete record by an incomplete one."""
    failures = (
        CallFailure(NoResponse("timed out")),
        CallFailure(ApiResponse(status=403, body=FORBIDDEN_BODY)),
    )
    for failure, is_refresh in product(failures, (True, False)):
        history = AttemptHistory(attempts=50, age_s=1e6, jitter=0.5, is_refresh=is_refresh)
        verdict = decide_page_failure(failure, history, RETRY_POLICY)
        assert isinstance(verdict, Fail)
        assert ends_refresh(verdict, history) is is_refresh
        assert not ends_refresh(Fail(reason="rejected"), history)


def test_decide_drift_fails_with_the_bytes() -> None:
    """JSON of another shape fails at once; the bytes are kept."""
    assert decide_drift(Drift("$.id"), b"raw") == Fail(
        reason="undecodable", detail="$.id", raw=b"raw"
    )


def test_decide_unfinished_retries_until_the_timeout() -> None:
    """After the timeout the deployment is published as it is."""
    unfinished = Deployment(id="a", status="started")
    assert isinstance(decide_unfinished(unfinished, RECENT, RETRY_POLICY), Retry)
    assert decide_unfinished(unfinished, OLD, RETRY_POLICY) is None
    assert decide_unfinished(Deployment(id="a", status="string"), RECENT, RETRY_POLICY) is None
    assert (
        decide_unfinished(Deployment(id="a", status="started", ended_at=1), RECENT, RETRY_POLICY)
        is None
    )


def test_decide_not_found_names_another_deployment_of_the_version() -> None:
    """An earlier deployment is never taken instead; the failed ticket says that it is known."""
    assert isinstance(decide_not_found(RECENT, RETRY_POLICY, known="an earlier one"), Retry)
    failure = decide_not_found(OLD, RETRY_POLICY, known="an earlier one")
    assert isinstance(failure, Fail)
    assert failure.detail.endswith(" s; an earlier one")


def test_decide_taken_waits_as_for_a_deployment_not_found() -> None:
    """The wait is never negative, even after the timeout."""
    assert decide_taken(RECENT, RETRY_POLICY).reason == "not_found_yet"
    assert decide_taken(OLD, RETRY_POLICY).wait_s == 0.0


def test_decide_internal_error_fails_after_the_last_attempt() -> None:
    """The ticket is retried a few times before it fails."""
    assert isinstance(decide_internal_error("KeyError: x", RECENT, RETRY_POLICY), Retry)
    assert decide_internal_error("KeyError: x", OLD, RETRY_POLICY) == Fail(
        reason="internal_error", detail="KeyError: x"
    )


@pytest.mark.parametrize(
    ("response", "result"),
    [
        (ApiResponse(status=200, body=b""), "ok"),
        (ApiResponse(status=404, body=b""), "ok"),
        (ApiResponse(status=429, body=b""), "rate_limited"),
        (ApiResponse(status=401, body=b""), "unauthorized"),
        (ApiResponse(status=403, body=FORBIDDEN_BODY), "forbidden"),
        (ApiResponse(status=403, body=b""), "forbidden"),
        (ApiResponse(status=403, body=BETA_BODY), "unauthorized"),
        (ApiResponse(status=403, body=b'{"code":"forbidden",' + BETA_BODY[1:]), "unauthorized"),
        (ApiResponse(status=403, body=b" <!DOCTYPE html><h1>Blocked"), "server_error"),
        (ApiResponse(status=502, body=b""), "server_error"),
        (ApiResponse(status=302, body=b""), "server_error"),
        (ApiResponse(status=204, body=b""), "server_error"),
        (ApiResponse(status=200, body=b"<html>", malformed="no JSON"), "server_error"),
        (ApiResponse(status=200, body=b"", oversized=True), "ok"),
        (ApiResponse(status=409, body=b""), "ok"),
        (NoResponse("cut"), "server_error"),
    ],
)
def test_classify_response_returns_what_the_budget_records(
    response: ApiResponse | NoResponse, result: str
) -> None:
    """The result is one of five; a 403 may concern the token, one project, or a proxy."""
    assert classify_response(response) == result


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_decide_call_failure_of_an_oversized_error_decides_by_its_status(status: int) -> None:
    """A rate limit with a long error page stays a rate limit."""
    oversized, plain = (
        decide_call_failure(
            CallFailure(ApiResponse(status=status, body=b"", oversized=is_oversized)),
            RECENT,
            RETRY_POLICY,
        )
        for is_oversized in (True, False)
    )
    assert oversized == plain
