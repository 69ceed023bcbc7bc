"""Tests of reports: each deployment is reported once, and what the answers mean."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.backlog.ticket import (
    REPORT_PATIENCE_S,
    STARTED,
    QueuedEvent,
    ReportState,
    Ticket,
    ticket_from_event,
)
from service.enrich.matching import Match, NoMatch
from service.enrich.models import DeploymentHead, Drift
from service.enrich.report import (
    REPORT_FORBIDDEN,
    check_version,
    classify_report,
    decide_answer,
    decide_busy,
    decide_report,
    describe_report,
    encode_report,
    waits_since,
)
from service.enrich.verdict import (
    ApiResponse,
    AttemptHistory,
    CallFailure,
    Ended,
    Fail,
    NoResponse,
    Retry,
    RetryPolicy,
    Unreported,
)
from tests.factories import make_event

NOW = 1_800_000_000_000
PATIENCE_MS = round(REPORT_PATIENCE_S * 1000)
POLICY = RetryPolicy()
UNTOLD = ReportState()
HISTORY = AttemptHistory(attempts=0, age_s=0.0, jitter=0.5)


def make_reported(report: ReportState | None = UNTOLD, **fields: Any) -> Ticket:
    """Return a ticket of a source with ``report = true``."""
    event_fields = {"deployment_id": None, "version": "1.4.0", "event_time": NOW} | fields
    ticket = ticket_from_event(make_event(**event_fields))
    return replace(ticket, report=report)


def make_queued(report: ReportState | None = UNTOLD, **fields: Any) -> QueuedEvent:
    """Return the event of such a ticket, queued now."""
    return QueuedEvent(make_reported(report, **fields), NOW)


def make_head(
    status: str = "finished", ended_at: int | None = NOW, **fields: Any
) -> DeploymentHead:
    """Return a listed deployment of the version."""
    return DeploymentHead(
        id=fields.pop("id", "d-1"),
        application_key="shop",
        application_version="1.4.0",
        environment_key="production",
        status=status,
        started_at=fields.pop("started_at", ended_at),
        ended_at=ended_at,
    )


def decide(
    events: QueuedEvent | Sequence[QueuedEvent], result: Match | NoMatch, *, now: int = NOW
) -> Unreported | Retry | Ended | None:
    """Decide on events of the first attempt."""
    queued = [events] if isinstance(events, QueuedEvent) else events
    return decide_report(queued, result, now_ms=now, history=HISTORY, policy=POLICY)


def answer(response: ApiResponse | NoResponse, *, age_s: float = 0.0, **fields: Any) -> Any:
    """Return the meaning of an answer to a report that was begun now."""
    ticket = make_reported(ReportState(reported_at=NOW), **fields)
    return decide_answer(CallFailure(response), ticket, replace(HISTORY, age_s=age_s), POLICY)


def test_unlisted_event_is_reported() -> None:
    """It is reported at once, however long it waited in the backlog."""
    assert decide(make_queued(), NoMatch()) == Unreported(0)
    assert waits_since(make_queued(), NOW + 9) == NOW + 9


def test_event_of_a_source_without_report_is_not_told() -> None:
    """Nothing changes for it."""
    assert decide(make_queued(None), NoMatch()) is None
    assert waits_since(make_queued(None), NOW + 9) == NOW


def test_listed_deployment_is_not_told_again() -> None:
    """It has ended, whoever told LaunchDarkly about it."""
    assert decide(make_queued(), Match(make_head(), None)) is None


def test_end_of_a_running_deployment_is_reported_once() -> None:
    """LaunchDarkly knows the start only."""
    running = Match(make_head("started", ended_at=None, started_at=NOW - 60_000), None)
    assert decide(make_queued(), running) == Unreported(0)
    assert decide(make_queued(ReportState(NOW, is_stored=True)), running) is None


def test_confirmed_report_is_never_told_again() -> None:
    """Even if the list never shows it."""
    stored = make_queued(ReportState(NOW, is_stored=True))
    assert decide(stored, NoMatch(), now=NOW + 10 * PATIENCE_MS) is None
    assert waits_since(stored, NOW + 10 * PATIENCE_MS) == NOW


def test_unclear_report_is_looked_for_before_it_is_reported_again() -> None:
    """The list is read again and again for a minute; the last wait ends just after it."""
    unclear = make_queued(ReportState(reported_at=NOW))
    first = decide(unclear, NoMatch(), now=NOW + 1000)
    assert isinstance(first, Retry)
    assert (first.reason, first.counts_as_attempt) == ("report_unclear", True)
    assert 0 < first.wait_s <= 2
    last = decide(unclear, NoMatch(), now=NOW + PATIENCE_MS - 100)
    assert isinstance(last, Retry)
    assert last.wait_s == pytest.approx(0.11)
    assert decide(unclear, NoMatch(), now=NOW + PATIENCE_MS) == Unreported(0)


def test_list_that_cannot_be_read_entirely_decides_nothing() -> None:
    """The unreadable deployment may be the one."""
    assert decide(make_queued(), NoMatch((Drift(reason="odd"), b"{}"))) is None


def test_events_of_one_version_are_told_in_the_order_of_time() -> None:
    """An event whose answer is unclear does not hold up the next one."""
    later, earlier = make_queued(), make_queued(event_time=NOW - 60_000)
    assert decide([later, earlier], NoMatch()) == Unreported(1)
    unclear = QueuedEvent(replace(earlier.ticket, report=ReportState(reported_at=NOW)), NOW)
    assert decide([later, unclear], NoMatch(), now=NOW + 1) == Unreported(0)


@pytest.mark.parametrize(
    ("event_time", "distance_ms", "outcome", "is_reported"),
    [
        (NOW, 1_000, "succeeded", False),
        (NOW, 1_001, "succeeded", True),
        (NOW, 0, "failed", True),
        (None, 600_000, "succeeded", False),
    ],
)
def test_repetition_of_a_published_event_is_not_told(
    event_time: int | None, distance_ms: int, outcome: str, *, is_reported: bool
) -> None:
    """The source reported the deployment by another event, and this one says the same."""
    queued = make_queued(event_time=event_time, outcome=outcome)
    queued = QueuedEvent(replace(queued.ticket, taken=("d-1",)), NOW)
    head = make_head(ended_at=NOW - distance_ms)
    assert (decide(queued, NoMatch(listed=(head,))) == Unreported(0)) is is_reported


@pytest.mark.parametrize(
    ("head", "known"),
    [
        (make_head("started", ended_at=None, started_at=NOW), True),
        (make_head("started", ended_at=None, started_at=NOW - 61_000), False),
        (make_head(ended_at=NOW + 5_000, started_at=NOW + 5_000), True),
        (make_head(ended_at=NOW - 1), False),
    ],
)
def test_start_is_reported_unless_launchdarkly_knows_it_or_its_end(
    head: DeploymentHead, *, known: bool
) -> None:
    """A deployment that ended before, or that lost its end, is another one."""
    start = make_queued(outcome=STARTED)
    assert decide(start, NoMatch(listed=(head,))) == (Ended(0) if known else Unreported(0))


def test_start_that_was_told_ends() -> None:
    """Only its answer had to be written."""
    start = make_queued(ReportState(NOW, is_stored=True), outcome=STARTED)
    assert decide(start, NoMatch()) == Ended(0)


def test_stored_answer_lets_the_list_be_read_soon() -> None:
    """After 1 to 2 s; a start ends at once."""
    reported = answer(ApiResponse(status=201, body=b""))
    assert reported.report == ReportState(NOW, is_stored=True)
    assert reported.verdict == Retry("reported", wait_s=1.5)
    assert answer(ApiResponse(201, b""), outcome=STARTED).verdict == Ended(0, is_reported=True)
    assert classify_report(ApiResponse(201, b"")) == "ok"


BETA = b'{"message":"This API is in beta."}'


@pytest.mark.parametrize(
    ("response", "is_unclear", "reason", "counts"),
    [
        (NoResponse("ClientConnectorError", is_unsent=True), False, "no answer: C", True),
        (NoResponse("timed out"), True, "no answer: t", True),
        (NoResponse("ServerDisconnectedError"), True, "no answer: S", True),
        (ApiResponse(500, b""), True, "HTTP 500", True),
        (ApiResponse(504, b""), True, "HTTP 504", True),
        (ApiResponse(302, b""), True, "HTTP 302", True),
        (ApiResponse(408, b""), True, "HTTP 408", True),
        (ApiResponse(403, b"<html>"), True, "HTTP 403", True),
        (ApiResponse(429, b""), False, "rate_limited", False),
        (ApiResponse(401, b""), False, "token_refused_401", False),
        (ApiResponse(403, BETA), False, "token_refused_403", False),
        (ApiResponse(403, b"{}"), False, REPORT_FORBIDDEN, True),
    ],
)
def test_other_answer_is_retried(
    response: ApiResponse | NoResponse, reason: str, *, is_unclear: bool, counts: bool
) -> None:
    """If it does not say whether the event was stored, that is remembered."""
    reported = answer(response)
    assert reported.report == ReportState(reported_at=NOW if is_unclear else 0)
    assert isinstance(reported.verdict, Retry)
    assert reported.verdict.reason.startswith(reason)
    assert reported.verdict.counts_as_attempt is counts


@pytest.mark.parametrize(
    ("response", "age_s", "reason"),
    [
        (ApiResponse(400, b'{"code":"invalid_request"}'), 0, "report_rejected"),
        (ApiResponse(404, b""), 0, "report_rejected"),
        (ApiResponse(403, b"{}"), 901, REPORT_FORBIDDEN),
        (ApiResponse(500, b""), 86_401, "upstream_failing"),
        (NoResponse("timed out"), 86_401, "upstream_failing"),
    ],
)
def test_answer_that_stays_ends_in_failed(
    response: ApiResponse | NoResponse, age_s: float, reason: str
) -> None:
    """With a reason of its own, and the raw answer."""
    reported = answer(response, age_s=age_s)
    assert isinstance(reported.verdict, Fail)
    assert reported.verdict.reason == reason
    if isinstance(response, ApiResponse):
        assert reported.verdict.raw == response.body


@pytest.mark.parametrize("version", ["feature/x", "1.0+7", "a b", "ü", "1.0\n", ""])
def test_version_that_launchdarkly_refuses_fails(version: str) -> None:
    """Before any call, with the version and what to do."""
    failed = check_version(make_reported(version=version))
    assert failed is not None
    assert failed.reason == "report_invalid"
    assert repr(version) in failed.detail
    assert check_version(make_reported(None, version=version)) is None


def test_event_says_what_is_known() -> None:
    """Keys, version, time, name and metadata, as the native body has them."""
    metadata = b'{"build":7}'
    ticket = make_reported(ReportState(version_name="June"), outcome="failed")
    body = json.loads(encode_report(QueuedEvent(replace(ticket, metadata=metadata), NOW)))
    assert body == {
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "shop",
        "version": "1.4.0",
        "versionName": "June",
        "eventType": "failed",
        "eventTime": NOW,
        "eventMetadata": {"build": 7},
    }
    listed = replace(ticket, metadata=b"[1]", event_time=None)
    body = json.loads(encode_report(QueuedEvent(listed, NOW + 5)))
    assert (body["eventMetadata"], body["eventTime"]) == ({"metadata": [1]}, NOW + 5)


def test_end_waits_seconds_for_a_start_that_is_being_told() -> None:
    """Longer each time, but never long: the start may be told any moment."""
    waits = [decide_busy(replace(HISTORY, attempts=n), POLICY).wait_s for n in (0, 1, 2, 9)]
    assert waits == sorted(waits)
    assert 0 < waits[0] < 2
    assert waits[-1] == 10


def test_failed_ticket_says_what_is_probably_missing() -> None:
    """Nobody reports it; or it was reported, and does not list it."""
    assert "set report = true in the source native" in describe_report(make_reported(None))
    stored = make_reported(ReportState(NOW, is_stored=True))
    assert "accepted the report" in describe_report(stored)


class ToldOnce:
    """LaunchDarkly with a list that lags, and a worker that may die after each step."""

    def __init__(self, lag_ms: int) -> None:
        self.now = NOW
        self.lag_ms = lag_ms
        self.stored_at: list[int] = []
        self.event = make_queued()

    def attempt(self, step: str) -> bool:
        """Make one attempt that ends as ``step`` says; return whether it found the deployment."""
        if any(stored_at + self.lag_ms <= self.now for stored_at in self.stored_at):
            return True
        decision = decide(self.event, NoMatch(), now=self.now)
        if isinstance(decision, Unreported):
            self._tell(step)
            self.now += 1000
        else:
            self.now += round(decision.wait_s * 1000) if isinstance(decision, Retry) else 2000
        return False

    def _tell(self, step: str) -> None:
        self._write(ReportState(reported_at=self.now))
        if step == "dies before the call":
            return
        responses: dict[str, ApiResponse | NoResponse] = {
            "unsent": NoResponse("ClientConnectorError", is_unsent=True),
            "limited": ApiResponse(429, b""),
            "lost": NoResponse("timed out"),
            "fails": ApiResponse(503, b""),
        }
        response = responses.get(step, ApiResponse(201, b""))
        if step not in {"unsent", "limited", "fails"}:
            self.stored_at.append(self.now)
        if step == "dies after the call":
            return
        reported = decide_answer(CallFailure(response), self.event.ticket, HISTORY, POLICY)
        self._write(reported.report)

    def _write(self, report: ReportState) -> None:
        self.event = QueuedEvent(replace(self.event.ticket, report=report), self.event.queued_at)


STEPS = ["ok", "unsent", "limited", "lost", "fails", "dies before the call", "dies after the call"]


@given(
    steps=st.lists(st.sampled_from(STEPS), max_size=12),
    lag_ms=st.integers(min_value=0, max_value=PATIENCE_MS),
)
def test_deployment_is_reported_once_whatever_happens(steps: list[str], lag_ms: int) -> None:
    """Whatever dies or gets lost, if the list shows an event within the patience."""
    world = ToldOnce(lag_ms)
    remaining = iter(steps)
    for _ in range(500):
        if world.attempt(next(remaining, "ok")):
            break
    assert len(world.stored_at) == 1
