"""Is what is wanted sent, and nothing else ignored?"""

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
def test_nothing_named_wants_everything(application: str, environment: str, outcome: str) -> None:
    """Where nothing is chosen all is sent."""
    told = {"application": application, "environment": environment, "outcome": outcome}
    assert DeploymentFilter().rejection_reason(**told) is None


@pytest.mark.parametrize(
    ("only", "objection"),
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
def test_every_kind_of_name_must_be_wanted(only: DeploymentFilter, objection: str | None) -> None:
    """Names as they are or as patterns, big and small letters told apart."""
    expected = EVENT if objection is None else Ignored(objection, "d1")
    assert only.apply(EVENT) == expected


def test_a_name_that_is_not_known_yet_is_no_objection() -> None:
    """An event with an id alone says too little: LaunchDarkly will tell."""
    event = msgspec.structs.replace(EVENT, application=None, environment=None, deployment_id="a")
    assert DeploymentFilter(applications=["shop"], environments=["staging"]).apply(event) is event


@pytest.mark.parametrize(
    "event",
    [Ignored("a ping", "d1"), Unmappable("odd", (), "d1", b"{}"), InvalidPayload("no JSON")],
)
def test_what_tells_of_no_deployment_stays_as_it_is(event: Event) -> None:
    """Only deployments are chosen among."""
    assert DeploymentFilter(outcomes=["succeeded"]).apply(event) is event
