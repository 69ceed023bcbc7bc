"""Pagination: safe ``next`` links, and the merge of every page into one deployment.

Documented ``next`` links are root-relative and carry only ``after``, not the project that the same
API requires. So missing parameters are added. Only LaunchDarkly's documented paths on its own host
are followed, because each call carries the access token.
"""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from service.enrich.large_json import SplitJson
from service.enrich.models import (
    PULLS_PATH,
    UNREADABLE_PART,
    Deployment,
    DeploymentPage,
    Drift,
    FlagReferences,
    Link,
    NestedDeployments,
    PullRequests,
    lacks_items,
    parse_collection,
)
from service.enrich.steps import LARGE_BYTES, Steps

API_ROOT = "/api/v2/engineering-insights/"
PAGE_SIZE = "100"  # the documented maximum

Route = Literal["get", "list", "pull-requests", "flag-events"]
_ROUTES: dict[str, Route] = {
    "deployments": "list",
    "pull-requests": "pull-requests",
    "flag-events": "flag-events",
}
_MAX_HREF_LENGTH = 4096
# `from` defaults to seven days ago: without it a page would silently omit older items.
_FULL_HISTORY = {"from": "1", "limit": PAGE_SIZE}


class ApiRequest(Struct, frozen=True):
    """One call: its route (for the budget), and its path with query on LaunchDarkly's host."""

    route: Route
    path: str


class UnsafeLink(Struct, frozen=True):
    """A link that is not followed, with the reason."""

    reason: str


LinkDefaults = Mapping[Route, Mapping[str, str]]
"""The routes that may be followed, and the parameters that each of them needs."""


def link_defaults(*, project: str | None, environment: str | None) -> LinkDefaults:
    """Return the parameters of further pages; the project is known only if the sender named it."""
    scope_parameters = {"projectKey": project, "environmentKey": environment}
    common = _FULL_HISTORY | {
        key: value for key, value in scope_parameters.items() if value is not None
    }
    return {
        "pull-requests": common | {"expand": "deployments,flagReferences,leadTime"},
        "list": common | {"expand": "flagReferences"},
    }


def resolve_next_link(href: str, *, origin: str, defaults: LinkDefaults) -> ApiRequest | UnsafeLink:
    """Resolve a ``next`` link against ``origin`` (``https://host``) and add missing parameters."""
    if len(href) > _MAX_HREF_LENGTH or not href.isprintable():
        return UnsafeLink(reason="a link is too long or not printable")
    try:
        target, own_origin = urlsplit(urljoin(origin + API_ROOT, href)), urlsplit(origin)
        is_other_host = (target.scheme, target.netloc) != (own_origin.scheme, own_origin.netloc)
    except ValueError:
        return UnsafeLink(reason="a link is not a URL")
    if is_other_host:
        return UnsafeLink(reason="a link leads to another host")
    route = (
        _ROUTES.get(target.path.removeprefix(API_ROOT))
        if target.path.startswith(API_ROOT)
        else None
    )
    if route is None or route not in defaults:
        return UnsafeLink(reason="a link leads to another route")
    link_parameters = parse_qsl(target.query, keep_blank_values=True)
    names = {name for name, _ in link_parameters}
    query = [
        *((name, value) for name, value in defaults[route].items() if name not in names),
        *link_parameters,
    ]
    return ApiRequest(route=route, path=f"{target.path}?{urlencode(query)}")


def has_more(collection: PullRequests | NestedDeployments | None) -> bool:
    """Return whether a collection has a further page."""
    if collection is None:
        return False
    total = collection.total_count
    may_continue = total is None or lacks_items(total, len(collection.items or ()))
    return may_continue and bool(next_link(collection.links))


def is_complete(deployment: Deployment) -> bool:
    """Return whether a deployment has no further page to fetch."""
    pulls = deployment.pull_requests
    if has_more(pulls):
        return False
    items = () if pulls is None else pulls.items or ()
    return not any(item is not None and has_more(item.deployments) for item in items)


def list_omits_details(deployment: Deployment) -> bool:
    """Return whether a listed deployment lacks parts that a fetch by id may return.

    The list call expands every collection. A collection lacks parts if it is absent, or if it
    holds fewer items than it counts and has no further page.
    """
    pulls, flags = deployment.pull_requests, deployment.flag_references
    if flags is None or (pulls is None and deployment.number_of_pull_requests != 0):
        return True
    items = [item for item in (() if pulls is None else pulls.items or ()) if item is not None]
    nested = [part for item in items for part in (item.deployments, item.flag_references)]
    return any(_is_truncated(part) for part in (pulls, flags, *nested) if part is not None)


def _is_truncated(collection: PullRequests | NestedDeployments | FlagReferences) -> bool:
    if not lacks_items(collection.total_count, len(collection.items or ())):
        return False
    return isinstance(collection, FlagReferences) or not has_more(collection)


def next_link(links: Mapping[str, Link | None] | None) -> str | None:
    """Return the ``next`` link of a collection's ``_links``, or None."""
    link = (links or {}).get("next")
    return None if link is None else link.href


_NULL = b"null"
_RawFields = dict[str, Raw]


class _ItemWithId(Struct, frozen=True):
    id: str | None = None


class _PullRequest(Struct, frozen=True):
    deployments: Raw = Raw(b"null")


