"""Which deployments and pull requests does a list call get, and which page of them?

LaunchDarkly documents neither the order nor what `from` and `to` bound. Here deployments come
newest start first and pull requests newest merge first, and both bounds are about that moment.
The cursor of a list is the id of the last (`after`) or first (`before`) item already seen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from service.simulate.answers import Call, Reason
from service.simulate.deployment import Deployment, Json
from service.simulate.invention import invent_stages
from service.simulate.pages import Pages, link_self, link_to
from service.simulate.query import Query, read_query
from service.simulate.world import World

T = TypeVar("T")


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list: its items, how many there are in all, and its neighbours' cursors."""

    items: Sequence[Json]
    total: int
    following: str | None = None
    preceding: str | None = None
    nested: Json | None = None
    """The whole page, when the cursor led into a nested collection."""

    def write(self, call: Call, pages: Pages, *, full_links: bool) -> Json:
        """Write the collection. Links repeat the call's parameters only when they are full."""
        if self.nested is not None:
            return self.nested
        kept = {k: v for k, v in call.query.items() if k not in {"after", "before"}}
        links = link_self(call.path)
        for name, cursor, item in (
            ("next", "after", self.following),
            ("prev", "before", self.preceding),
        ):
            if item is not None:
                query = (kept if full_links else {}) | {cursor: item}
                links[name] = link_to(f"{call.path}?{urlencode(query)}")
        return pages.write_collection(self.items, self.total, links)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One pull request: which of which deployment, and how it reads when nothing is expanded."""

    deployment: Deployment
    index: int
    plain: Json


def list_deployments(
    world: World, pages: Pages, raw: Mapping[str, str], now: int
) -> Listing | tuple[Reason, ...]:
    """List the deployments of one environment, or go on with those of one pull request."""
    query = read_query(raw, ("projectKey", "environmentKey"), now)
    if isinstance(query, tuple):
        return query
    at = pages.find_cursor(query.after)
    if at is not None and at.pull_request is not None:
        limit = query.limit if "limit" in raw else None
        nested = pages.write_deployments(at, query.expand, limit)
        return Listing(items=(), total=0, nested=nested)
    found = [
        deployment
        for deployment in world.browse(query.project, now)
        if _suits(deployment, query) and query.start <= deployment.started_at <= query.end
    ]
    return _cut_page(
        found,
        query,
        identify=lambda deployment: deployment.id,
        write=lambda deployment: pages.write_deployment(deployment, query.expand),
    )


def list_pull_requests(
    world: World, pages: Pages, raw: Mapping[str, str], now: int
) -> Listing | tuple[Reason, ...]:
    """List the pull requests of a project, or go on with those of one deployment."""
    required = ("projectKey", "environmentKey") if raw.get("sort") else ("projectKey",)
    query = read_query(raw, required, now)
    if isinstance(query, tuple):
        return query
    at = pages.find_cursor(query.after)
    if at is not None and at.pull_request is None:
        limit = query.limit if "limit" in raw else None
        nested = pages.write_pull_requests(at, query.expand, limit)
        return Listing(items=(), total=0, nested=nested)
    places = sorted(_find_pull_requests(world, pages, query, now), key=_order(pages, query))
    return _cut_page(
        places,
        query,
        identify=lambda place: str(place.plain["id"]),
        write=lambda place: pages.write_pull_request(place.deployment, place.index, query.expand),
    )


def _find_pull_requests(world: World, pages: Pages, query: Query, now: int) -> Iterator[Place]:
    for deployment in world.browse(query.project, now):
        if query.environment and deployment.environment != query.environment:
            continue
        if query.applications and deployment.application not in query.applications:
            continue
        for index in range(deployment.pull_requests):
            plain = pages.write_pull_request(deployment, index, frozenset())
            if _matches(plain, query):
                yield Place(deployment=deployment, index=index, plain=plain)


def _order(pages: Pages, query: Query) -> Callable[[Place], tuple[int, str]]:
    def measure(place: Place) -> tuple[int, str]:
        identifier = place.plain["id"]
        if not query.sort:
            return -place.plain["mergeTime"], identifier
        total = invent_stages(pages.style.seed, place.deployment, place.index).total
        return (-total if query.sort.startswith("-") else total), identifier

    return measure


def _matches(plain: Json, query: Query) -> bool:
    return (
        query.start <= plain["mergeTime"] <= query.end
        and query.status in {"", plain["status"]}
        and query.text.lower() in f"{plain['title']} {plain['author']}".lower()
    )


def _suits(deployment: Deployment, query: Query) -> bool:
    kind = "redeployment" if deployment.given is None else deployment.given.get("kind")
    return (
        deployment.environment == query.environment
        and (not query.applications or deployment.application in query.applications)
        and query.status in {"", deployment.status}
        and query.kind in {"", kind}
    )


def _cut_page(
    found: Sequence[T],
    query: Query,
    *,
    identify: Callable[[T], str],
    write: Callable[[T], Json],
) -> Listing | tuple[Reason, ...]:
    begin, end = 0, query.limit
    if query.after or query.before:
        places = {identify(item): place for place, item in enumerate(found)}
        place = places.get(query.after or query.before)
        if place is None:
            name = "after" if query.after else "before"
            return (Reason(attribute=name, reason="is not a known cursor"),)
        begin = place + 1 if query.after else max(0, place - query.limit)
        end = begin + query.limit if query.after else place
    page = found[begin:end]
    return Listing(
        items=[write(item) for item in page],
        total=len(found),
        following=identify(page[-1]) if page and end < len(found) else None,
        preceding=identify(page[0]) if page and begin > 0 else None,
    )
