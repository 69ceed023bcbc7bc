"""What do most readers look for? Authors, pull requests, flags and lead time, at a glance."""

from collections import defaultdict
from typing import Literal

from msgspec import Struct

from service.enrich.deployment import Deployment, PullRequest


class TouchedFlag(Struct, frozen=True):
    """One flag, and how many references to it were added and removed."""

    project: str | None
    key: str
    added: int
    removed: int


class Stage(Struct, frozen=True, rename="camel"):
    """One stage of the lead time, in ms."""

    name: Literal["coding", "review", "wait", "deploy"]
    duration_ms: int


class PullRequestSummary(Struct, frozen=True):
    """One pull request in a line."""

    number: str | None
    title: str | None
    author: str | None
    url: str | None


class Summary(Struct, frozen=True, rename="camel"):
    """What most readers look for, so that they need not dig."""

    authors: list[str]
    pull_requests: list[PullRequestSummary]
    flags: list[TouchedFlag]
    lead_time_ms: int | None
    stages: list[Stage]
    slowest_stage: str | None


def summarize(deployment: Deployment) -> Summary:
    """Gather authors, flags and lead time of a deployment."""
    pulls = deployment.pull_requests
    items = [item for item in (pulls.items if pulls else None) or () if item is not None]
    stages = list_stages(deployment)
    return Summary(
        authors=sorted({item.author for item in items if item.author}),
        pull_requests=[
            PullRequestSummary(item.external_id, item.title, item.author, item.url)
            for item in items
        ],
        flags=sum_flags(deployment, items),
        lead_time_ms=deployment.lead_time,
        stages=stages,
        slowest_stage=max(stages, key=lambda stage: stage.duration_ms).name if stages else None,
    )


def list_stages(deployment: Deployment) -> list[Stage]:
    """List the stages whose length is told, in the order of work."""
    told = deployment.lead_time_stages
    if told is None:
        return []
    lengths: dict[Literal["coding", "review", "wait", "deploy"], int | None] = {
        "coding": told.coding_duration_ms,
        "review": told.review_duration_ms,
        "wait": told.wait_duration_ms,
        "deploy": told.deploy_duration_ms,
    }
    return [Stage(name, length) for name, length in lengths.items() if length is not None]


def sum_flags(deployment: Deployment, items: list[PullRequest]) -> list[TouchedFlag]:
    """Sum references by flag: as the deployment tells them, else as its pull requests do."""
    flags = deployment.flag_references
    told = (flags.items if flags else None) or [
        reference
        for item in items
        if item.flag_references is not None
        for reference in item.flag_references.items or ()
    ]
    sums: dict[tuple[str | None, str], list[int]] = defaultdict(lambda: [0, 0])
    for reference in told:
        if reference is not None and reference.flag_key is not None:
            added_removed = sums[reference.project_key, reference.flag_key]
            added_removed[0] += reference.references_added or 0
            added_removed[1] += reference.references_removed or 0
    return [TouchedFlag(project, key, *pair) for (project, key), pair in sums.items()]
