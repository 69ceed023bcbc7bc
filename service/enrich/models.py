"""What is a deployment, as LaunchDarkly tells it?

The shapes of its OpenAPI document, read liberally: only ``id`` is needed, optional fields may be
missing or null (the vendor admits nulls where its document says none), milliseconds may be digit
strings, items may be null, unknown fields are ignored here and passed on untouched elsewhere.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

Shape = TypeVar("Shape")

# What the documents declare; beyond it our readers, and Python's own printing, would stumble.
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Link(Struct, frozen=True):
    """Where a page is; ``href`` is root-relative in all that is documented."""

    href: str | None = None


class FlagReference(Struct, frozen=True, rename="camel"):
    """How often one flag was added to and removed from the code."""

    project_key: str | None = None
    flag_key: str | None = None
    references_added: Int64 | None = None
    references_removed: Int64 | None = None


class FlagReferences(Struct, frozen=True, rename="camel"):
    """The flags that a change touches. Has no links: what is not here cannot be asked for."""

    total_count: Int64 | None = None
    items: list[FlagReference | None] | None = None


class LeadTimeStages(Struct, frozen=True, rename="camel"):
    """How long each stage took, in ms: coding, review, wait, deploy."""

    coding_duration_ms: Int64 | None = None
    review_duration_ms: Int64 | None = None
    wait_duration_ms: Int64 | None = None
    deploy_duration_ms: Int64 | None = None
    total_lead_time_ms: Int64 | None = None


class NestedDeployments(Struct, frozen=True, rename="camel"):
    """The deployments that a pull request was part of; their insides stay raw."""

    total_count: Int64 | None = None
    items: list[msgspec.Raw] | None = None
    links: dict[str, Link | None] | None = msgspec.field(name="_links", default=None)


class PullRequest(Struct, frozen=True, rename="camel"):
    """One pull request of a deployment. Its ``leadTime`` is an object, a deployment's a number."""

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


class DeploymentHead(Struct, frozen=True, rename="camel"):
    """What tells one deployment from another; times are epoch ms. It does not name its project."""

    id: str
    application_key: str | None = None
    application_version: str | None = None
    environment_key: str | None = None
    status: str | None = None
    started_at: Int64 | None = None
    ended_at: Int64 | None = None

    @property
    def is_unfinished(self) -> bool:
        """Tell whether LaunchDarkly has not heard yet that it ended.

        ``status`` is an open string; by mirror of the event types, ``started`` is the one known
        value of a deployment in progress.
        """
        return self.status == "started" and self.ended_at is None


class Deployment(DeploymentHead, frozen=True, rename="camel"):
    """One deployment, with what was asked to be expanded."""

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
"""One page of the list of deployments: the same shape, and its items stay raw too."""


class Drift(Struct, frozen=True):
    """An answer that is JSON but not of this shape: says where and what."""

    reason: str


class Malformed(Struct, frozen=True):
    """An answer that is not JSON in UTF-8 at all: a proxy's page, or one cut short."""

    reason: str


def parse_deployment(body: bytes) -> Deployment | Drift | Malformed:
    """Read one deployment; a digit string is taken for its number."""
    return _parse(body, Deployment)


def parse_list_item(item: msgspec.Raw) -> Deployment | DeploymentHead | Drift | None:
    """Read an item of a page whose text was checked; None where the page has a null.

    One whose outline alone can be read is known by that, and asked for by its id.
    """
    try:
        return msgspec.json.decode(item, type=Deployment | None, strict=False)
    except msgspec.MsgspecError:
        return parse_head(item)


def parse_head(item: msgspec.Raw) -> DeploymentHead | Drift | None:
    """Read which deployment an item of a page is, and no more of it."""
    try:
        return msgspec.json.decode(item, type=DeploymentHead | None, strict=False)
    except msgspec.MsgspecError as error:
        return Drift(reason=str(error))


def parse_deployment_page(body: bytes) -> DeploymentPage | Drift | Malformed:
    """Read one page of the list of deployments."""
    return _parse(body, DeploymentPage)


def _parse(body: bytes, shape: type[Shape]) -> Shape | Drift | Malformed:
    try:
        body.decode()  # fields that we skip are passed on: they must be text too
        return msgspec.json.decode(body, type=shape, strict=False)
    except msgspec.ValidationError as error:
        return Drift(reason=str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Malformed(reason=str(error)[:200])
