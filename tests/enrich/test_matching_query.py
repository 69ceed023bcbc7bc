"""Which of the listed deployments is ours?"""

import pytest

from service.enrich.matching import (
    DeploymentQuery,
    choose_deployment,
    ended_long_before,
    versions_match,
)
from service.enrich.models import Deployment

FULL_SHA = "0123456789abcdef0123456789abcdef01234567"
QUERY = DeploymentQuery(
    environment="production", application="shop", version=FULL_SHA, time_ms=1_000_000
)


def make_listed(name: str, **changes: object) -> Deployment:
    """Make one item of the list; what is not said is as sought."""
    defaults: dict[str, object] = {
        "application_key": "shop",
        "application_version": FULL_SHA,
        "environment_key": "production",
        "status": "finished",
        "ended_at": 1_000_000,
    }
    return Deployment(id=name, **{**defaults, **changes})  # type: ignore[arg-type] # facts by name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.2.3", "1.2.3", True),
        ("1.2.3", "1.2", False),
        (FULL_SHA, FULL_SHA[:7], True),
        (FULL_SHA[:7], FULL_SHA, True),
        (FULL_SHA.upper(), FULL_SHA[:12], True),
        (FULL_SHA, FULL_SHA[:6], False),
        (FULL_SHA, "1123456", False),
        ("release-0123456", "0123456", False),
        ("0123456z", "0123456", False),
        ("", "", True),
        ("v1", "", False),
    ],
)
def test_versions_match_accepts_short_shas_only(one: str, other: str, *, same: bool) -> None:
    """Prefixes count for hexadecimal versions of seven characters and more only."""
    assert versions_match(one, other) is same


def test_choose_deployment_from_an_empty_list_returns_none() -> None:
    """Null items are nothing."""
    assert choose_deployment([], QUERY) is None
    assert choose_deployment([None], QUERY) is None


def test_choose_deployment_ignores_other_applications_and_environments() -> None:
    """Application, environment and version must be ours; an unnamed environment may be."""
    others = [
        make_listed("a", application_key="cart"),
        make_listed("b", environment_key="staging"),
        make_listed("c", application_version="2.0"),
        make_listed("d", application_version=None),
    ]
    assert choose_deployment(others, QUERY) is None
    chosen = choose_deployment([*others, make_listed("e", environment_key=None)], QUERY)
    assert chosen is not None
    assert chosen.id == "e"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"status": "started", "ended_at": None, "started_at": 1_000_000}),
        ({"ended_at": 1}, {"status": "started", "ended_at": None, "started_at": 1_060_001}),
        ({"ended_at": 1}, {"application_version": FULL_SHA[:7]}),
        ({"ended_at": 1_000_100}, {"ended_at": 999_000}),
        ({"ended_at": 999_900}, {"ended_at": 1_001_000}),
        ({"ended_at": None, "started_at": 999_990}, {"ended_at": 900_000}),
        ({"started_at": 500}, {"started_at": 400}),
    ],
)
def test_choose_deployment_of_two_returns_the_better_one(
    better: dict[str, object], worse: dict[str, object]
) -> None:
    """Begun in time before too late, equal before short, nearest in time, started last."""
    two = [make_listed("worse", **worse), make_listed("better", **better)]
    for order in (two, two[::-1]):
        chosen = choose_deployment(order, QUERY)
        assert chosen is not None
        assert chosen.id == "better"


MINUTE = 60_000
T = 100 * 60 * MINUTE  # the sender: "finished at T"
ENDED, RUNNING = "finished", "started"


@pytest.mark.parametrize(
    ("deployments", "meant"),
    [
        # What there is, in minutes before T: (status, began, ended). Which of them is meant.
        ([(ENDED, 130, 120), (RUNNING, 5, None)], 1),  # deployed again; LaunchDarkly lags
        ([(ENDED, 130, 120), (RUNNING, 90, None)], 1),  # again, and it took long
        ([(ENDED, 130, 120), (ENDED, 5, 0)], 1),  # again, and LaunchDarkly knows
        ([(ENDED, 130, 120), (ENDED, 5, -2)], 1),  # it heard of the end two minutes late
        ([(ENDED, 10, 1), (RUNNING, -3, None)], 0),  # deployed once more since
        ([(ENDED, 10, 0), (RUNNING, 0.2, None)], 0),  # at once, before we asked
        ([(ENDED, 130, 120), (RUNNING, -0.5, None)], 1),  # a clock that is half a minute off
        ([(ENDED, 10, 0), (RUNNING, 300, None)], 0),  # one whose end nobody ever told
        ([(RUNNING, 300, None), (RUNNING, 5, None)], 1),  # the same, and ours in progress
        ([(ENDED, 30, 3), (RUNNING, 10, None)], 0),  # two at once: one ended just then
        ([(RUNNING, -3, None)], 0),  # nothing else: waited for all the same
        ([("failed", 40, 30), (RUNNING, 8, None)], 1),  # tried again after a failure
        ([("failed", 40, 30), (ENDED, 8, 0), (RUNNING, -1, None)], 1),
    ],
)
def test_choose_deployment_of_a_repeated_version_returns_the_nearest_in_time(
    deployments: list[tuple[str, float, float | None]], meant: int
) -> None:
    """One in progress that began by then is waited for, rather than one that ended long before."""

    def at(before: float | None) -> int | None:
        return None if before is None else T - round(before * MINUTE)

    found = [
        make_listed(str(n), status=status, started_at=at(began), ended_at=at(ended))
        for n, (status, began, ended) in enumerate(deployments)
    ]
    sought = DeploymentQuery(
        environment="production", application="shop", version=FULL_SHA, time_ms=T
    )
    for order in (found, found[::-1]):
        chosen = choose_deployment(order, sought)
        assert chosen is not None
        assert chosen.id == str(meant)


@pytest.mark.parametrize(
    ("facts", "long_before"),
    [
        ({"ended_at": T - 16 * MINUTE}, True),
        ({"ended_at": None, "started_at": T - 16 * MINUTE}, True),
        ({"ended_at": T - 14 * MINUTE}, False),
        ({"ended_at": None, "started_at": None}, False),
        ({"ended_at": T + 60 * MINUTE}, False),
        ({"status": RUNNING, "ended_at": None, "started_at": T - 90 * MINUTE}, False),
    ],
)
def test_ended_long_before_is_true_after_a_quarter_of_an_hour(
    facts: dict[str, object], *, long_before: bool
) -> None:
    """A quarter of an hour is what LaunchDarkly may hear later than we do."""
    sought = DeploymentQuery(
        environment="production", application="shop", version=FULL_SHA, time_ms=T
    )
    assert ended_long_before(make_listed("a", **facts), sought) is long_before


def test_versions_match_of_digits_only_needs_equality() -> None:
    """All digits are hexadecimal too, but a build must not be taken for the next one."""
    assert not versions_match("20261123", "202611231")
    assert not versions_match("1" * 7, "1" * 40)
    assert versions_match("20261123", "20261123" + "c" * 32)
