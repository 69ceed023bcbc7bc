"""Tests of the choice among listed deployments."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from service.enrich.matching import (
    DeploymentQuery,
    choose_deployment,
    ended_long_before,
    versions_match,
)
from service.enrich.models import Deployment, DeploymentHead

FULL_SHA = "0123456789abcdef0123456789abcdef01234567"
QUERY = DeploymentQuery(
    environment="production", application="shop", version=FULL_SHA, time_ms=1_000_000
)


def make_listed(deployment_id: str, **changes: object) -> Deployment:
    """Return one item of the list, which matches the query except for the changes."""
    defaults: dict[str, object] = {
        "application_key": "shop",
        "application_version": FULL_SHA,
        "environment_key": "production",
        "status": "finished",
        "ended_at": 1_000_000,
    }
    return Deployment(id=deployment_id, **{**defaults, **changes})  # type: ignore[arg-type] # fields by name


@pytest.mark.parametrize(
    ("version", "other_version", "are_equal"),
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
def test_versions_match_accepts_short_shas_only(
    version: str, other_version: str, *, are_equal: bool
) -> None:
    """A prefix matches only for hexadecimal versions of seven or more characters."""
    assert versions_match(version, other_version) is are_equal


def choose_alone(
    listed: Sequence[Deployment | None], query: DeploymentQuery
) -> DeploymentHead | None:
    """Return the deployment that a ticket with one event chooses."""
    choice = choose_deployment(listed, [query])
    return None if choice is None else choice.head


def test_choose_deployment_from_an_empty_list_returns_none() -> None:
    """Null items are ignored."""
    assert choose_alone([], QUERY) is None
    assert choose_alone([None], QUERY) is None


def test_choose_deployment_ignores_other_applications_and_environments() -> None:
    """Application and version must match; a missing environment matches any."""
    others = [
        make_listed("a", application_key="cart"),
        make_listed("b", environment_key="staging"),
        make_listed("c", application_version="2.0"),
        make_listed("d", application_version=None),
    ]
    assert choose_alone(others, QUERY) is None
    chosen = choose_alone([*others, make_listed("e", environment_key=None)], QUERY)
    assert chosen is not None
    assert chosen.id == "e"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"status": "started", "ended_at": None, "started_at": 1_000_000}),
        ({"ended_at": 200_000}, {"status": "started", "ended_at": None, "started_at": 1_060_001}),
        ({"ended_at": 200_000}, {"application_version": FULL_SHA[:7]}),
        ({"ended_at": 1_000_100}, {"ended_at": 999_000}),
        ({"ended_at": 999_900}, {"ended_at": 1_001_000}),
        ({"ended_at": None, "started_at": 999_990}, {"ended_at": 900_000}),
        ({"started_at": 500}, {"started_at": 400}),
    ],
)
def test_choose_deployment_of_two_returns_the_better_one(
    better: dict[str, object], worse: dict[str, object]
) -> None:
    """The rank is: began in time, equal version, nearest in time, started last."""
    deployments = [make_listed("worse", **worse), make_listed("better", **better)]
    for order in (deployments, deployments[::-1]):
        chosen = choose_alone(order, QUERY)
        assert chosen is not None
        assert chosen.id == "better"


MINUTE = 60_000
SENDER_TIME = 100 * 60 * MINUTE  # the time of the end in the webhook
ENDED, RUNNING = "finished", "started"


@pytest.mark.parametrize(
    ("deployments", "expected_index"),
    [
        # Listed, in minutes before SENDER_TIME: (status, began, ended). Then the expected index.
        ([(ENDED, 130, 120), (RUNNING, 5, None)], 1),  # deployed again; LaunchDarkly lags
        ([(ENDED, 130, 120), (RUNNING, 90, None)], 1),  # deployed again, and it took long
        ([(ENDED, 130, 120), (ENDED, 5, 0)], 1),  # deployed again, and LaunchDarkly knows
        ([(ENDED, 130, 120), (ENDED, 5, -2)], 1),  # LaunchDarkly received the end two minutes late
        ([(ENDED, 10, 1), (RUNNING, -3, None)], 0),  # deployed once more afterwards
        ([(ENDED, 10, 0), (RUNNING, 0.2, None)], 0),  # deployed once more at once
        ([(ENDED, 130, 120), (RUNNING, -0.5, None)], 1),  # a clock that differs by half a minute
        ([(ENDED, 10, 0), (RUNNING, 300, None)], 0),  # one whose end was never reported
        (
            [(RUNNING, 300, None), (RUNNING, 5, None)],
            1,
        ),  # the same, and the expected one in progress
        ([(ENDED, 30, 3), (RUNNING, 10, None)], 0),  # two at once: one ended at that time
        ([(RUNNING, -3, None)], 0),  # no other candidate
        ([("failed", 40, 30), (RUNNING, 8, None)], 1),  # tried again after a failure
        ([("failed", 40, 30), (ENDED, 8, 0), (RUNNING, -1, None)], 1),
    ],
)
def test_choose_deployment_of_a_repeated_version_returns_the_nearest_in_time(
    deployments: list[tuple[str, float, float | None]], expected_index: int
) -> None:
    """A deployment in progress that began in time ranks before one that ended long before."""

    def moment(minutes_before: float | None) -> int | None:
        return None if minutes_before is None else SENDER_TIME - round(minutes_before * MINUTE)

    listed = [
        make_listed(str(n), status=status, started_at=moment(began), ended_at=moment(ended))
        for n, (status, began, ended) in enumerate(deployments)
    ]
    query = replace(QUERY, time_ms=SENDER_TIME, outcome="succeeded", has_waited=True)
    for order in (listed, listed[::-1]):
        chosen = choose_alone(order, query)
        assert chosen is not None
        assert chosen.id == str(expected_index)


@pytest.mark.parametrize(
    ("fields", "is_long_before"),
    [
        ({"ended_at": SENDER_TIME - 16 * MINUTE}, True),
        ({"ended_at": None, "started_at": SENDER_TIME - 16 * MINUTE}, True),
        ({"ended_at": SENDER_TIME - 14 * MINUTE}, False),
        ({"ended_at": None, "started_at": None}, False),
        ({"ended_at": SENDER_TIME + 60 * MINUTE}, False),
        ({"status": RUNNING, "ended_at": None, "started_at": SENDER_TIME - 90 * MINUTE}, False),
    ],
)
def test_ended_long_before_is_true_after_a_quarter_of_an_hour(
    fields: dict[str, object], *, is_long_before: bool
) -> None:
    """LaunchDarkly may receive the end a quarter of an hour after the webhook."""
    query = DeploymentQuery(
        environment="production", application="shop", version=FULL_SHA, time_ms=SENDER_TIME
    )
    assert ended_long_before(make_listed("a", **fields), query) is is_long_before


def test_versions_match_of_digits_only_needs_equality() -> None:
    """Digits are hexadecimal too, but a build number must not match the next one."""
    assert not versions_match("20261123", "202611231")
    assert not versions_match("1" * 7, "1" * 40)
    assert versions_match("20261123", "20261123" + "c" * 32)
