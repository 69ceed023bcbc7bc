"""Tests of the verdict on each kind of response."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.enrich.models import Deployment, Drift, Malformed
from service.enrich.verdict import (
    ApiResponse,
    AttemptHistory,
    Fail,
    NoResponse,
    Retry,
    RetryPolicy,
    check_page_response,
    check_response,
    classify_response,
    decide_earlier_deployment,
    decide_internal_error,
    decide_malformed,
    decide_unfinished,
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
def test_check_response_by_status_and_history_returns_the_verdict(
    status: int, recent_reason: str, old_reason: str
) -> None:
    """The verdict is checked for a new ticket and for one older than a day."""
    for history, reason in ((RECENT, recent_reason), (OLD, old_reason)):
        verdict = check_response(ApiResponse(status=status, body=b"raw"), history, RETRY_POLICY)
        assert not isinstance(verdict, bytes)
        assert verdict.reason == reason
        if isinstance(verdict, Fail):
            assert verdict.raw == b"raw"
        else:
            assert verdict.counts_as_attempt is (status not in {401, 429})


def test_check_response_of_403_decides_by_whom_it_concerns() -> None:
    """A project is retried until the deadline, the token without end, a proxy as an outage."""
    forbidden, beta, page = (
        ApiResponse(status=403, body=body) for body in (FORBIDDEN_BODY, BETA_BODY, b"<html>no")
    )
    retry = check_response(forbidden, RECENT, RETRY_POLICY)
    assert isinstance(retry, Retry)
    assert (retry.reason, retry.counts_as_attempt) == ("forbidden", True)
    assert 0 < retry.wait_s <= RETRY_POLICY.not_found_backoff.cap_s
    failure = check_response(forbidden, OLD, RETRY_POLICY)
    assert isinstance(failure, Fail)
    assert (failure.reason, failure.raw) == ("forbidden", FORBIDDEN_BODY)
    refresh = AttemptHistory(attempts=0, age_s=1.0, jitter=0.5, is_refresh=True)
    assert isinstance(check_response(forbidden, refresh, RETRY_POLICY), Fail)
    assert isinstance(check_page_response(forbidden, RECENT, RETRY_POLICY), Retry)
    assert check_response(beta, OLD, RETRY_POLICY) == Retry(
        reason="token_refused_403", counts_as_attempt=False
    )
    blocked = check_response(page, RECENT, RETRY_POLICY)
    assert isinstance(blocked, Retry)
    assert blocked.reason == "HTTP 403"


def test_check_response_of_200_returns_the_body_under_the_cap() -> None:
    """A 200 over the byte cap fails."""
    assert check_response(ApiResponse(status=200, body=b"{}"), RECENT, RETRY_POLICY) == b"{}"
    oversized = ApiResponse(status=200, body=b"", oversized=True)
    assert isinstance(check_response(oversized, RECENT, RETRY_POLICY), Fail)


@given(
    st.integers(100, 599),
    st.integers(0, 1000),
    st.floats(0, 1e6),
    st.floats(0, 1, exclude_max=True),
)
def test_check_response_of_any_status_bounds_the_wait(
    status: int, attempts: int, age_s: float, jitter: float
) -> None:
    """Only rate limits and refused tokens cost no attempt."""
    verdict = check_response(
        ApiResponse(status=status, body=b""), AttemptHistory(attempts, age_s, jitter), RETRY_POLICY
    )
    if isinstance(verdict, Retry):
        assert 0 <= verdict.wait_s <= RETRY_POLICY.backoff.cap_s
        assert verdict.counts_as_attempt is (status not in {401, 429})
        assert verdict.counts_as_attempt is False or age_s < RETRY_POLICY.outage_timeout_s


def test_check_response_without_a_response_retries_for_a_day() -> None:
    """After a day the ticket fails."""
    assert isinstance(check_response(NoResponse("timed out"), RECENT, RETRY_POLICY), Retry)
    verdict = check_response(NoResponse("timed out"), OLD, RETRY_POLICY)
    assert verdict == Fail(reason="upstream_failing", detail="no answer: timed out")


def test_check_page_response_of_404_fails() -> None:
    """A 404 is final for a further page; other statuses are decided as for the first call."""
    assert isinstance(
        check_page_response(ApiResponse(status=404, body=b""), RECENT, RETRY_POLICY), Fail
    )
    assert isinstance(
        check_page_response(ApiResponse(status=503, body=b""), RECENT, RETRY_POLICY), Retry
    )
    assert check_page_response(ApiResponse(status=200, body=b"{}"), RECENT, RETRY_POLICY) == b"{}"


def test_decide_malformed_fails_on_drift_and_retries_other_bodies() -> None:
    """Drift fails at once, a malformed body after several attempts; the bytes are kept."""
    assert decide_malformed(Drift("$.id"), b"raw", RECENT, RETRY_POLICY) == Fail(
        reason="undecodable", detail="$.id", raw=b"raw"
    )
    assert isinstance(decide_malformed(Malformed("cut"), b"raw", RECENT, RETRY_POLICY), Retry)
    assert isinstance(decide_malformed(Malformed("cut"), b"raw", OLD, RETRY_POLICY), Fail)


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


def test_decide_earlier_deployment_retries_until_the_timeout() -> None:
    """After the timeout the listed deployment is taken."""
    verdict = decide_earlier_deployment(RECENT, RETRY_POLICY)
    assert isinstance(verdict, Retry)
    assert verdict.reason == "not_found_yet"
    assert decide_earlier_deployment(OLD, RETRY_POLICY) is None


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
        (NoResponse("cut"), "server_error"),
    ],
)
def test_classify_response_returns_what_the_budget_records(
    response: ApiResponse | NoResponse, result: str
) -> None:
    """The result is one of five; a 403 may concern the token, one project, or a proxy."""
    assert classify_response(response) == result


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_check_response_of_an_oversized_error_decides_by_its_status(status: int) -> None:
    """A rate limit with a long error page stays a rate limit."""
    oversized = ApiResponse(status=status, body=b"", oversized=True)
    assert check_response(oversized, RECENT, RETRY_POLICY) == check_response(
        ApiResponse(status=status, body=b""), RECENT, RETRY_POLICY
    )
