"""Tests of the refresh schedule: when a published deployment is fetched again."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.backlog.refresh_schedule import RefreshPlan, plan_refresh, schedule_for
from service.backlog.ticket import Lease, RefreshState, decode_lease
from tests.factories import make_lease, make_ticket

STARTED_AT = 1_795_428_000_000
SCHEDULE = (120_000, 900_000, 3_600_000)
LEASE = make_lease(
    make_ticket(
        project="default",
        environment="production",
        application="shop",
        version="1.0",
        attempts=3,
        reason="HTTP 500",
    ),
    job="find:default/production/shop/1.0",
    generation=7,
    crashes=2,
    queued_at=STARTED_AT - 10,
    now=STARTED_AT,
)


def plan_next(
    *,
    after: int,
    done: int | None = None,
    unfinished: bool = False,
    may_change: bool = False,
    is_last: bool = False,
) -> RefreshPlan:
    """Return the plan at this many ms after the first record."""
    refresh_state = None if done is None else RefreshState(done, STARTED_AT, is_last)
    lease = replace(LEASE, ticket=replace(LEASE.ticket, refresh=refresh_state))
    return plan_refresh(
        SCHEDULE,
        lease,
        "a",
        now_ms=STARTED_AT + after,
        unfinished=unfinished,
        may_change=may_change,
    )


def lease_from_plan(planned: RefreshPlan) -> Lease:
    """Return the ticket of a planned refresh as a worker claims it."""
    lease = decode_lease(b"id:a", fence=b"2.5", stored=planned.ticket, now=STARTED_AT)
    assert isinstance(lease, Lease)
    return lease


def test_plan_after_the_first_record_is_the_first_refresh() -> None:
    """Its ticket holds what the webhook said and when it arrived, without attempts."""
    planned = plan_next(after=0)
    assert (planned.done, planned.due, planned.until) == (
        0,
        STARTED_AT + 120_000,
        STARTED_AT + 3_600_000,
    )
    lease = lease_from_plan(planned)
    assert (lease.generation, lease.crashes, lease.queued_at) == (1, 0, STARTED_AT - 10)
    assert lease.ticket == replace(
        LEASE.ticket,
        deployment_id="a",
        attempts=0,
        reason=None,
        refresh=RefreshState(0, STARTED_AT),
    )


def test_plan_after_a_refresh_is_the_next_until_the_last() -> None:
    """Each refresh schedules the next one; the last one schedules none."""
    second = plan_next(after=120_000, done=0)
    assert (second.done, second.due, lease_from_plan(second).ticket.refresh) == (
        *(1, STARTED_AT + 900_000),
        RefreshState(1, STARTED_AT),
    )
    assert plan_next(after=3_600_000, done=2) == RefreshPlan(done=3, since=STARTED_AT)


def test_plan_after_the_last_refresh_is_one_more_if_its_content_may_change() -> None:
    """A quarter of an hour later, and no other after it; an earlier refresh changes nothing."""
    extra = plan_next(after=3_700_000, done=2, may_change=True)
    assert (extra.done, extra.due, extra.until) == (
        3,
        STARTED_AT + 3_700_000 + 900_000,
        STARTED_AT + 3_700_000 + 900_000,
    )
    refresh = lease_from_plan(extra).ticket.refresh
    assert refresh == RefreshState(3, STARTED_AT, is_last=True)
    end = plan_next(after=4_600_000, done=3, may_change=True, is_last=True)
    assert end == RefreshPlan(done=4, since=STARTED_AT)
    for after, done in ((0, None), (120_000, 0)):
        plans = {plan_next(after=after, done=done, may_change=value).due for value in (True, False)}
        assert len(plans) == 1


def test_plan_of_a_first_attempt_without_schedule_is_none() -> None:
    """Only a refresh asks for what may change."""
    plan = plan_refresh((), LEASE, "a", now_ms=STARTED_AT, unfinished=False, may_change=True)
    assert plan == RefreshPlan(since=STARTED_AT)


def test_plan_after_a_late_refresh_skips_missed_ones() -> None:
    """After a long time without spare calls, refreshes do not pile up."""
    assert plan_next(after=1_000_000, done=0).due == STARTED_AT + 3_600_000


def test_plan_of_an_unfinished_deployment_refreshes_more_often() -> None:
    """It is refreshed each time that the elapsed time has doubled, within the schedule."""
    assert plan_next(after=0, unfinished=True).due == STARTED_AT + 120_000
    assert plan_next(after=130_000, done=0, unfinished=True).due == STARTED_AT + 260_000
    assert plan_next(after=800_000, done=3, unfinished=True).due == STARTED_AT + 900_000
    assert plan_next(after=3_600_000, done=9, unfinished=True).due is None


@given(
    st.lists(st.integers(1, 10**9), max_size=6, unique=True).map(sorted),
    st.lists(st.tuples(st.integers(0, 10**8), st.booleans()), min_size=40, max_size=40),
)
def test_plans_end_after_the_schedule(schedule: list[int], delays: list[tuple[int, bool]]) -> None:
    """With any delays, each refresh follows the one before, and one is the last."""
    lease, now, refreshes = LEASE, STARTED_AT, 0
    for late, unfinished in delays:
        planned = plan_refresh(schedule, lease, "a", now_ms=now, unfinished=unfinished)
        if planned.due is None or planned.until is None:
            break
        assert now < planned.due <= planned.until == STARTED_AT + schedule[-1]
        refreshes += 1
        lease, now = lease_from_plan(planned), planned.due + late
    else:
        raise AssertionError("refreshes do not end")
    assert refreshes == planned.done


def test_schedule_of_a_deployment_that_ended_long_ago_is_empty() -> None:
    """The limit is a day or the schedule, if longer; an unknown end keeps the schedule."""
    day = 86_400_000
    for schedule, ended_at, chosen in (
        (SCHEDULE, STARTED_AT - day, SCHEDULE),
        (SCHEDULE, STARTED_AT - day - 1, ()),
        ((*SCHEDULE, 2 * day), STARTED_AT - day - 1, (*SCHEDULE, 2 * day)),
        (SCHEDULE, None, SCHEDULE),
        ((), STARTED_AT, ()),
    ):
        assert schedule_for(schedule, ended_at=ended_at, now_ms=STARTED_AT) == chosen


def test_plan_without_a_schedule_has_no_refresh() -> None:
    """An empty ENRICHER_REFRESH_AFTER turns refreshes off."""
    planned = plan_refresh((), LEASE, "a", now_ms=STARTED_AT, unfinished=True)
    assert (planned.due, planned.until, planned.ticket) == (None, None, b"")
