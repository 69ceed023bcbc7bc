"""The outgoing contract: one enriched record, as downstream services read it."""

from collections import defaultdict
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from ..enrich.models import (
    UNREADABLE_PART,
    Deployment,
    FlagReferences,
    NestedDeployments,
    PullRequest,
    PullRequests,
    lacks_items,
)
from ..enrich.steps import Steps

_REFERENCES_PER_STEP, _ITEMS_PER_STEP = 4096, 1024


class TouchedFlag(Struct, frozen=True, gc=False):
    """A flag, with the number of references to it that were added and removed."""

    project: str | None
    key: str
    added: int
    removed: int


class Stage(Struct, frozen=True, rename="camel"):
    """One stage of the lead time; its duration is in ms."""

    name: Literal["coding", "review", "wait", "deploy"]
    duration_ms: int


class PullRequestSummary(Struct, frozen=True, gc=False):
    """The fields that identify one pull request."""

    number: str | None
    title: str | None
    author: str | None
    url: str | None


class Summary(Struct, frozen=True, rename="camel"):
    """The values that most readers need, taken from the deployment. Times are in ms."""

    authors: list[str]
    pull_requests: list[PullRequestSummary]
    flags: list[TouchedFlag]
    lead_time_ms: int | None
    stages: list[Stage]
    slowest_stage: str | None


class PullRequestLink(Struct, frozen=True, gc=False):
    """The page of one pull request."""

    number: str | None
    url: str


class FlagLink(Struct, frozen=True, gc=False):
    """The page of one flag in LaunchDarkly, for the environment of the deployment."""

    key: str
    url: str


class Links(Struct, frozen=True, rename="camel"):
    """Pages about the deployment: of its pull requests, and of the flags that it touched.

    What has no certain URL is left out: a flag of another project, or of an unknown one.
    """

    pull_requests: tuple[PullRequestLink, ...] = ()
    flags: tuple[FlagLink, ...] = ()


def summarize(deployment: Deployment) -> Steps[Summary]:
    """Return the authors, pull requests, flags and lead time of a deployment."""
    pull_requests = deployment.pull_requests
    items = [
        item for item in (pull_requests.items if pull_requests else None) or () if item is not None
    ]
    stages = list_stages(deployment)
    flags = yield from sum_flag_references(deployment, items)
    return Summary(
        authors=sorted({item.author for item in items if item.author}),
        pull_requests=[
            PullRequestSummary(item.external_id, item.title, item.author, item.url)
            for item in items
        ],
        flags=flags,
        lead_time_ms=deployment.lead_time,
        stages=stages,
        slowest_stage=max(stages, key=lambda stage: stage.duration_ms).name if stages else None,
    )


def list_stages(deployment: Deployment) -> list[Stage]:
    """Return the stages whose duration LaunchDarkly reports, in the order of work."""
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


def sum_flag_references(
    deployment: Deployment, items: list[PullRequest]
) -> Steps[list[TouchedFlag]]:
    """Return the references by flag: those of the deployment, else those of its pull requests."""
    flag_references = deployment.flag_references
    references = (flag_references.items if flag_references else None) or [
        reference
        for item in items
        if item.flag_references is not None
        for reference in item.flag_references.items or ()
    ]
    counts_by_flag: dict[tuple[str | None, str], list[int]] = defaultdict(lambda: [0, 0])
    for position, reference in enumerate(references, 1):
        if not position % _REFERENCES_PER_STEP:
            yield
        if reference is not None and reference.flag_key is not None:
            counts = counts_by_flag[reference.project_key, reference.flag_key]
            counts[0] += reference.references_added or 0
            counts[1] += reference.references_removed or 0
    return [
        TouchedFlag(project, key, *added_and_removed)
        for (project, key), added_and_removed in counts_by_flag.items()
    ]


RECORD_TYPE = "deployment.enriched.v1"
DATA_SCHEMA_PATH = "/schemas/enriched-deployment.v1.json"
DATA_SCHEMA_ID = "urn:deployment-enricher:enriched-deployment.v1"
"""The ``$id`` of the schema: CloudEvents allows no relative reference in ``dataschema``."""
JSON_CONTENT_TYPE = "application/json"


class Count(Struct, frozen=True, omit_defaults=True):
    """The items that LaunchDarkly counts (null if it does not say), and those in the record."""

    expected: int | None
    present: int


