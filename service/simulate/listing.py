"""The list calls: filters, order and pages of deployments and pull requests.

LaunchDarkly documents neither the order nor which time `from` and `to` refer to. The simulator
lists deployments by start time and pull requests by merge time, newest first, and applies both
bounds to that time. The cursor of a list is the id of the last (`after`) or first (`before`) item
that the caller has.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, TypeVar
from urllib.parse import urlencode

import msgspec

from service.simulate.generator import generate_stages
from service.simulate.options import Json, SimulatedDeployment
from service.simulate.pages import PageRenderer, render_link, render_self_link
from service.simulate.responses import Call, FieldError
from service.simulate.visible import DeploymentRange
from service.simulate.world import World

_DAY_MS = 24 * 60 * 60 * 1000
_DEFAULT_LIMIT = 20
_MAX_LIMIT = 100
_DEFAULT_DAYS = 7
_END_OF_TIME = 2**63 - 1
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=_END_OF_TIME)]


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A list query with its defaults. `start` and `end` are epoch milliseconds."""

    project: str
    environment: str
    applications: frozenset[str]
    start: int
    end: int
    limit: int
    expand: frozenset[str]
    after: str
    before: str
    status: str
    kind: str
    text: str
    sort: str


def parse_query(
    parameters: Mapping[str, str], required: Sequence[str], now: int
) -> ListQuery | tuple[FieldError, ...]:
    """Return the list query, or one error for each invalid attribute.

    The defaults are the documented ones: 20 items (at most 100), from 7 days ago until now.
    """
    errors = [
        FieldError(attribute=name, reason="must be present")
        for name in required
        if not parameters.get(name)
    ]
    numbers = {"from": now - _DEFAULT_DAYS * _DAY_MS, "to": now, "limit": _DEFAULT_LIMIT}
    for name in numbers:
        if text := parameters.get(name):
            try:
                numbers[name] = msgspec.convert(text, _Int64, strict=False)
            except msgspec.ValidationError:
                errors.append(FieldError(attribute=name, reason="must be an integer"))
    if not 1 <= numbers["limit"] <= _MAX_LIMIT:
        errors.append(FieldError(attribute="limit", reason=f"must be between 1 and {_MAX_LIMIT}"))
    if errors:
        return tuple(errors)
    return ListQuery(
        project=parameters.get("projectKey", ""),
        environment=parameters.get("environmentKey", ""),
        applications=parse_list(parameters.get("applicationKey", "")),
        start=numbers["from"],
        end=numbers["to"],
        limit=numbers["limit"],
        expand=parse_list(parameters.get("expand", "")),
        after=parameters.get("after", ""),
        before=parameters.get("before", ""),
        status=parameters.get("status", ""),
        kind=parameters.get("kind", ""),
        text=parameters.get("query", ""),
        sort=parameters.get("sort", ""),
    )


def parse_list(text: str) -> frozenset[str]:
    """Return the parts of a comma-separated list."""
    return frozenset(part.strip() for part in text.split(",") if part.strip())


T = TypeVar("T")


class ListPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list: items, total count, and the cursors of the next and previous page."""

    items: Sequence[Json | msgspec.Raw]
    total: int
    next_cursor: str | None = None
    previous_cursor: str | None = None
    nested_page: Json | None = None
    """The rendered page, when the cursor belongs to a nested collection."""

    def render(self, call: Call, pages: PageRenderer, *, full_links: bool) -> Json:
        """Return the collection. Links repeat the parameters of the call only with `full_links`."""
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
    """One pull request: its deployment, its index there and its fields without expansion."""

    deployment: SimulatedDeployment
    index: int
    fields: Json


def list_deployments(
    world: World, pages: PageRenderer, parameters: Mapping[str, str], now: int
) -> ListPage | tuple[FieldError, ...]:
    """Return a page of the deployments of one environment, or of one pull request.

    The cursor alone decides which: a cursor of a nested collection continues that collection.
    """
    query = parse_query(parameters, ("projectKey", "environmentKey"), now)
    if isinstance(query, tuple):
        return query
    cursor = pages.get_cursor(query.after)
    if cursor is not None and cursor.pull_request_index is not None:
        limit = query.limit if "limit" in parameters else None
        nested_page = pages.render_deployments(cursor, query.expand, limit)
        return ListPage(items=(), total=0, nested_page=nested_page)
    versions = world.list_started(_select(query, start=query.start, end=query.end), now)
    if query.status or query.kind:
        versions = [
            version for version in versions if _deployment_matches(version.deployment, query)
        ]
    return paginate(
        versions,
        query,
        item_id=lambda version: version.deployment.id,
        render=lambda version: pages.encode_deployment(world.show(version, now), query.expand),
    )


def list_pull_requests(
    world: World, pages: PageRenderer, parameters: Mapping[str, str], now: int
) -> ListPage | tuple[FieldError, ...]:
    """Return a page of the pull requests of one project, or of one deployment.

    The cursor alone decides which: a cursor of a nested collection continues that collection.
    """
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
    return paginate(
        pull_requests,
        query,
        item_id=lambda listed: str(listed.fields["id"]),
        render=lambda listed: pages.render_pull_request(
            listed.deployment, listed.index, query.expand
        ),
    )


def _matching_pull_requests(
    world: World, pages: PageRenderer, query: ListQuery, now: int
) -> Iterator[ListedPullRequest]:
    for version in world.list_started(_select(query, start=-_END_OF_TIME, end=_END_OF_TIME), now):
        deployment = world.show(version, now)
        for index in range(deployment.pull_requests):
            fields = pages.render_pull_request(deployment, index, frozenset())
            if _pull_request_matches(fields, query):
                yield ListedPullRequest(deployment=deployment, index=index, fields=fields)


def _select(query: ListQuery, *, start: int, end: int) -> DeploymentRange:
    return DeploymentRange(
        project=query.project,
        environment=query.environment,
        applications=query.applications,
        start=start,
        end=end,
    )


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
    return query.status in {"", deployment.status} and query.kind in {"", kind}


def paginate(
    items: Sequence[T],
    query: ListQuery,
    *,
    item_id: Callable[[T], str],
    render: Callable[[T], Json | msgspec.Raw],
) -> ListPage | tuple[FieldError, ...]:
    """Return the page of a sorted list that the limit and the cursor of a query select."""
    start, end = 0, query.limit
    if query.after or query.before:
        cursor = query.after or query.before
        position = next((n for n, item in enumerate(items) if item_id(item) == cursor), None)
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
