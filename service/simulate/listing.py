"""Which deployments and pull requests does a list call get, and which page of them?

LaunchDarkly documents neither the order nor what `from` and `to` bound. Here deployments come
newest start first and pull requests newest merge first, and both bounds are about that moment.
The cursor of a list is the id of the last (`after`) or first (`before`) item already seen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from service.simulate.answers import Call, FieldError
from service.simulate.deployment import Json, SimulatedDeployment
from service.simulate.invention import generate_stages
from service.simulate.pages import PageRenderer, render_link, render_self_link
from service.simulate.query import ListQuery, parse_query
from service.simulate.world import World

T = TypeVar("T")


class ListPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list: its items, how many there are in all, and its neighbours' cursors."""

    items: Sequence[Json]
    total: int
    next_cursor: str | None = None
    previous_cursor: str | None = None
    nested_page: Json | None = None
    """The whole page, when the cursor led into a nested collection."""

    def render(self, call: Call, pages: PageRenderer, *, full_links: bool) -> Json:
        """Write the collection. Links repeat the call's parameters only when they are full."""
        if self.nested_page is not None:
            return self.nested_page
        parameters = {k: v for k, v in call.query.items() if k not in {"after", "before"}}
        links = render_self_link(call.path)
        for name, parameter, cursor_id in (
            ("next", "after", self.next_cursor),
            ("prev", "before", self.previous_cursor),
        ):
            if cursor_id is not None:
                query = (parameters if full_links else {}) | {parameter: cursor_id}
                links[name] = render_link(f"{call.path}?{urlencode(query)}")
        return pages.render_collection(self.items, self.total, links)


class ListedPullRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One pull request: which of which deployment, and how it reads when nothing is expanded."""

    deployment: SimulatedDeployment
    index: int
    fields: Json


def list_deployments(
    world: World, pages: PageRenderer, parameters: Mapping[str, str], now: int
) -> ListPage | tuple[FieldError, ...]:
    """List the deployments of one environment, or go on with those of one pull request."""
    query = parse_query(parameters, ("projectKey", "environmentKey"), now)
    if isinstance(query, tuple):
        return query
    cursor = pages.get_cursor(query.after)
    if cursor is not None and cursor.pull_request_index is not None:
        limit = query.limit if "limit" in parameters else None
        nested_page = pages.render_deployments(cursor, query.expand, limit)
        return ListPage(items=(), total=0, nested_page=nested_page)
    deployments = [
        deployment
        for deployment in world.list_visible(query.project, now)
        if _deployment_matches(deployment, query)
        and query.start <= deployment.started_at <= query.end
    ]
    return _paginate(
        deployments,
        query,
        item_id=lambda deployment: deployment.id,
        render=lambda deployment: pages.render_deployment(deployment, query.expand),
    )


def list_pull_requests(
    world: World, pages: PageRenderer, parameters: Mapping[str, str], now: int
) -> ListPage | tuple[FieldError, ...]:
    """List the pull requests of a project, or go on with those of one deployment."""
    required = ("projectKey", "environmentKey") if parameters.get("sort") else ("projectKey",)
    query = parse_query(parameters, required, now)
    if isinstance(query, tuple):
        return query
    cursor = pages.get_cursor(query.after)
    if cursor is not None and cursor.pull_request_index is None:
        limit = query.limit if "limit" in parameters else None
        nested_page = pages.render_pull_requests(cursor, query.expand, limit)
        return ListPage(items=(), total=0, nested_page=nested_page)
    pull_requests = sorted(
        _matching_pull_requests(world, pages, query, now), key=_sort_key(pages, query)
    )
    return _paginate(
        pull_requests,
        query,
        item_id=lambda place: str(place.fields["id"]),
        render=lambda place: pages.render_pull_request(place.deployment, place.index, query.expand),
    )


def _matching_pull_requests(
    world: World, pages: PageRenderer, query: ListQuery, now: int
) -> Iterator[ListedPullRequest]:
    for deployment in world.list_visible(query.project, now):
        if query.environment and deployment.environment != query.environment:
            continue
        if query.applications and deployment.application not in query.applications:
            continue
        for index in range(deployment.pull_requests):
            fields = pages.render_pull_request(deployment, index, frozenset())
            if _pull_request_matches(fields, query):
                yield ListedPullRequest(deployment=deployment, index=index, fields=fields)


def _sort_key(
    pages: PageRenderer, query: ListQuery
) -> Callable[[ListedPullRequest], tuple[int, str]]:
    def sort_key(pull_request: ListedPullRequest) -> tuple[int, str]:
        identifier = pull_request.fields["id"]
        if not query.sort:
            return -pull_request.fields["mergeTime"], identifier
        lead_time_ms = generate_stages(
            pages.config.seed, pull_request.deployment, pull_request.index
        ).total
        return (-lead_time_ms if query.sort.startswith("-") else lead_time_ms), identifier

    return sort_key


def _pull_request_matches(fields: Json, query: ListQuery) -> bool:
    return (
        query.start <= fields["mergeTime"] <= query.end
        and query.status in {"", fields["status"]}
        and query.text.lower() in f"{fields['title']} {fields['author']}".lower()
    )


def _deployment_matches(deployment: SimulatedDeployment, query: ListQuery) -> bool:
    kind = "redeployment" if deployment.raw is None else deployment.raw.get("kind")
    return (
        deployment.environment == query.environment
        and (not query.applications or deployment.application in query.applications)
        and query.status in {"", deployment.status}
        and query.kind in {"", kind}
    )


def _paginate(
    items: Sequence[T],
    query: ListQuery,
    *,
    item_id: Callable[[T], str],
    render: Callable[[T], Json],
) -> ListPage | tuple[FieldError, ...]:
    start, end = 0, query.limit
    if query.after or query.before:
        positions = {item_id(item): position for position, item in enumerate(items)}
        position = positions.get(query.after or query.before)
        if position is None:
            parameter = "after" if query.after else "before"
            return (FieldError(attribute=parameter, reason="is not a known cursor"),)
        start = position + 1 if query.after else max(0, position - query.limit)
        end = start + query.limit if query.after else position
    page = items[start:end]
    return ListPage(
        items=[render(item) for item in page],
        total=len(items),
        next_cursor=item_id(page[-1]) if page and end < len(items) else None,
        previous_cursor=item_id(page[0]) if page and start > 0 else None,
    )