class FlagEventsCompleteness(Struct, frozen=True):
    """Whether ``flagEvents`` holds every event until this refresh, and if not, the reason."""

    complete: bool
    reason: str | UnsetType = UNSET


class Completeness(Struct, frozen=True, rename="camel"):
    """Whether the record holds everything that LaunchDarkly counts, and if not, the reason.

    ``nested`` sums the deployments and flag references inside the pull requests. ``flag_events`` is
    there only if they were asked for; ``complete`` does not count them.
    """

    complete: bool
    pull_requests: Count
    flag_references: Count
    nested: Count
    reason: str | UnsetType = UNSET
    unreadable_fields: (
        Annotated[
            tuple[str, ...],
            Meta(
                description="Fields of `deployment` of another type than documented, as paths like "
                "`pullRequests.items[].externalId`; `deployment` has them as sent, and "
                "`summary` lacks them"
            ),
        ]
        | UnsetType
    ) = UNSET
    flag_events: FlagEventsCompleteness | UnsetType = UNSET


class FlagEvent(Struct, frozen=True, rename="camel"):
    """What happened to a flag that the deployment touched, after its end.

    ``event_time`` is epoch ms. ``event_type`` is LaunchDarkly's, such as ``enabled_targeting``.
    ``audit_log_entry_id`` leads to who did it.
    """

    flag_key: str
    event_type: str | None
    event_time: int
    description: str | None
    impact: Annotated[
        Raw,
        Meta(
            description="LaunchDarkly's own JSON: how many evaluations changed; null if it sent "
            "none. The `reason` `waiting` means that it is not computed yet",
            extra_json_schema={
                "type": ["object", "null"],
                "properties": {
                    "size": {"description": "none, small, medium or large"},
                    "percentage": {"description": "Share of the evaluations that changed"},
                    "reason": {"description": "evaluations, global or waiting"},
                    "evaluationsSummary": {"description": "Evaluations before and after"},
                },
                "additionalProperties": True,
            },
        ),
    ]
    audit_log_entry_id: str | None
    member_email: (
        Annotated[str, Meta(description="Who did it; only with ENRICHER_FLAG_EVENT_MEMBERS")]
        | UnsetType
    ) = UNSET


class PreviousDeployment(Struct, frozen=True, rename="camel"):
    """The deployment that ended before this one; ``version`` is null if nobody knows it.

    ``ended_at`` is epoch ms.
    """

    deployment_id: str
    version: str | None
    ended_at: int
    outcome: Literal["succeeded", "failed"]


class Recovery(Struct, frozen=True, rename="camel"):
    """The end of a failure: the deployment that began it, when (epoch ms), and its duration (ms).

    It began with the first of the deployments that failed in a row before this one, or with the
    previous one if this one rolled it back.
    """

    failed_deployment_id: str
    failed_at: int
    after_ms: int


class Change(Struct, frozen=True, rename="camel"):
    """What the deployment changed in its environment, by the deployments that ended before it.

    ``redeployment``: it has the version of the previous one. ``rollback``: it has another version,
    which succeeded before the previous one.
    """

    previous: PreviousDeployment | None
    since_previous_ms: int | None
    redeployment: bool
    rollback: bool
    recovery: Recovery | None


class RefreshProgress(Struct, frozen=True):
    """How often the deployment was refreshed since its first record, and the end of refreshing.

    ``until`` is the last planned refresh (epoch ms), null when none is planned. A refresh makes the
    next revision if the content or the change is another one, and no record if neither is.
    """

    done: int = 0
    until: int | None = None


