"""What does an answer mean for a deployment?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.enrich.deployment import Deployment, Drift, Garbage
from service.enrich.verdict import (
    Answer,
    History,
    Later,
    Never,
    Patience,
    Silence,
    classify,
    judge_accident,
    judge_answer,
    judge_page,
    judge_progress,
    judge_shape,
)

PATIENCE = Patience()
YOUNG = History(attempts=0, age_s=1.0, chance=0.5)
OLD = History(attempts=50, age_s=100_000.0, chance=0.5)


@pytest.mark.parametrize(
    ("status", "young", "old"),
    [
        (400, "rejected", "rejected"),
        (401, "token_refused_401", "token_refused_401"),
        (403, "token_refused_403", "token_refused_403"),
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
def test_each_status_has_its_fate(status: int, young: str, old: str) -> None:
    """For a ticket that has just come, and for one that was tried for a day."""
    for history, reason in ((YOUNG, young), (OLD, old)):
        verdict = judge_answer(Answer(status=status, body=b"raw"), history, PATIENCE)
        assert not isinstance(verdict, bytes)
        assert verdict.reason == reason
        if isinstance(verdict, Never):
            assert verdict.raw == b"raw"
        else:
            assert verdict.counts is (status not in {401, 403, 429})


def test_a_good_answer_is_its_body() -> None:
    """Unless it is over the cap."""
    assert judge_answer(Answer(status=200, body=b"{}"), YOUNG, PATIENCE) == b"{}"
    cut = Answer(status=200, body=b"", oversized=True)
    assert isinstance(judge_answer(cut, YOUNG, PATIENCE), Never)


@given(
    st.integers(100, 599),
    st.integers(0, 1000),
    st.floats(0, 1e6),
    st.floats(0, 1, exclude_max=True),
)
def test_waits_are_bounded_and_what_costs_no_attempt_is_not_the_tickets_fault(
    status: int, attempts: int, age_s: float, chance: float
) -> None:
    """No wait is negative or endless; rate limits and bad tokens alone are free."""
    verdict = judge_answer(
        Answer(status=status, body=b""), History(attempts, age_s, chance), PATIENCE
    )
    if isinstance(verdict, Later):
        assert 0 <= verdict.wait_s <= PATIENCE.backoff.cap_s
        assert verdict.counts is (status not in {401, 403, 429})
        assert verdict.counts is False or age_s < PATIENCE.outage_s


def test_silence_is_waited_out_for_a_day() -> None:
    """Then a person must look."""
    assert isinstance(judge_answer(Silence("timed out"), YOUNG, PATIENCE), Later)
    verdict = judge_answer(Silence("timed out"), OLD, PATIENCE)
    assert verdict == Never(reason="upstream_failing", detail="no answer: timed out")


def test_a_further_page_that_is_not_there_will_not_come() -> None:
    """For a page 404 is final; all else is judged as for the first."""
    assert isinstance(judge_page(Answer(status=404, body=b""), YOUNG, PATIENCE), Never)
    assert isinstance(judge_page(Answer(status=503, body=b""), YOUNG, PATIENCE), Later)
    assert judge_page(Answer(status=200, body=b"{}"), YOUNG, PATIENCE) == b"{}"


def test_a_new_shape_stays_new_and_a_cut_body_may_heal() -> None:
    """Drift is final at once, garbage after several tries; the bytes are kept."""
    assert judge_shape(Drift("$.id"), b"raw", YOUNG, PATIENCE) == Never(
        reason="undecodable", detail="$.id", raw=b"raw"
    )
    assert isinstance(judge_shape(Garbage("cut"), b"raw", YOUNG, PATIENCE), Later)
    assert isinstance(judge_shape(Garbage("cut"), b"raw", OLD, PATIENCE), Never)


def test_a_running_deployment_is_waited_for_and_then_taken_as_it_is() -> None:
    """LaunchDarkly may not have heard of the end; past the deadline we publish what there is."""
    running = Deployment(id="a", status="started")
    assert isinstance(judge_progress(running, YOUNG, PATIENCE), Later)
    assert judge_progress(running, OLD, PATIENCE) is None
    assert judge_progress(Deployment(id="a", status="string"), YOUNG, PATIENCE) is None
    assert judge_progress(Deployment(id="a", status="started", ended_at=1), YOUNG, PATIENCE) is None


def test_our_own_mistakes_end() -> None:
    """A few tries, then a person sees it."""
    assert isinstance(judge_accident("KeyError: x", YOUNG, PATIENCE), Later)
    assert judge_accident("KeyError: x", OLD, PATIENCE) == Never(
        reason="internal_error", detail="KeyError: x"
    )


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(status=200, body=b""), "fine"),
        (Answer(status=404, body=b""), "fine"),
        (Answer(status=429, body=b""), "limited"),
        (Answer(status=401, body=b""), "refused"),
        (Answer(status=403, body=b""), "refused"),
        (Answer(status=502, body=b""), "failing"),
        (Silence("cut"), "failing"),
    ],
)
def test_what_it_means_for_everybody(answer: Answer | Silence, outcome: str) -> None:
    """The budget hears one of four."""
    assert classify(answer) == outcome


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_only_a_good_answer_can_be_too_large(status: int) -> None:
    """A long error page is no fate: a rate limit stays one, whatever it says."""
    cut = Answer(status=status, body=b"", oversized=True)
    assert judge_answer(cut, YOUNG, PATIENCE) == judge_answer(
        Answer(status=status, body=b""), YOUNG, PATIENCE
    )
