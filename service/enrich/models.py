"""The shape of LaunchDarkly's deployments, and the parsers of its JSON.

The structs follow LaunchDarkly's OpenAPI document (``DeploymentRep`` and the schemas inside it,
https://launchdarkly.com/docs/api/insights-deployments-beta), parsed liberally. Only ``id`` is
required. Optional fields may be missing or null: the vendor admits nulls that its document does
not declare. Milliseconds may be digit strings, and items may be null. Unknown fields are ignored
here; the record keeps LaunchDarkly's JSON, so they reach the reader unchanged.

The API is a beta. So a field of another type than documented counts as absent, and
``unreadable_fields`` names it. Only a deployment whose ``id`` cannot be read is a ``Drift``.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from .large_json import SplitJson, split_arrays
from .lenient_decoder import LenientDecoder, ValueReader, build_reader
from .steps import LARGE_BYTES, STEP_BYTES, Steps, cut_slices, finish_steps

Shape = TypeVar("Shape", bound=Struct)

# The declared range. A larger integer would break readers, and Python's own int-to-text limit.
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Link(Struct, frozen=True, gc=False):
    """The address of a page; ``href`` is root-relative in all documented examples."""

    href: str | None = None


class FlagReference(Struct, frozen=True, gc=False, rename="camel"):
    """The number of references to one flag that a change added and removed."""

    project_key: str | None = None
    flag_key: str | None = None
    references_added: Int64 | None = None
    references_removed: Int64 | None = None


class FlagReferences(Struct, frozen=True, gc=False, rename="camel"):
    """The flags that a change touches. It has no links, so missing items cannot be fetched."""

    total_count: Int64 | None = None
    items: list[FlagReference | None] | None = None


class LeadTimeStages(Struct, frozen=True, gc=False, rename="camel"):
    """The duration of each stage in ms: coding, review, wait, deploy."""

    coding_duration_ms: Int64 | None = None
    review_duration_ms: Int64 | None = None
    wait_duration_ms: Int64 | None = None
    deploy_duration_ms: Int64 | None = None
    total_lead_time_ms: Int64 | None = None


_NEXT_LINK_PATHS = frozenset({"_links", "_links.next", "_links.next.href"})


class NestedDeployments(Struct, frozen=True, gc=False, rename="camel"):
    """The deployments that contained a pull request; the items stay raw JSON."""

    total_count: Int64 | None = None
    items: list[msgspec.Raw] | None = None
    links: dict[str, Link | None] | None = msgspec.field(name="_links", default=None)

    @property
    def unreadable_fields(self) -> tuple[str, ...]:
        """The sorted paths of the fields whose JSON has another type; they are None here."""
        return ()

    @property
    def hides_next_link(self) -> bool:
        """Whether a further page may exist whose link cannot be read."""
        if _NEXT_LINK_PATHS.isdisjoint(self.unreadable_fields):
            return False
        return self.total_count is None or lacks_items(self.total_count, len(self.items or ()))


class PullRequest(Struct, frozen=True, gc=False, rename="camel"):
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


class PullRequests(Struct, frozen=True, gc=False, rename="camel"):
    """One page of pull requests, nested in a deployment or listed by itself."""

    total_count: Int64 | None = None
    items: list[PullRequest | None] | None = None
    links: dict[str, Link | None] | None = msgspec.field(name="_links", default=None)


UNREADABLE_PART = "a part could not be read"
"""The reason of a record that may lack items, because a collection has another type."""


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
    def unreadable_fields(self) -> tuple[str, ...]:
        """The sorted paths of the fields whose JSON has another type; they are None here."""
        return ()

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


class PartialPage(DeploymentPage, frozen=True):
    """A page that has fields of another type."""

    unreadable_fields: tuple[str, ...] = ()


class PartialHead(DeploymentHead, frozen=True):
    """A head that has fields of another type."""

    unreadable_fields: tuple[str, ...] = ()


class PartialDeployment(Deployment, frozen=True):
    """A deployment that has fields of another type."""

    unreadable_fields: tuple[str, ...] = ()


class Drift(Struct, frozen=True):
    """A body that is JSON of another shape; ``reason`` says where and how it differs."""

    reason: str


class Malformed(Struct, frozen=True):
    """Not what LaunchDarkly sent: the page of a proxy, a cut body, another deployment."""

    reason: str


_DEPLOYMENT_DECODER = LenientDecoder(Deployment)
_HEAD_DECODER = LenientDecoder(DeploymentHead)
_PAGE_DECODER = LenientDecoder(DeploymentPage)
PULLS_PATH, _FLAGS_PATH, _ITEMS_PATH = (
    ("pullRequests", "items"),
    ("flagReferences", "items"),
    ("items",),
)
_PULL_READER = build_reader(PullRequest | None)
_FLAG_READER = build_reader(FlagReference | None)
_PARSED_BYTES_PER_STEP = 1 << 17
_NULL = memoryview(b"null")
_NO_ITEMS = Drift(reason="Expected `array` - at `$.items`")


def parse_deployment(body: bytes) -> Deployment | Drift | Malformed:
    """Parse one deployment at once; a digit string counts as a number."""
    return finish_steps(parse_deployment_in_steps(body))


def parse_deployment_in_steps(body: bytes) -> Steps[Deployment | Drift | Malformed]:
    """Parse one deployment; the pull requests of a large one are parsed one by one."""
    parse = _parse_large_deployment if len(body) >= LARGE_BYTES else _parse_small_deployment
    return (yield from _parse_body(body, parse))


def parse_deployment_of_id(
    deployment_id: str, body: bytes
) -> Steps[Deployment | Drift | Malformed]:
    """Parse the deployment of this id; another deployment comes from a proxy or a cache."""
    deployment = yield from parse_deployment_in_steps(body)
    if isinstance(deployment, Deployment) and deployment.id.lower() != deployment_id.lower():
        return Malformed(reason="it is another deployment")
    return deployment


def parse_list_item(item: msgspec.Raw) -> DeploymentHead | Drift | None:
    """Parse an item of a page that is valid UTF-8 JSON; return None for a null.

    Of a large item only the head is parsed; the rest is parsed in steps when it is needed.
    """
    if memoryview(item).nbytes >= LARGE_BYTES:
        return parse_head(item)
    return _parse_item(item, _DEPLOYMENT_DECODER, PartialDeployment)


def parse_head(item: msgspec.Raw) -> DeploymentHead | Drift | None:
    """Parse only the head of an item of a page; return None for a null."""
    return _parse_item(item, _HEAD_DECODER, PartialHead)


def parse_deployment_page(body: bytes) -> DeploymentPage | Drift | Malformed:
    """Parse one page at once, as :func:`parse_page_in_steps` does."""
    return finish_steps(parse_page_in_steps(body))


def parse_page_in_steps(body: bytes) -> Steps[DeploymentPage | Drift | Malformed]:
    """Parse one page of any list, with raw items. Without a list of items it is a ``Drift``."""
    page = yield from _parse_body(body, _parse_page)
    return _NO_ITEMS if _has_no_items(page) else page


def split_deployment(body: bytes) -> Steps[SplitJson]:
    """Cut the pull requests and the flag references out of a deployment that was parsed."""
    return (yield from split_arrays(body, (PULLS_PATH, _FLAGS_PATH)))


def parse_collection(raw: msgspec.Raw) -> DeploymentPage | Drift | None:
    """Parse a page that is nested in valid UTF-8 JSON; return None for a null."""
    page = _parse_item(raw, _PAGE_DECODER, PartialPage)
    return _NO_ITEMS if _has_no_items(page) else page


def _has_no_items(page: object) -> bool:
    return isinstance(page, PartialPage) and "items" in page.unreadable_fields


def _parse_body(
    body: bytes, parse: Callable[[bytes], Steps[Shape | Drift]]
) -> Steps[Shape | Drift | Malformed]:
    try:
        if not body.isascii():
            yield from _check_utf8(body)
        return (yield from parse(body))
    except RecursionError as error:  # nested too deeply: it would be so next time too
        return Drift(reason=str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Malformed(reason=str(error)[:200])


def _check_utf8(body: bytes) -> Steps[None]:
    """Raise UnicodeDecodeError unless all is UTF-8: skipped fields reach the record too."""
    decode = getincrementaldecoder("utf-8")().decode
    for part, is_last in cut_slices(body):
        decode(part, is_last)
        if not is_last:
            yield


def _parse_page(body: bytes) -> Steps[DeploymentPage | Drift]:
    if len(body) < STEP_BYTES:
        return _parse(body, _PAGE_DECODER, PartialPage)
    split = yield from split_arrays(body, (_ITEMS_PATH,))
    page = _parse(split.frame, _PAGE_DECODER, PartialPage)
    if isinstance(page, Drift) or page.items != []:
        return page
    return msgspec.structs.replace(page, items=split.items.get(_ITEMS_PATH, []))


def _parse_small_deployment(body: bytes) -> Steps[Deployment | Drift]:
    yield from ()
    return _parse(body, _DEPLOYMENT_DECODER, PartialDeployment)


def _parse_large_deployment(body: bytes) -> Steps[Deployment | Drift]:
    """Parse the fields around the pull requests and flags first, then each of these."""
    return (yield from parse_split_deployment((yield from split_deployment(body))))


def parse_split_deployment(split: SplitJson) -> Steps[Deployment | Drift]:
    """Parse a deployment from :func:`split_deployment` in steps."""
    try:
        frame, frame_paths = _DEPLOYMENT_DECODER.decode(split.frame)
    except msgspec.ValidationError as error:
        return Drift(reason=str(error))
    yield
    paths = {*frame_paths}
    fields = msgspec.structs.asdict(frame)
    for name, path, reader in (
        ("pull_requests", PULLS_PATH, _PULL_READER),
        ("flag_references", _FLAGS_PATH, _FLAG_READER),
    ):
        collection = fields[name]
        if collection is not None and collection.items == []:
            items = yield from _read_items(
                split.items.get(path, ()), reader, f"{'.'.join(path)}[]", paths
            )
            fields[name] = msgspec.structs.replace(collection, items=items)
    if not paths:
        return Deployment(**fields)
    return PartialDeployment(**fields, unreadable_fields=tuple(sorted(paths)))


def _read_items(
    raw_items: Iterable[msgspec.Raw], reader: ValueReader, path: str, paths: set[str]
) -> Steps[list[Any]]:
    items = []
    step_bytes = 0
    for item in raw_items:
        items.append(reader.read(item, path, paths))
        step_bytes += memoryview(item).nbytes
        if step_bytes >= _PARSED_BYTES_PER_STEP:
            step_bytes = 0
            yield
    return items


def _parse_item(
    item: msgspec.Raw, decoder: LenientDecoder[Shape], partial_type: type[Shape]
) -> Shape | Drift | None:
    if memoryview(item) == _NULL:
        return None
    try:
        return _parse(item, decoder, partial_type)
    except RecursionError as error:
        return Drift(reason=str(error))


def _parse(
    raw: bytes | msgspec.Raw, decoder: LenientDecoder[Shape], partial_type: type[Shape]
) -> Shape | Drift:
    """Parse JSON. A value with fields of another type is returned as ``partial_type``."""
    try:
        value, unreadable_fields = decoder.decode(raw)
    except msgspec.ValidationError as error:
        return Drift(reason=str(error))
    if not unreadable_fields:
        return value
    return partial_type(**msgspec.structs.asdict(value), unreadable_fields=unreadable_fields)