class SourceEvent(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The webhook that caused the record. Times are epoch ms.

    ``metadataDropped`` is true when the webhook had metadata that was too large or not JSON.
    ``reportedAt`` is when this service reported the deployment to LaunchDarkly (``report = true``).
    """

    source: str
    delivery: str
    received_at: int
    outcome: str
    event_time: int | None
    metadata: Raw
    metadata_dropped: bool = False
    reported_at: int | None = None


class EnrichedDeployment(Struct, frozen=True, rename="camel", kw_only=True):
    """The ``data`` of one stream entry.

    ``deployment`` is LaunchDarkly's own JSON: every page merged, unknown fields byte for byte.
    ``change`` is null if it is not known. ``flag_events`` are in order of time; null if nobody
    asked for them, or none could be read. The first three fields must stay first: the script that
    appends inserts revision and change.
    """

    schema_version: Literal[1] = 1
    revision: int = 0
    change: Change | None = None  # older records lack it
    enriched_at: int
    attempts: int
    deployment: Raw
    summary: Summary
    links: Links = Links()  # older records lack it
    flag_events: tuple[FlagEvent, ...] | None = None  # older records lack it
    completeness: Completeness
    refreshes: RefreshProgress = RefreshProgress()  # older records lack it
    event: SourceEvent


class Attributes(Struct, frozen=True, kw_only=True, rename=lambda name: name.replace("_", "")):
    """The fields of an entry besides ``data``, all text: CloudEvents attributes, then routing."""

    id: Annotated[str, Meta(description="Deployment id and revision; unique")]
    spec_version: Annotated[str, Meta(description="Version of CloudEvents: 1.0")]
    source: Annotated[str, Meta(description="/deployment-enricher/ and the name of the source")]
    type: Annotated[str, Meta(description=f"{RECORD_TYPE}; a new major version gets a new type")]
    subject: Annotated[str, Meta(description="The deployment's id")]
    time: Annotated[str, Meta(description="End of the deployment, RFC 3339, UTC")]
    data_content_type: Annotated[str, Meta(description=f"Media type of data: {JSON_CONTENT_TYPE}")]
    data_schema: Annotated[str, Meta(description="The $id of the schema of data, an absolute URI")]
    project_key: Annotated[str, Meta(description="Empty if the webhook did not name it")]
    environment_key: str
    application_key: str
    revision: Annotated[str, Meta(pattern="^[1-9][0-9]*$", description="As in the data")]
    complete: Annotated[str, Meta(pattern="^(true|false)$", description="As in the data")]
    trace_parent: Annotated[str, Meta(description="W3C trace context of the last span")] = ""


_NULL = Raw(b"null")

# The fields without which nobody knows how many items LaunchDarkly has.
_COUNTING_FIELDS = frozenset(
    {"pullRequests", "flagReferences", "deployments", "totalCount", "items", "items[]"}
)


def _may_hide_items(unreadable_field: str) -> bool:
    *parents, name = unreadable_field.split(".")
    return name in _COUNTING_FIELDS or "_links" in {*parents, name}


def measure_completeness(deployment: Deployment, *, stop_reason: str | None) -> Steps[Completeness]:
    """Compare the items in the deployment with LaunchDarkly's counts, at both levels.

    A collection that cannot be read counts as incomplete.
    """
    unreadable_fields = deployment.unreadable_fields
    if stop_reason is None and any(map(_may_hide_items, unreadable_fields)):
        stop_reason = UNREADABLE_PART
    pull_requests, flag_references = deployment.pull_requests, deployment.flag_references
    items = [
        item for item in (pull_requests.items if pull_requests else None) or () if item is not None
    ]
    top_level = (_count_items(pull_requests), _count_items(flag_references))
    complete = stop_reason is None and not any(
        lacks_items(count.expected, count.present) for count in top_level
    )
    nested_expected = nested_present = 0
    for position, item in enumerate(items, 1):
        if not position % _ITEMS_PER_STEP:
            yield
        for part in (item.deployments, item.flag_references):
            if part is not None:
                present = _count_present(part)
                nested_expected += part.total_count or 0
                nested_present += present
                # Surplus items of one pull request do not make up for items that another lacks.
                complete = complete and not lacks_items(part.total_count, present)
    total = Count(nested_expected, nested_present)
    return Completeness(
        complete,
        *top_level,
        total,
        reason=UNSET if stop_reason is None else stop_reason,
        unreadable_fields=unreadable_fields or UNSET,
    )


def _count_items(collection: PullRequests | FlagReferences | NestedDeployments | None) -> Count:
    if collection is None:
        return Count(None, 0)
    return Count(collection.total_count, _count_present(collection))


def _count_present(collection: PullRequests | FlagReferences | NestedDeployments) -> int:
    """Return how many items are not null."""
    if not collection.items:
        return 0
    null = _NULL if isinstance(collection, NestedDeployments) else None
    return len(collection.items) - collection.items.count(null)  # type: ignore[arg-type] # of its type