class PagedCollection:
    """One collection while its pages are fetched; each item is kept once.

    ``first_page`` is its JSON, parsed. Items of any type are kept. ``stop_reason`` says why
    fetching ended early.
    """

    def __init__(self, first_page: DeploymentPage) -> None:
        self._total = first_page.total_count
        self._href = next_link(first_page.links)
        self._visited: set[str] = set()
        self.items = list(first_page.items or ())
        self._seen = set(map(_item_id, self.items))
        self.changed = False
        self.stop_reason: str | None = None

    def next_href(self) -> str | None:
        """Return the next link to follow, or None at the end or at a repeated link."""
        if self.stop_reason is not None or not self._href:
            return None
        if self._is_full():
            return None
        if self._href in self._visited:
            self.stop_reason = "pages repeat"
            return None
        self._visited.add(self._href)
        return self._href

    def add_page(self, page: DeploymentPage | Drift) -> None:
        """Add the new items of one more page, up to the total, and keep its ``next`` link."""
        if isinstance(page, Drift):
            self.stop_reason = "a page could not be read"
            return
        count_before = len(self.items)
        for item in page.items or ():
            self._add_item(item)
        if len(self.items) == count_before:
            self.stop_reason = "a page held nothing new"
            return
        self.changed = True
        self._href = next_link(page.links)
        if page.hides_next_link and not self._is_full():
            self.stop_reason = "a page could not be read"

    def _is_full(self) -> bool:
        return self._total is not None and not lacks_items(self._total, len(self.items))

    def _add_item(self, item: Raw) -> None:
        item_id = _item_id(item)
        if not self._is_full() and item_id != _NULL and item_id not in self._seen:
            self._seen.add(item_id)
            self.items.append(item)


class MergedDeployment:
    """A deployment while its pages are fetched: its pull requests, then their deployments.

    A part that cannot be parsed stays as LaunchDarkly sent it; :meth:`first_stop_reason` names it.
    """

    def __init__(self, split: SplitJson) -> None:
        self._split = split
        self._parse_error: str | None = None
        self.pull_requests = self._parse_pull_requests()
        self._nested: dict[int, PagedCollection] = {}

    def find_nested(self) -> Steps[list[PagedCollection]]:
        """Return the ``deployments`` of the pull requests fetched so far that have more pages."""
        items = [] if self.pull_requests is None else self.pull_requests.items
        step_bytes = 0
        for index, item in enumerate(items):
            page = self._parse_nested(item)
            if page is not None and next_link(page.links):
                self._nested[index] = PagedCollection(page)
            step_bytes += memoryview(item).nbytes
            if step_bytes >= LARGE_BYTES:
                step_bytes = 0
                yield
        return [*self._nested.values()]

    def first_stop_reason(self) -> str | None:
        """Return why pages are missing, or None."""
        collections = [self.pull_requests, *self._nested.values()]
        reasons = (
            collection.stop_reason
            for collection in collections
            if collection is not None and collection.stop_reason
        )
        return next(reasons, self._parse_error)

    def merge(self) -> SplitJson | None:
        """Return the deployment with every page merged; None if no page was added."""
        pulls = self.pull_requests
        if pulls is None:
            return None
        for index, nested in self._nested.items():
            if nested.changed:
                pulls.items[index] = _replace_nested(pulls.items[index], nested.items)
                pulls.changed = True
        if not pulls.changed:
            return None
        return replace(self._split, items=self._split.items | {PULLS_PATH: pulls.items})

    def _parse_pull_requests(self) -> PagedCollection | None:
        try:
            frame = msgspec.json.decode(self._split.frame, type=_RawFields)
        except (msgspec.MsgspecError, RecursionError):
            self._parse_error = UNREADABLE_PART
            return None
        page = self._parse_collection(frame.get("pullRequests", Raw(b"null")))
        if page is None:
            return None
        items = self._split.items.get(PULLS_PATH) if page.items == [] else page.items
        return PagedCollection(replace(page, items=items))

    def _parse_nested(self, item: Raw) -> DeploymentPage | None:
        try:
            pull_request = msgspec.json.decode(item, type=_PullRequest)
        except (msgspec.MsgspecError, RecursionError):
            if bytes(item) != _NULL:
                self._parse_error = UNREADABLE_PART
            return None
        return self._parse_collection(pull_request.deployments)

    def _parse_collection(self, raw: Raw) -> DeploymentPage | None:
        page = parse_collection(raw)
        if isinstance(page, Drift):
            self._parse_error = UNREADABLE_PART
            return None
        return page


def _replace_nested(pull_request: Raw, items: list[Raw]) -> Raw:
    """Return a pull request with other items in its ``deployments``."""
    fields = msgspec.json.decode(pull_request, type=_RawFields)
    deployments = msgspec.json.decode(fields["deployments"], type=_RawFields)
    nested = Raw(msgspec.json.encode(deployments | {"items": items}))
    return Raw(msgspec.json.encode(fields | {"deployments": nested}))


def _item_id(item: Raw) -> str | bytes:
    """Return the id of an item, or its bytes when it has no id."""
    try:
        item_id = msgspec.json.decode(item, type=_ItemWithId).id
    except (msgspec.MsgspecError, RecursionError):
        item_id = None
    return bytes(item) if item_id is None else item_id
