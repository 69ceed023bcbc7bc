"""Generated deployments and pull requests. Everything follows from a seed and an id.

Field names and meanings are those of LaunchDarkly's `DeploymentRep`, `PullRequestRep`,
`FlagReferenceRep`, `LeadTimeStagesRep` and `PullRequestLeadTimeRep` (OpenAPI of the beta
Insights routes). All times and durations are milliseconds.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import Struct
from typing import TypeVar
from uuid import UUID

import msgspec

from service.simulate.options import Json, Shape, SimulatedDeployment

T = TypeVar("T")

_NUMBERS = Struct("<16I")


class SeededRandom:
    """A sequence of random numbers that depends only on a seed and a name.

    Two simulators with the same seed return equal deployments, in whatever order the calls come.
    """

    def __init__(self, seed: int, *name: object) -> None:
        self._numbers = _generate_numbers("/".join(map(str, (seed, *name))).encode())

    def between(self, low: int, high: int) -> int:
        """Return the next number, from `low` to `high` inclusive."""
        return low + next(self._numbers) % (high - low + 1)

    def happens(self, probability: float) -> bool:
        """Return True with the given probability (0 to 1)."""
        return self.between(0, 999_999) < probability * 1_000_000

    def choose(self, choices: Sequence[T]) -> T:
        """Return one of the choices."""
        return choices[self.between(0, len(choices) - 1)]


def seeded_hex(seed: int, *name: object) -> str:
    """Return 40 hexadecimal digits, the length of a commit hash."""
    return blake2b("/".join(map(str, (seed, *name))).encode(), digest_size=20).hexdigest()


def seeded_uuid(seed: int, *name: object) -> str:
    """Return a UUID (version 4) that depends only on the seed and the name."""
    digest = blake2b("/".join(map(str, (seed, *name))).encode(), digest_size=16).digest()
    return str(UUID(bytes=digest, version=4))


def _generate_numbers(name: bytes) -> Iterator[int]:
    block = b""
    while True:
        block = blake2b(name, key=block).digest()
        yield from _NUMBERS.unpack(block)


MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

_LATEST_START_MS = 1_760_000_000_000
_APPLICATIONS = ("billing-service", "checkout", "identity", "search", "storefront")
_AUTHORS = ("ada", "barbara", "edsger", "frances", "grace", "katherine", "ken", "margaret")
_VERBS = ("Add", "Cache", "Enable", "Fix", "Measure", "Remove", "Rename", "Speed up")
_SUBJECTS = ("card retries", "dark mode", "payment structure", "the audit log", "the old search")
FLAG_KEYS = ("dark-mode", "enable-new-payment-structure", "fast-search", "retry-cards")


class StageDurations(msgspec.Struct, frozen=True, kw_only=True):
    """The four stages of a lead time: commit, pull request, merge, deploy start, deploy end."""

    coding: int
    review: int
    wait: int
    deploy: int

    @property
    def total(self) -> int:
        """The time from the first commit to the end of the deployment."""
        return self.coding + self.review + self.wait + self.deploy


class DeploymentTraits(msgspec.Struct, frozen=True, kw_only=True):
    """The values that all pull requests of one deployment share."""

    slowest: StageDurations
    base_lines: int
    first_author: int
    author_count: int


def generate_deployment(seed: int, identifier: str, shape: Shape) -> SimulatedDeployment:
    """Return a finished deployment. Equal seeds and ids give equal deployments."""
    rng = SeededRandom(seed, identifier)
    started_at = _LATEST_START_MS - rng.between(0, 30 * DAY_MS)
    return SimulatedDeployment(
        id=identifier,
        application=rng.choose(_APPLICATIONS),
        version=seeded_hex(seed, identifier, "version")[:7],
        started_at=started_at,
        ended_at=started_at + generate_duration_ms(seed, identifier),
        pull_requests=generate_pull_request_count(seed, identifier, shape),
        metadata={"buildNumber": str(rng.between(1_000, 9_999))},
    )


def generate_duration_ms(seed: int, identifier: str) -> int:
    """Return a duration for a deployment whose end time is unknown."""
    return SeededRandom(seed, identifier, "duration").between(MINUTE_MS, 40 * MINUTE_MS)


def generate_pull_request_count(seed: int, identifier: str, shape: Shape) -> int:
    """Return the number of pull requests of a deployment."""
    rng = SeededRandom(seed, identifier, "count")
    is_big = rng.happens(shape.big_share)
    return rng.between(*(shape.big_pull_requests if is_big else shape.pull_requests))


def generate_stages(seed: int, deployment: SimulatedDeployment, index: int) -> StageDurations:
    """Return the stages of one pull request. The pull request with index 0 is the slowest.

    A deployment's lead time is the longest lead time of its pull requests (LaunchDarkly's
    product docs, "lead time"), so the stages of a deployment are those of index 0.
    """
    slowest = _generate_traits(seed, deployment).slowest
    percent = (
        100 if index == 0 else SeededRandom(seed, deployment.id, "share", index).between(5, 95)
    )
    return StageDurations(
        coding=slowest.coding * percent // 100,
        review=slowest.review * percent // 100,
        wait=slowest.wait * percent // 100,
        deploy=slowest.deploy,
    )


def generate_flag_references(seed: int, project: str, owner_id: str, shape: Shape) -> list[Json]:
    """Return the flag references of an owner: the id of a deployment or of a pull request."""
    rng = SeededRandom(seed, owner_id, "flags")
    first = rng.between(0, len(FLAG_KEYS) - 1)
    references: list[Json] = []
    for number in range(rng.between(*shape.flag_references)):
        round_number, flag_index = divmod(first + number, len(FLAG_KEYS))
        reference: Json = {
            "projectKey": project,
            "flagKey": FLAG_KEYS[flag_index] + (f"-{round_number}" if round_number else ""),
            "referencesAdded": rng.between(0, 9),
            "referencesRemoved": rng.between(0, 9),
        }
        if shape.novelties:
            reference["searchTerm"] = f'flag("{reference["flagKey"]}")'
        references.append(reference)
    return references


def generate_deployment_fields(seed: int, deployment: SimulatedDeployment, shape: Shape) -> Json:
    """Return a `DeploymentRep` without expanded fields."""
    traits = _generate_traits(seed, deployment)
    stages = traits.slowest
    line_counts = [
        _lines_changed(traits.base_lines, index) for index in range(deployment.pull_requests)
    ]
    fields: Json = {
        "id": deployment.id,
        "applicationKey": deployment.application,
        "applicationVersion": deployment.version,
        "startedAt": deployment.started_at,
        "status": deployment.status,
        "kind": "redeployment",  # the only kind in LaunchDarkly's documentation
        "active": deployment.status != "failed",
        "metadata": deployment.metadata,
        "archived": False,
        "environmentKey": deployment.environment,
        "numberOfContributors": min(deployment.pull_requests, traits.author_count),
        "numberOfPullRequests": deployment.pull_requests,
        "linesAdded": sum(added for added, _ in line_counts),
        "linesDeleted": sum(deleted for _, deleted in line_counts),
        "leadTime": stages.total if deployment.pull_requests else 0,
    }
    if deployment.ended_at is not None:
        fields |= {"endedAt": deployment.ended_at, "durationMs": stages.deploy}
    if deployment.pull_requests:
        fields["leadTimeStages"] = _render_stages(stages, deployment, shape)
    if shape.novelties:
        fields |= {"riskScore": 0.25, "labels": ["blue", "green"]}
    return fields


def generate_pull_request(
    seed: int, deployment: SimulatedDeployment, index: int, shape: Shape
) -> Json:
    """Return a `PullRequestRep` without expanded fields."""
    identifier = seeded_uuid(seed, deployment.id, "pull request", index)
    rng = SeededRandom(seed, identifier)
    number = rng.between(100, 9_999)
    stages = generate_stages(seed, deployment, index)
    merged_at = deployment.started_at - stages.wait
    traits = _generate_traits(seed, deployment)
    added, deleted = _lines_changed(traits.base_lines, index)
    author_index = traits.first_author + index % traits.author_count
    pull_request: Json = {
        "id": identifier,
        "externalId": str(number),
        "title": f"{rng.choose(_VERBS)} {rng.choose(_SUBJECTS)}",
        "status": "merged",
        "author": _AUTHORS[author_index % len(_AUTHORS)],
        "createTime": merged_at - stages.review,
        "mergeTime": merged_at,
        "mergeCommitKey": deployment.version if index == 0 else seeded_hex(seed, identifier, "m"),
        "baseCommitKey": seeded_hex(seed, identifier, "base"),
        "headCommitKey": seeded_hex(seed, identifier, "head"),
        "filesChanged": rng.between(1, 30),
        "linesAdded": added,
        "linesDeleted": deleted,
        "url": f"https://github.com/example/{deployment.application}/pull/{number}",
    }
    if shape.novelties:
        pull_request["reviewers"] = [{"login": _AUTHORS[(author_index + 1) % len(_AUTHORS)]}]
    return pull_request


def render_lead_time(stages: StageDurations) -> Json:
    """Return a `PullRequestLeadTimeRep`. It is an object; a deployment's leadTime is a number."""
    return {
        "codingDurationMs": stages.coding,
        "reviewDurationMs": stages.review,
        "maxWaitDurationMs": stages.wait,
        "avgWaitDurationMs": stages.wait,
        "maxDeployDurationMs": stages.deploy,
        "avgDeployDurationMs": stages.deploy,
        "maxTotalLeadTimeMs": stages.total,
        "avgTotalLeadTimeMs": stages.total,
    }


