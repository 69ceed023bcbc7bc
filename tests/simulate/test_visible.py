"""Test the sorted index of visible deployments against a plain list."""

from hypothesis import given
from hypothesis import strategies as st

from service.simulate.options import SimulatedDeployment
from service.simulate.visible import DeploymentRange, VisibleDeployments, VisibleVersion

TIMES = st.integers(0, 9)


@st.composite
def versions(draw: st.DrawFn) -> VisibleVersion:
    """Return a version of one of a few deployments; their starts and environments may change."""
    deployment = SimulatedDeployment(
        id=draw(st.sampled_from("abc")),
        project=draw(st.sampled_from("pq")),
        environment=draw(st.sampled_from("xy")),
        application=draw(st.sampled_from("uv")),
        version=str(draw(st.integers())),
        started_at=draw(TIMES),
        pull_requests=0,
    )
    return VisibleVersion(visible_at=draw(TIMES), deployment=deployment)


@given(
    added=st.lists(versions()),
    nows=st.lists(TIMES).map(sorted),
    selection=st.builds(
        DeploymentRange,
        project=st.just("p"),
        environment=st.sampled_from(["", "x", "y"]),
        applications=st.frozensets(st.sampled_from("uv")),
        start=TIMES,
        end=TIMES,
    ),
)
def test_list_equals_a_search_through_all_versions(
    added: list[VisibleVersion], nows: list[int], selection: DeploymentRange
) -> None:
    """At each time the last visible version of each deployment is listed, newest start first."""
    visible = VisibleDeployments()
    for version in added:
        visible.add(version)
    for now in nows:
        shown = {
            version.deployment.id: version
            for version in sorted(added, key=lambda version: version.visible_at)
            if version.visible_at <= now
        }
        expected = [
            version
            for version in shown.values()
            if version.deployment.project == "p"
            and selection.environment in {"", version.deployment.environment}
            and version.deployment.application in (selection.applications or "uv")
            and selection.start <= version.deployment.started_at <= selection.end
        ]
        expected.sort(key=lambda version: (-version.deployment.started_at, version.deployment.id))
        assert visible.list_started(selection, now) == expected
        assert all(visible.get(name, now) == shown.get(name) for name in "abc")
