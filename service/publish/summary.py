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
    pull_requests = deployment.pull_requests
    items = [
        item for item in (pull_requests.items if pull_requests else None) or () if item is not None
    ]
    stages = list_stages(deployment)
    return Summary(
        authors=sorted({item.author for item in items if item.author}),
        pull_requests=[
            PullRequestSummary(item.external_id, item.title, item.author, item.url)
            for item in items
        ],
        flags=sum_flag_references(deployment, items),
        lead_time_ms=deployment.lead_time,
        stages=stages,
        slowest_stage=max(stages, key=lambda stage: stage.duration_ms).name if stages else None,
    )


def list_stages(deployment: Deployment) -> list[Stage]:
    """List the stages whose length is told, in the order of work."""
    lead_time_stages = deployment.lead_time_stages
    if lead_time_stages is None:
        return []
    durations: dict[Literal["coding", "review", "wait", "deploy"], int | None] = {
        "coding": lead_time_stages.coding_duration_ms,
        "review": lead_time_stages.review_duration_ms,
        "wait": lead_time_stages.wait_duration_ms,
        "deploy": lead_time_stages.deploy_duration_ms,
    }
    return [
        Stage(name, duration_ms)
        for name, duration_ms in durations.items()
        if duration_ms is not None
    ]


def sum_flag_references(deployment: Deployment, items: list[PullRequest]) -> list[TouchedFlag]:
    """Sum references by flag: as the deployment tells them, else as its pull requests do."""
    flag_references = deployment.flag_references
    references = (flag_references.items if flag_references else None) or [
        reference
        for item in items
        if item.flag_references is not None
        for reference in item.flag_references.items or ()
    ]
    counts_by_flag: dict[tuple[str | None, str], list[int]] = defaultdict(lambda: [0, 0])
    for reference in references:
        if reference is not None and reference.flag_key is not None:
            counts = counts_by_flag[reference.project_key, reference.flag_key]
            counts[0] += reference.references_added or 0
            counts[1] += reference.references_removed or 0
    return [
        TouchedFlag(project, key, *added_and_removed)
        for (project, key), added_and_removed in counts_by_flag.items()
    ]
