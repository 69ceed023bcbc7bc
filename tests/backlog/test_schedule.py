"""When is a published deployment looked at again, and does that end?"""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.backlog.schedule import Plan, choose_schedule, plan_looks
from service.backlog.ticket import Lease, Look, Ticket, read_lease

BEGAN = 1_795_428_000_000
SCHEDULE = (120_000, 900_000, 3_600_000)
LEASE = Lease(
    job="find:default/production/shop/1.0",
    fence=1.5,
    generation=7,
    crashes=2,
    queued_at=BEGAN - 10,
    now=BEGAN,
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


def plan(*, after: int, taken: int | None = None, unfinished: bool = False) -> Plan:
    """Plan what follows so many ms after the first record."""
    look = None if taken is None else Look(taken, BEGAN)
    lease = replace(LEASE, ticket=replace(LEASE.ticket, look=look))
    return plan_looks(SCHEDULE, lease, "a", now_ms=BEGAN + after, unfinished=unfinished)


def read(planned: Plan) -> Lease:
    """Read the ticket of a planned look, as a worker will."""
    lease = read_lease(b"id:a", fence=b"2.5", stored=planned.ticket, now=BEGAN)
    assert isinstance(lease, Lease)
    return lease


def test_the_first_record_plans_the_first_look() -> None:
    """The look carries the webhook's own words, its arrival too, and no attempts."""
    planned = plan(after=0)
    assert (planned.taken, planned.due, planned.until) == (0, BEGAN + 120_000, BEGAN + 3_600_000)
    lease = read(planned)
    assert (lease.generation, lease.crashes, lease.queued_at) == (1, 0, BEGAN - 10)
    assert lease.ticket == replace(
        LEASE.ticket, deployment_id="a", attempts=0, reason=None, look=Look(0, BEGAN)
    )


def test_looks_count_on_until_the_last() -> None:
    """Each look plans the next one of the schedule; the last one plans none."""
    second = plan(after=120_000, taken=0)
    assert (second.taken, second.due, read(second).ticket.look) == (
        *(1, BEGAN + 900_000),
        Look(1, BEGAN),
    )
    assert plan(after=3_600_000, taken=2) == Plan(taken=3, since=BEGAN)


def test_a_late_look_skips_those_it_missed() -> None:
    """Where nothing was left over for long, looks do not come in a heap afterwards."""
    assert plan(after=1_000_000, taken=0).due == BEGAN + 3_600_000


def test_what_had_not_ended_is_looked_at_more_often() -> None:
    """It is looked at each time that as much time has passed again, within the schedule."""
    assert plan(after=0, unfinished=True).due == BEGAN + 120_000
    assert plan(after=130_000, taken=0, unfinished=True).due == BEGAN + 260_000
    assert plan(after=800_000, taken=3, unfinished=True).due == BEGAN + 900_000
    assert plan(after=3_600_000, taken=9, unfinished=True).due is None


@given(
    st.lists(st.integers(1, 10**9), max_size=6, unique=True).map(sorted),
    st.lists(st.tuples(st.integers(0, 10**8), st.booleans()), min_size=40, max_size=40),
)
def test_looks_end(schedule: list[int], delays: list[tuple[int, bool]]) -> None:
    """Whatever delays there are, each look comes after the one before, and there is a last one."""
    lease, now, looks = LEASE, BEGAN, 0
    for late, unfinished in delays:
        planned = plan_looks(schedule, lease, "a", now_ms=now, unfinished=unfinished)
        if planned.due is None or planned.until is None:
            break
        assert now < planned.due <= planned.until == BEGAN + schedule[-1]
        looks += 1
        lease, now = read(planned), planned.due + late
    else:
        raise AssertionError("looks do not end")
    assert looks == planned.taken


def test_what_ended_long_ago_gets_no_looks() -> None:
    """A day, or as long as the schedule is, if that is longer; an end that is not told is none."""
    day = 86_400_000
    for schedule, ended_at, chosen in (
        (SCHEDULE, BEGAN - day, SCHEDULE),
        (SCHEDULE, BEGAN - day - 1, ()),
        ((*SCHEDULE, 2 * day), BEGAN - day - 1, (*SCHEDULE, 2 * day)),
        (SCHEDULE, None, SCHEDULE),
        ((), BEGAN, ()),
    ):
        assert choose_schedule(schedule, ended_at=ended_at, now_ms=BEGAN) == chosen


def test_without_a_schedule_nothing_is_planned() -> None:
    """Whoever wants no revisions gets no looks."""
    planned = plan_looks((), LEASE, "a", now_ms=BEGAN, unfinished=True)
    assert (planned.due, planned.until, planned.ticket) == (None, None, b"")
