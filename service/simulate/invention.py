"""What does a deployment that nobody made look like? Everything follows from its seed and id.

Field names and meanings are those of LaunchDarkly's `DeploymentRep`, `PullRequestRep`,
`FlagReferenceRep`, `LeadTimeStagesRep` and `PullRequestLeadTimeRep` (OpenAPI of the beta
Insights routes). All times and durations are milliseconds.
"""

import msgspec

from service.simulate.deployment import Deployment, Json, Shape
from service.simulate.draws import Draws, draw_hex, draw_uuid

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH = 1_760_000_000_000
_APPLICATIONS = ("billing-service", "checkout", "identity", "search", "storefront")
_AUTHORS = ("ada", "barbara", "edsger", "frances", "grace", "katherine", "ken", "margaret")
_VERBS = ("Add", "Cache", "Enable", "Fix", "Measure", "Remove", "Rename", "Speed up")
_THINGS = ("card retries", "dark mode", "payment structure", "the audit log", "the old search")
_FLAGS = ("dark-mode", "enable-new-payment-structure", "fast-search", "retry-cards")


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """The four stages of a lead time: commit, pull request, merge, deploy start, deploy end."""

    coding: int
    review: int
    wait: int
    deploy: int

    @property
    def total(self) -> int:
        """From the first commit to the end of the deployment."""
        return self.coding + self.review + self.wait + self.deploy


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What the pull requests of one deployment have in common."""

    slowest: Stages
    lines: int
    first_author: int
    authors: int


def invent_deployment(seed: int, identifier: str, shape: Shape) -> Deployment:
    """Make up a finished deployment, the same one for the same seed and id."""
    draws = Draws(seed, identifier)
    started_at = _EPOCH - draws.between(0, 30 * DAY)
    return Deployment(
        id=identifier,
        application=draws.choose(_APPLICATIONS),
        version=draw_hex(seed, identifier, "version")[:7],
        started_at=started_at,
        ended_at=started_at + invent_duration(seed, identifier),
        pull_requests=count_pull_requests(seed, identifier, shape),
        metadata={"buildNumber": str(draws.between(1_000, 9_999))},
    )


def invent_duration(seed: int, identifier: str) -> int:
    """Say how long a deployment took, when nobody measured it."""
    return Draws(seed, identifier, "duration").between(MINUTE, 40 * MINUTE)


def count_pull_requests(seed: int, identifier: str, shape: Shape) -> int:
    """Say how many pull requests a deployment carried."""
    draws = Draws(seed, identifier, "count")
    big = draws.happens(shape.big_share)
    return draws.between(*(shape.big_pull_requests if big else shape.pull_requests))


def invent_stages(seed: int, deployment: Deployment, index: int) -> Stages:
    """Give the stages of one pull request; the first one is always the slowest.

    A deployment's lead time is the longest one of its pull requests (LaunchDarkly's product
    docs, "lead time"), so a deployment's own stages are those of index 0.
    """
    slowest = _draw_traits(seed, deployment).slowest
    share = 100 if index == 0 else Draws(seed, deployment.id, "share", index).between(5, 95)
    return Stages(
        coding=slowest.coding * share // 100,
        review=slowest.review * share // 100,
        wait=slowest.wait * share // 100,
        deploy=slowest.deploy,
    )


def invent_flag_references(seed: int, project: str, owner: str, shape: Shape) -> list[Json]:
    """List the flags that a deployment or a pull request (the owner, an id) touched."""
    draws = Draws(seed, owner, "flags")
    first = draws.between(0, len(_FLAGS) - 1)
    references: list[Json] = []
    for number in range(draws.between(*shape.flag_references)):
        turn, place = divmod(first + number, len(_FLAGS))
        reference: Json = {
            "projectKey": project,
            "flagKey": _FLAGS[place] + (f"-{turn}" if turn else ""),
            "referencesAdded": draws.between(0, 9),
            "referencesRemoved": draws.between(0, 9),
        }
        if shape.novelties:
            reference["searchTerm"] = f'flag("{reference["flagKey"]}")'
        references.append(reference)
    return references


def invent_facts(seed: int, deployment: Deployment, shape: Shape) -> Json:
    """Write a `DeploymentRep` as the API tells it when nothing is expanded."""
    traits = _draw_traits(seed, deployment)
    stages = traits.slowest
    sizes = [_measure_lines(traits.lines, index) for index in range(deployment.pull_requests)]
    facts: Json = {
        "id": deployment.id,
        "applicationKey": deployment.application,
        "applicationVersion": deployment.version,
        "startedAt": deployment.started_at,
        "status": deployment.status,
        "kind": "redeployment",  # the only kind that LaunchDarkly's documents name
        "active": deployment.status != "failed",
        "metadata": deployment.metadata,
        "archived": False,
        "environmentKey": deployment.environment,
        "numberOfContributors": min(deployment.pull_requests, traits.authors),
        "numberOfPullRequests": deployment.pull_requests,
        "linesAdded": sum(added for added, _ in sizes),
        "linesDeleted": sum(deleted for _, deleted in sizes),
        "leadTime": stages.total if deployment.pull_requests else 0,
    }
    if deployment.ended_at is not None:
        facts |= {"endedAt": deployment.ended_at, "durationMs": stages.deploy}
    if deployment.pull_requests:
        facts["leadTimeStages"] = _write_stages(stages, deployment, shape)
    if shape.novelties:
        facts |= {"riskScore": 0.25, "labels": ["blue", "green"]}
    return facts


def invent_pull_request(seed: int, deployment: Deployment, index: int, shape: Shape) -> Json:
    """Write a `PullRequestRep` as the API tells it when nothing is expanded."""
    identifier = draw_uuid(seed, deployment.id, "pull request", index)
    draws = Draws(seed, identifier)
    number = draws.between(100, 9_999)
    stages = invent_stages(seed, deployment, index)
    merged_at = deployment.started_at - stages.wait
    traits = _draw_traits(seed, deployment)
    added, deleted = _measure_lines(traits.lines, index)
    author = traits.first_author + index % traits.authors
    pull_request: Json = {
        "id": identifier,
        "externalId": str(number),
        "title": f"{draws.choose(_VERBS)} {draws.choose(_THINGS)}",
        "status": "merged",
        "author": _AUTHORS[author % len(_AUTHORS)],
        "createTime": merged_at - stages.review,
        "mergeTime": merged_at,
        "mergeCommitKey": deployment.version if index == 0 else draw_hex(seed, identifier, "m"),
        "baseCommitKey": draw_hex(seed, identifier, "base"),
        "headCommitKey": draw_hex(seed, identifier, "head"),
        "filesChanged": draws.between(1, 30),
        "linesAdded": added,
        "linesDeleted": deleted,
        "url": f"https://github.com/example/{deployment.application}/pull/{number}",
    }
    if shape.novelties:
        pull_request["reviewers"] = [{"login": _AUTHORS[(author + 1) % len(_AUTHORS)]}]
    return pull_request


def invent_lead_time(stages: Stages) -> Json:
    """Write a `PullRequestLeadTimeRep`: an object, where a deployment's leadTime is a number."""
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


def _write_stages(stages: Stages, deployment: Deployment, shape: Shape) -> Json:
    written: Json = {
        "codingDurationMs": stages.coding,
        "reviewDurationMs": stages.review,
        "waitDurationMs": stages.wait,
    }
    if deployment.ended_at is not None:
        written |= {"deployDurationMs": stages.deploy, "totalLeadTimeMs": stages.total}
    if shape.novelties:
        written["approvalDurationMs"] = stages.review // 2
    return written


def _draw_traits(seed: int, deployment: Deployment) -> Traits:
    draws = Draws(seed, deployment.id, "traits")
    ended_at = deployment.ended_at
    return Traits(
        slowest=Stages(
            coding=draws.between(HOUR, 72 * HOUR),
            review=draws.between(10 * MINUTE, 48 * HOUR),
            wait=draws.between(MINUTE, 12 * HOUR),
            deploy=0 if ended_at is None else ended_at - deployment.started_at,
        ),
        lines=draws.between(0, 400),
        first_author=draws.between(0, len(_AUTHORS) - 1),
        authors=draws.between(1, len(_AUTHORS)),
    )


def _measure_lines(base: int, index: int) -> tuple[int, int]:
    return 10 + (base + 37 * index) % 400, (base + 53 * index) % 200
