"""The shape of LaunchDarkly's deployments, and the parsers of its JSON.

The structs follow LaunchDarkly's OpenAPI document (``DeploymentRep`` and the schemas inside it,
https://launchdarkly.com/docs/api/insights-deployments-beta), parsed liberally. Only ``id`` is
required. Optional fields may be missing or null: the vendor admits nulls that its document does
not declare. Milliseconds may be digit strings, and items may be null. Unknown fields are ignored
here; the record keeps LaunchDarkly's JSON, so they reach the reader unchanged.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

Shape = TypeVar("Shape")

# The declared range. A larger integer would break readers, and Python's own int-to-text limit.
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Link(Struct, frozen=True):
    """The address of a page; ``href`` is root-relative in all documented examples."""

    href: str | None = None


class FlagReference(Struct, frozen=True, rename="camel"):
    """The number of references to one flag that a change added and removed."""

    project_key: str | None = None
    flag_key: str | None = None
    references_added: Int64 | None = None
    references_removed: Int64 | None = None


class FlagReferences(Struct, frozen=True, rename="camel"):
    """The flags that a change touches. It has no links, so missing items cannot be fetched."""

    total_count: Int64 | None = None
    items: list[FlagReference | None] | None = None


class LeadTimeStages(Struct, frozen=True, rename="camel"):
    """The duration of each stage in ms: coding, review, wait, deploy."""

    coding_duration_ms: Int64 | None = None
    review_duration_ms: Int64 | None = None
    wait_duration_ms: Int64 | None = None
    deploy_duration_ms: Int64 | None = None
    total_lead_time_ms: Int64 | None = None


class NestedDeployments(Struct, frozen=True, rename="camel"):
    """The deployments that contained a pull request; the items stay raw JSON."""

    total_count: Int64 | None = None
    items: list[msgspec.Raw] | None = None
    links: dict[str, Link | None] | None = msgspec.field(name="_links", default=None)


class PullRequest(Struct, frozen=True, rename="camel"):
    """One pull request. Its ``leadTime`` is an object, that of a deployment a number."""

    id: str | None = None
    external_id: str | None = None
    title: str | None = None
    status: str | None = None
    author: str | None = None
    url: str | None = None
    create_time: Int64 | None = None
    merge_time: Int64 | None = None
    files_changed: Int64 | None = None
    lines_added: Int64 | None = None
    lines_deleted: Int64 | None = None
    deployments: NestedDeployments | None = None
    flag_references: FlagReferences | None = None


class PullRequests(Struct, frozen=True, rename="camel"):
    """One page of pull requests, nested in a deployment or listed by itself."""

    total_count: Int64 | None = None
    items: list[PullRequest | None] | None = None
    links: dict[str, Link | None] | None = msgspec.field(name="_links", default=None)


def lacks_items(total_count: int | None, present: int) -> bool:
    """Return whether fewer items are present than LaunchDarkly counts; an unknown count is met."""
    return total_count is not None and present < total_count


class DeploymentHead(Struct, frozen=True, rename="camel"):
    """The fields that identify a deployment; times are epoch ms. No field names the project."""

    id: str
    application_key: str | None = None
    application_version: str | None = None
    environment_key: str | None = None
    status: str | None = None
    started_at: Int64 | None = None
    ended_at: Int64 | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether LaunchDarkly has not received the end of the deployment yet.

        ``status`` is an open string. The event types suggest that ``started`` is the only value
        for a deployment in progress.
        """
        return self.status == "started" and self.ended_at is None


class Deployment(DeploymentHead, frozen=True, rename="camel"):
    """One deployment, with its expanded collections."""

    kind: str | None = None
    duration_ms: Int64 | None = None
    active: bool | None = None
    archived: bool | None = None
    number_of_contributors: Int64 | None = None
    number_of_pull_requests: Int64 | None = None
    lines_added: Int64 | None = None
    lines_deleted: Int64 | None = None
    lead_time: Int64 | None = None
    lead_time_stages: LeadTimeStages | None = None
    pull_requests: PullRequests | None = None
    flag_references: FlagReferences | None = None


DeploymentPage = NestedDeployments
"""One page of the list of deployments: the same shape, with raw items."""


class Drift(Struct, frozen=True):
    """A body that is JSON of another shape; ``reason`` says where and how it differs."""

    reason: str


class Malformed(Struct, frozen=True):
    """A body that is not JSON in UTF-8: the page of a proxy, or a body cut short."""

    reason: str


def parse_deployment(body: bytes) -> Deployment | Drift | Malformed:
    """Parse one deployment; a digit string counts as a number."""
    return _parse(body, Deployment)


def parse_list_item(item: msgspec.Raw) -> Deployment | DeploymentHead | Drift | None:
    """Parse an item of a page that is valid UTF-8; return None for a null.

    If only the head of an item can be parsed, return the head: it is fetched by its id later.
    """
    try:
        return msgspec.json.decode(item, type=Deployment | None, strict=False)
    except msgspec.MsgspecError:
        return parse_head(item)


def parse_head(item: msgspec.Raw) -> DeploymentHead | Drift | None:
    """Parse only the head of an item of a page; return None for a null."""
    try:
        return msgspec.json.decode(item, type=DeploymentHead | None, strict=False)
    except msgspec.MsgspecError as error:
        return Drift(reason=str(error))


def parse_deployment_page(body: bytes) -> DeploymentPage | Drift | Malformed:
    """Parse one page of the list of deployments."""
    return _parse(body, DeploymentPage)


def _parse(body: bytes, shape: type[Shape]) -> Shape | Drift | Malformed:
    try:
        body.decode()  # skipped fields reach the record too: they must be valid UTF-8
        return msgspec.json.decode(body, type=shape, strict=False)
    except msgspec.ValidationError as error:
        return Drift(reason=str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Malformed(reason=str(error)[:200])
