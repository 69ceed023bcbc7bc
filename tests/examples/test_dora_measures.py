"""Tests of the measures of the example: against a plain oracle, and of the parts of a period."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.examples.dora.deployments import Change, Deployment, Previous, Scope
from deploy.examples.dora.history import History, find_rollbacks
from deploy.examples.dora.measures import Measures, measure
from deploy.examples.dora.periods import PERIODS, split_into_parts

SCOPES = [Scope("default", "production", "shop"), Scope("default", "staging", "shop")]
IDS = [f"d{number}" for number in range(8)]
NOW_MS = 1_795_428_000_000
HOUR_MS = 3_600_000

changes = st.none() | st.builds(
    Change,
    previous=st.none() | st.builds(Previous, st.sampled_from(IDS)),
    since_previous_ms=st.none() | st.integers(0, 9),
    redeployment=st.booleans(),
    rollback=st.booleans(),
    recovery_ms=st.none() | st.integers(0, 1000),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Deployment]:
    """Return revisions of a few deployments in any order, some of them more than once."""
    revisions: list[Deployment] = []
    for deployment_id in draw(st.lists(st.sampled_from(IDS), unique=True)):
        scope = draw(st.sampled_from(SCOPES))
        revisions += [
            Deployment(
                id=deployment_id,
                revision=revision,
                scope=scope,
                ended_at=NOW_MS - draw(st.integers(0, 30 * HOUR_MS)),
                succeeded=draw(st.booleans()),
                lead_time_ms=draw(st.none() | st.integers(0, 1000)),
                change=draw(changes),
            )
            for revision in range(1, draw(st.integers(1, 3)) + 1)
        ]
    repeated = draw(st.lists(st.sampled_from(revisions), max_size=3)) if revisions else []
    return draw(st.permutations(revisions + repeated))


def middle(numbers: Sequence[int]) -> float | None:
    """Return the median as one finds it by hand."""
    ordered = sorted(numbers)
    while len(ordered) > 2:
        ordered = ordered[1:-1]
    return sum(ordered) / len(ordered) if ordered else None


def measure_plainly(revisions: Sequence[Deployment], scope: Scope) -> dict[str, Any]:
    """Return the measures by the sentences of docs/consumers.md, one after the other."""
    last: list[Deployment] = []
    for revision in revisions:
        others = [other for other in revisions if other.id == revision.id]
        is_last = all(other.revision <= revision.revision for other in others)
        if is_last and revision.scope == scope and revision not in last:
            last.append(revision)
    broken = 0
    for deployment in last:
        named = False
        for other in last:
            if other.change is not None and other.change.rollback and other.change.previous:
                named = named or other.change.previous.deployment_id == deployment.id
        broken += named or not deployment.succeeded
    recoveries = [
        other.change.recovery_ms
        for other in last
        if other.change is not None and other.change.recovery_ms is not None
    ]
    lead_times = [
        other.lead_time_ms for other in last if other.succeeded and other.lead_time_ms is not None
    ]
    return {
        "total": len(last),
        "succeeded": len([other for other in last if other.succeeded]),
        "failed": broken,
        "failure_rate": broken / len(last) if last else None,
        "recoveries": len(recoveries),
        "lead_time_ms": middle(lead_times),
        "recovery_ms": middle(recoveries),
    }


def read(revisions: Sequence[Deployment]) -> History:
    """Return a history that has read the revisions."""
    history = History()
    for revision in revisions:
        history.add(revision)
    return history


@given(histories())
@settings(max_examples=200)
def test_measures_equal_the_plain_oracle(revisions: list[Deployment]) -> None:
    """In whatever order revisions come, the last one of each deployment counts."""
    by_scope = read(revisions).by_scope()
    for scope in SCOPES:
        deployments = by_scope.get(scope, ())
        measures = measure(deployments, find_rollbacks(deployments))
        expected = measure_plainly(revisions, scope)
        assert {name: getattr(measures, name) for name in expected} == expected


@given(histories(), st.sampled_from(sorted(PERIODS)))
def test_each_deployment_is_in_the_part_in_which_it_ended(
    revisions: list[Deployment], key: str
) -> None:
    """The parts join without a gap, the last one holds the present, and none is in two."""
    period = PERIODS[key]
    for deployments in read(revisions).by_scope().values():
        parts = split_into_parts(deployments, period, NOW_MS)
        starts = [part.starts_at for part in parts]
        assert starts == list(range(starts[0], starts[0] + period.length_ms, period.part_ms))
        assert starts[-1] <= NOW_MS < starts[-1] + period.part_ms
        for part in parts:
            for deployment in part.deployments:
                assert part.starts_at <= deployment.ended_at < part.starts_at + period.part_ms
        listed = [deployment for part in parts for deployment in part.deployments]
        assert listed == [item for item in deployments if item.ended_at >= starts[0]]


def test_history_forgets_what_ended_before() -> None:
    """The page would grow without bound otherwise."""
    history = read(
        [
            Deployment(id=name, revision=1, scope=SCOPES[0], ended_at=at, succeeded=True)
            for name, at in (("old", 1), ("new", 2))
        ]
    )
    number = history.number
    history.forget_before(2)
    (deployments,) = history.by_scope().values()
    assert [deployment.id for deployment in deployments] == ["new"]
    assert history.number > number
    history.forget_before(2)
    assert history.number == number + 1


def test_measures_of_nothing_say_nothing() -> None:
    """A rate of 0 % or a lead time of 0 would be a claim."""
    measures = measure([], set())
    assert measures == Measures()
    assert measures.failure_rate is None


def test_rate_is_given_in_the_unit_of_the_period() -> None:
    """60 deployments in 30 days are 2 a day."""
    assert PERIODS["30d"].rate(60) == 2
    assert PERIODS["24h"].rate(60) == 2.5
    assert PERIODS["15m"].rate(60) == 4
