"""Tests of the plan of the simulated pipeline: by its seed, with each act, and consistent."""

from collections import Counter
from random import Random

import pytest

from service.simulate.generator import FLAG_KEYS
from service.simulate.pipeline import build_event, build_flag_event
from service.simulate.plan import DeploymentPlan, PlannedDeployment, PlanStep


def draw_steps(seed: int, count: int) -> list[PlanStep]:
    """Return the first steps of the plan of a seed."""
    plan = DeploymentPlan(Random(seed))
    return [plan.draw_step() for _ in range(count)]


def draw_deployments(seed: int, count: int) -> list[PlannedDeployment]:
    """Return the deployments of the first steps."""
    return [deployment for step in draw_steps(seed, count) for deployment in step.deployments]


def test_plan_follows_from_its_seed() -> None:
    """The same seed gives the same deployments and flag changes, another seed others."""
    assert draw_steps(7, 100) == draw_steps(7, 100)
    assert draw_steps(7, 100) != draw_steps(8, 100)


@pytest.mark.parametrize("seed", range(5))
def test_plan_has_each_act_and_both_ways_of_a_flag(seed: int) -> None:
    """Within the first minutes of a demo all of them are seen; most deployments are releases."""
    steps = draw_steps(seed, 200)
    acts = Counter(deployment.act for step in steps for deployment in step.deployments)
    assert acts.keys() == {"release", "failure", "rerun", "rollback", "redeployment"}
    assert acts["release"] > sum(acts.values()) / 2
    flags = [change for step in steps for change in step.flag_changes]
    assert {change.is_on for change in flags} == {True, False}
    assert {change.flag_key for change in flags} == {*FLAG_KEYS}


@pytest.mark.parametrize("seed", range(20))
def test_each_act_is_true_of_what_ran_before(seed: int) -> None:
    """A rerun follows a failure, a rollback goes to a version that ran, a release to a new one."""
    last: dict[tuple[str, str], PlannedDeployment] = {}
    ran: dict[tuple[str, str], set[str]] = {}
    for deployment in draw_deployments(seed, 300):
        scope = deployment.environment, deployment.application
        before, versions = last.get(scope), ran.setdefault(scope, set())
        match deployment.act:
            case "rerun":
                assert before is not None
                assert (before.succeeds, before.version) == (False, deployment.version)
            case "redeployment":
                assert before is not None
                assert (before.succeeds, before.version) == (True, deployment.version)
            case "rollback":
                assert before is not None
                assert deployment.version in versions - {before.version}
            case _:
                assert deployment.version not in versions
        if deployment.succeeds:
            versions.add(deployment.version)
        last[scope] = deployment


def test_batch_is_cut_to_the_number_that_is_left() -> None:
    """The demo ends after the requested number of deployments."""
    plan = DeploymentPlan(Random(1))
    sizes: list[int] = []
    while sum(sizes) < 30:
        sizes.append(len(plan.draw_step(max_deployments=30 - sum(sizes)).deployments))
    assert sum(sizes) == 30
    assert max(sizes) == 10
    assert len(plan.draw_step(max_deployments=1).deployments) == 1


def test_batch_deploys_each_application_once() -> None:
    """Two deployments of one application at the same moment would end a failure within a ms."""
    for step in draw_steps(1, 100):
        scopes = [(item.environment, item.application) for item in step.deployments]
        assert len(scopes) == len(set(scopes))


def test_events_say_what_happened() -> None:
    """A failed deployment is reported as failed, a flag as turned on or off."""
    deployments = draw_deployments(3, 200)
    types = {item.succeeds: build_event(item, time_ms=5)["eventType"] for item in deployments}
    assert types == {True: "finished", False: "failed"}
    changes = [change for step in draw_steps(3, 200) for change in step.flag_changes]
    flag_types = {item.is_on: build_flag_event(item, time_ms=5)["eventType"] for item in changes}
    assert flag_types == {True: "enabled_targeting", False: "disabled_targeting"}
    assert build_flag_event(changes[0], time_ms=5)["eventTime"] == 5