def _render_stages(stages: StageDurations, deployment: SimulatedDeployment, shape: Shape) -> Json:
    rendered: Json = {
        "codingDurationMs": stages.coding,
        "reviewDurationMs": stages.review,
        "waitDurationMs": stages.wait,
    }
    if deployment.ended_at is not None:
        rendered |= {"deployDurationMs": stages.deploy, "totalLeadTimeMs": stages.total}
    if shape.novelties:
        rendered["approvalDurationMs"] = stages.review // 2
    return rendered


def _generate_traits(seed: int, deployment: SimulatedDeployment) -> DeploymentTraits:
    rng = SeededRandom(seed, deployment.id, "traits")
    ended_at = deployment.ended_at
    return DeploymentTraits(
        slowest=StageDurations(
            coding=rng.between(HOUR_MS, 72 * HOUR_MS),
            review=rng.between(10 * MINUTE_MS, 48 * HOUR_MS),
            wait=rng.between(MINUTE_MS, 12 * HOUR_MS),
            deploy=0 if ended_at is None else ended_at - deployment.started_at,
        ),
        base_lines=rng.between(0, 400),
        first_author=rng.between(0, len(_AUTHORS) - 1),
        author_count=rng.between(1, len(_AUTHORS)),
    )


def _lines_changed(base: int, index: int) -> tuple[int, int]:
    return 10 + (base + 37 * index) % 400, (base + 53 * index) % 200
