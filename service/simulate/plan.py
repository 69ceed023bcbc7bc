"""What a simulated CD system does next: it releases, fails, repairs, rolls back and flips flags.

Everything follows from the random numbers that the plan is given.
"""

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import Literal

from msgspec import Struct

from service.simulate.generator import FLAG_KEYS

PLAN_PROJECT = "default"
PLAN_APPLICATIONS = ("billing-service", "checkout", "search", "web-frontend", "mobile-api")
PLAN_ENVIRONMENTS = ("production", "staging")

_REPEATED_SHARE = 0.15  # share of webhooks that are sent twice, as real senders do
_SCOPES = tuple(product(PLAN_ENVIRONMENTS, PLAN_APPLICATIONS))
_BATCH_EVERY, _BATCH_SIZE = 14, len(_SCOPES)  # one merge often deploys many services
_FAILED_SHARE, _ROLLBACK_SHARE, _REDEPLOYMENT_SHARE = 0.12, 0.08, 0.05
_RERUN_SHARE, _REPAIR_BY_ROLLBACK_SHARE = 0.45, 0.35  # what follows a failure; else a new version
_FLAG_CHANGES_PER_STEP = 0.15
_MAX_VERSIONS = 20  # that one application may go back to

Act = Literal["release", "failure", "rerun", "rollback", "redeployment"]


class PlannedDeployment(Struct, frozen=True, kw_only=True):
    """One deployment to report, and its webhook, which is posted ``post_count`` times."""

    act: Act
    environment: str
    application: str
    version: str
    succeeds: bool
    run: int
    delivery: str
    post_count: int


class PlannedFlagChange(Struct, frozen=True, kw_only=True):
    """A flag that is turned on or off in an environment, by a member."""

    environment: str
    flag_key: str
    is_on: bool
    member_email: str


class PlanStep(Struct, frozen=True):
    """What is done at once: one deployment or a batch, and the flag changes after it."""

    deployments: Sequence[PlannedDeployment]
    flag_changes: Sequence[PlannedFlagChange]


class DeploymentPlan:
    """Draws one step after another from ``rng``."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._drawn = 0
        self._running: dict[tuple[str, str], list[str]] = {}  # the versions that succeeded
        self._failed: dict[tuple[str, str], str] = {}  # the version that failed last
        self._flags_on: set[tuple[str, str]] = set()

    def draw_step(self, *, max_deployments: int = _BATCH_SIZE) -> PlanStep:
        """Return the next step; a batch deploys everything once, or ``max_deployments``."""
        is_batch = self._drawn % _BATCH_EVERY == _BATCH_EVERY // 2
        count = min(_BATCH_SIZE if is_batch else 1, max_deployments)
        scopes = self._rng.sample(_SCOPES, count)
        deployments = [self._draw_deployment(scope) for scope in scopes]
        self._drawn += count
        has_flag_change = self._rng.random() < _FLAG_CHANGES_PER_STEP
        return PlanStep(deployments, [self._draw_flag_change()] if has_flag_change else [])

    def _draw_deployment(self, scope: tuple[str, str]) -> PlannedDeployment:
        rng = self._rng
        act = self._draw_act(scope)
        version = self._draw_version(scope, act)
        if act == "failure":
            self._failed[scope] = version
        else:
            self._failed.pop(scope, None)
            self._note_success(scope, version)
        return PlannedDeployment(
            act=act,
            environment=scope[0],
            application=scope[1],
            version=version,
            succeeds=act != "failure",
            run=rng.randrange(1000, 9999),
            delivery=f"demo-{rng.getrandbits(64):016x}",
            post_count=2 if rng.random() < _REPEATED_SHARE else 1,
        )

    def _draw_act(self, scope: tuple[str, str]) -> Act:
        roll, versions = self._rng.random(), self._running.get(scope, [])
        if scope in self._failed:
            if roll < _RERUN_SHARE:
                return "rerun"
            can_go_back = bool(versions) and roll < _RERUN_SHARE + _REPAIR_BY_ROLLBACK_SHARE
            return "rollback" if can_go_back else "release"
        if roll < _FAILED_SHARE:
            return "failure"
        roll -= _FAILED_SHARE
        if roll < _ROLLBACK_SHARE:
            return "rollback" if len(versions) > 1 else "release"
        roll -= _ROLLBACK_SHARE
        return "redeployment" if roll < _REDEPLOYMENT_SHARE and versions else "release"

    def _draw_version(self, scope: tuple[str, str], act: Act) -> str:
        match act:
            case "rerun":
                return self._failed[scope]
            case "redeployment":
                return self._running[scope][-1]
            case "rollback":
                return self._running[scope][-1 if scope in self._failed else -2]
            case _:
                return f"{self._rng.getrandbits(160):040x}"

    def _note_success(self, scope: tuple[str, str], version: str) -> None:
        """Make a version the current one; a version that is rolled back is not gone back to."""
        versions = self._running.setdefault(scope, [])
        if version in versions:
            del versions[versions.index(version) + 1 :]
        else:
            versions.append(version)
            del versions[:-_MAX_VERSIONS]

    def _draw_flag_change(self) -> PlannedFlagChange:
        rng = self._rng
        flag = rng.choice(PLAN_ENVIRONMENTS), rng.choice(FLAG_KEYS)
        self._flags_on ^= {flag}
        return PlannedFlagChange(
            environment=flag[0],
            flag_key=flag[1],
            is_on=flag in self._flags_on,
            member_email=f"{rng.choice(('ada', 'grace', 'ken'))}@example.com",
        )
