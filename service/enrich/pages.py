"""Where is the next page, if there is one, and is it safe to go there?

Documented ``next`` links are root-relative and carry only ``after``: not the project that the
same API requires. So what is missing is merged in, and nothing but LaunchDarkly's own paths on
its own host is ever followed: the link comes with our token.
"""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from msgspec import Struct

from service.enrich.deployment import (
    Deployment,
    FlagReferences,
    Link,
    NestedDeployments,
    PullRequests,
)

API_ROOT = "/api/v2/engineering-insights/"
PAGE_SIZE = "100"  # the documented maximum

Route = Literal["get", "list", "pull-requests"]
_ROUTES: dict[str, Route] = {"deployments": "list", "pull-requests": "pull-requests"}
_MAX_HREF_LENGTH = 4096
# `from` defaults to seven days ago: without it a page would silently leave out what is older.
_FULL_HISTORY = {"from": "1", "limit": PAGE_SIZE}


class ApiRequest(Struct, frozen=True):
    """One call to make: its route (for the budget), and its path with query on our host."""

    route: Route
    path: str


class UnsafeLink(Struct, frozen=True):
    """A link that is not followed, and why."""

    reason: str


LinkDefaults = Mapping[Route, Mapping[str, str]]
"""Which routes may be followed, and the parameters that each must not lack."""


def link_defaults(*, project: str | None, environment: str | None) -> LinkDefaults:
    """Give what a page of a nested collection needs; the project is known only if it was sent."""
    scope_parameters = {"projectKey": project, "environmentKey": environment}
    common = _FULL_HISTORY | {
        key: value for key, value in scope_parameters.items() if value is not None
    }
    return {
        "pull-requests": common | {"expand": "deployments,flagReferences,leadTime"},
        "list": common | {"expand": "flagReferences"},
    }


def resolve_next_link(href: str, *, origin: str, defaults: LinkDefaults) -> ApiRequest | UnsafeLink:
    """Resolve a ``next`` link against ``origin`` (``https://host``), filling in what it lacks."""
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
    """Tell whether a collection says that it goes on."""
    if collection is None or not next_link(collection.links):
        return False
    total = collection.total_count
    return total is None or len(collection.items or ()) < total


def is_complete(deployment: Deployment) -> bool:
    """Tell whether one answer held everything, so that no page is to be fetched."""
    pulls = deployment.pull_requests
    if has_more(pulls):
        return False
    items = () if pulls is None else pulls.items or ()
    return not any(item is not None and has_more(item.deployments) for item in items)


def list_omits_details(deployment: Deployment) -> bool:
    """Tell whether a list left out what asking for the one deployment may give.

    Every collection was asked for: one that is absent, or holds less than it counts and has no
    page more, is not all.
    """
    pulls, flags = deployment.pull_requests, deployment.flag_references
    if flags is None or (pulls is None and deployment.number_of_pull_requests != 0):
        return True
    items = [item for item in (() if pulls is None else pulls.items or ()) if item is not None]
    nested = [part for item in items for part in (item.deployments, item.flag_references)]
    return any(_is_truncated(part) for part in (pulls, flags, *nested) if part is not None)


def _is_truncated(collection: PullRequests | NestedDeployments | FlagReferences) -> bool:
    total = collection.total_count
    continues = not isinstance(collection, FlagReferences) and has_more(collection)
    return total is not None and len(collection.items or ()) < total and not continues


def next_link(links: Mapping[str, Link | None] | None) -> str | None:
    """Give the ``next`` link of a collection's ``_links``."""
    link = (links or {}).get("next")
    return None if link is None else link.href
