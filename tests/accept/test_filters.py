"""The filter for wanted deployments."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.accept.filters import DeploymentFilter
from service.accept.mapping import Event, Ignored, Unmappable
from service.accept.payload import InvalidPayload
from tests.factories import make_event

NAMES = st.text(min_size=1, max_size=9)
EVENT = make_event(application="payments-api", delivery="d1", outcome="failed")


@given(NAMES, NAMES, st.sampled_from(["succeeded", "failed"]))
def test_empty_filter_rejects_nothing(application: str, environment: str, outcome: str) -> None:
    """A filter without names accepts every deployment."""
    names = {"application": application, "environment": environment, "outcome": outcome}
    assert DeploymentFilter().rejection_reason(**names) is None


@pytest.mark.parametrize(
    ("deployment_filter", "reason"),
    [
        (DeploymentFilter(applications=["payments-*"]), None),
        (DeploymentFilter(applications=["shop", "payments-api"], outcomes=["failed"]), None),
        (
            DeploymentFilter(applications=["payments", "Payments-*"]),
            "the application payments-api is not among ENRICHER_INCLUDE_APPLICATIONS",
        ),
        (
            DeploymentFilter(environments=["staging"]),
            "the environment production is not among ENRICHER_INCLUDE_ENVIRONMENTS",
        ),
        (
            DeploymentFilter(environments=["prod*"], outcomes=["succeeded"]),
            "the outcome failed is not among ENRICHER_INCLUDE_OUTCOMES",
        ),
    ],
)
def test_filter_requires_a_match_for_each_kind_of_name(
    deployment_filter: DeploymentFilter, reason: str | None
) -> None:
    """Names or patterns match with the case of letters."""
    expected = EVENT if reason is None else Ignored(reason, "d1")
    assert deployment_filter.apply(EVENT) == expected


def test_filter_accepts_unknown_names() -> None:
    """An event with an id alone has no names; LaunchDarkly will tell them."""
    event = msgspec.structs.replace(EVENT, application=None, environment=None, deployment_id="a")
    assert DeploymentFilter(applications=["shop"], environments=["staging"]).apply(event) is event


@pytest.mark.parametrize(
    "event",
    [Ignored("a ping", "d1"), Unmappable("odd", (), "d1", b"{}"), InvalidPayload("no JSON")],
)
def test_filter_leaves_other_events_unchanged(event: Event) -> None:
    """A filter is about completed deployments only."""
    assert DeploymentFilter(outcomes=["succeeded"]).apply(event) is event
