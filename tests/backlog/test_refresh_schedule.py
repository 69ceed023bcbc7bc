"""When is a published deployment looked at again, and does that end?"""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.backlog.refresh_schedule import RefreshPlan, plan_refresh, schedule_for
from service.backlog.ticket import Lease, RefreshState, Ticket, decode_lease

STARTED_AT = 1_795_428_000_000
SCHEDULE = (120_000, 900_000, 3_600_000)
LEASE = Lease(
    job="find:default/production/shop/1.0",
    fence=1.5,
    generation=7,
    crashes=2,
    queued_at=STARTED_AT - 10,
    now=STARTED_AT,
    ticket=Ticket(
        source="native",
        delivery="d1",
        outcome="succeeded",
        project="default",
        environment="production",
        application="shop",
        version="1.0",
        attempts=3,
        reason="HTTP 500",
    ),
)


def plan_next(*, after: int, done: int | None = None, unfinished: bool = False) -> RefreshPlan:
    """Plan what follows so many ms after the first record."""
    refresh_state = None if done is None else RefreshState(done, STARTED_AT)
    lease = replace(LEASE, ticket=replace(LEASE.ticket, refresh=refresh_state))
    return plan_refresh(SCHEDULE, lease, "a", now_ms=STARTED_AT + after, unfinished=unfinished)


def lease_from_plan(planned: RefreshPlan) -> Lease:
    """Read the ticket of a planned look, as a worker will."""
    lease = decode_lease(b"id:a", fence=b"2.5", stored=planned.ticket, now=STARTED_AT)
    assert isinstance(lease, Lease)
    return lease


def test_the_first_record_plans_the_first_look() -> None:
    """The look carries the webhook's own words, its arrival too, and no attempts."""
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


def test_looks_count_on_until_the_last() -> None:
    """Each look plans the next one of the schedule; the last one plans none."""
    second = plan_next(after=120_000, done=0)
    assert (second.done, second.due, lease_from_plan(second).ticket.refresh) == (
        *(1, STARTED_AT + 900_000),
        RefreshState(1, STARTED_AT),
    )
    assert plan_next(after=3_600_000, done=2) == RefreshPlan(done=3, since=STARTED_AT)


def test_a_late_look_skips_those_it_missed() -> None:
    """Where nothing was left over for long, looks do not come in a heap afterwards."""
    assert plan_next(after=1_000_000, done=0).due == STARTED_AT + 3_600_000


def test_what_had_not_ended_is_looked_at_more_often() -> None:
    """It is looked at each time that as much time has passed again, within the schedule."""
    assert plan_next(after=0, unfinished=True).due == STARTED_AT + 120_000
    assert plan_next(after=130_000, done=0, unfinished=True).due == STARTED_AT + 260_000
    assert plan_next(after=800_000, done=3, unfinished=True).due == STARTED_AT + 900_000
    assert plan_next(after=3_600_000, done=9, unfinished=True).due is None


@given(
    st.lists(st.integers(1, 10**9), max_size=6, unique=True).map(sorted),
    st.lists(st.tuples(st.integers(0, 10**8), st.booleans()), min_size=40, max_size=40),
)
def test_looks_end(schedule: list[int], delays: list[tuple[int, bool]]) -> None:
    """Whatever delays there are, each look comes after the one before, and there is a last one."""
    lease, now, looks = LEASE, STARTED_AT, 0
    for late, unfinished in delays:
        planned = plan_refresh(schedule, lease, "a", now_ms=now, unfinished=unfinished)
        if planned.due is None or planned.until is None:
            break
        assert now < planned.due <= planned.until == STARTED_AT + schedule[-1]
        looks += 1
        lease, now = lease_from_plan(planned), planned.due + late
    else:
        raise AssertionError("looks do not end")
    assert looks == planned.done


def test_what_ended_long_ago_gets_no_looks() -> None:
    """A day, or as long as the schedule is, if that is longer; an end that is not told is none."""
    day = 86_400_000
    for schedule, ended_at, chosen in (
        (SCHEDULE, STARTED_AT - day, SCHEDULE),
        (SCHEDULE, STARTED_AT - day - 1, ()),
        ((*SCHEDULE, 2 * day), STARTED_AT - day - 1, (*SCHEDULE, 2 * day)),
        (SCHEDULE, None, SCHEDULE),
        ((), STARTED_AT, ()),
    ):
        assert schedule_for(schedule, ended_at=ended_at, now_ms=STARTED_AT) == chosen


def test_without_a_schedule_nothing_is_planned() -> None:
    """Whoever wants no revisions gets no looks."""
    planned = plan_refresh((), LEASE, "a", now_ms=STARTED_AT, unfinished=True)
    assert (planned.due, planned.until, planned.ticket) == (None, None, b"")
