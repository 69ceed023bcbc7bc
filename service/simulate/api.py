"""The routes of the simulated Engineering Insights API.

The routes, parameters, defaults and errors are those of LaunchDarkly's OpenAPI document (tags
"Insights deployments (beta)", "Insights pull requests (beta)" and "Insights flag events (beta)").
"""

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import assert_never
from urllib.parse import unquote

from service.simulate.events import apply_event
from service.simulate.flag_events import FlagEventLog
from service.simulate.listing import ListPage, list_deployments, list_pull_requests, parse_list
from service.simulate.options import Options
from service.simulate.pages import BASE, DEPLOYMENTS, PULL_REQUESTS, PageRenderer
from service.simulate.responses import (
    Call,
    FieldError,
    SimulatedResponse,
    beta_header_missing,
    forbidden,
    invalid_request,
    json_response,
    method_not_allowed,
    not_found,
    unauthorized,
)
from service.simulate.world import World

ListItems = Callable[
    [World, PageRenderer, Mapping[str, str], int], ListPage | tuple[FieldError, ...]
]
"""Lists items by the parameters of a call, at a time (epoch ms)."""

EVENTS = f"{BASE}/deployment-events"
FLAG_EVENTS = f"{BASE}/flag-events"


class Route(StrEnum):
    """The routes, as verb and URL pattern. Route rate limits count by them."""

    GET_DEPLOYMENT = "GET /deployments/{id}"
    LIST_DEPLOYMENTS = "GET /deployments"
    LIST_PULL_REQUESTS = "GET /pull-requests"
    LIST_FLAG_EVENTS = "GET /flag-events"
    POST_EVENT = "POST /deployment-events"
    UNKNOWN = "unknown"
    WRONG_METHOD = "wrong method"


def match_route(method: str, path: str) -> Route:
    """Return the route of a call."""
    routes = {
        DEPLOYMENTS: ("GET", Route.LIST_DEPLOYMENTS),
        PULL_REQUESTS: ("GET", Route.LIST_PULL_REQUESTS),
        FLAG_EVENTS: ("GET", Route.LIST_FLAG_EVENTS),
        EVENTS: ("POST", Route.POST_EVENT),
    }
    entry = routes.get(path)
    if entry is None:
        parent, _, identifier = path.rpartition("/")
        if parent != DEPLOYMENTS or not identifier:
            return Route.UNKNOWN
        entry = ("GET", Route.GET_DEPLOYMENT)
    verb, route = entry
    return route if method == verb else Route.WRONG_METHOD


def parse_deployment_id(path: str) -> str:
    """Return the deployment id at the end of a path."""
    return unquote(path.rpartition("/")[2])


def check_credentials(
    route: Route, headers: Mapping[str, str], options: Options
) -> SimulatedResponse | None:
    """Return 401 without the bare token (or one of several), 403 without the beta header, or None.

    Posting events is the one route that needs no beta header: LaunchDarkly's own GitHub action
    sends none. It is also the only one that changes something: a Reader gets 403.
    """
    token = headers.get("Authorization")
    if token not in options.token.split():
        return unauthorized()
    if route is Route.POST_EVENT and token in options.reader_tokens:
        return forbidden()
    if headers.get("LD-API-Version") != "beta" and route is not Route.POST_EVENT:
        return beta_header_missing()
    return None


class Api:
    """The routes, served from one `World` and its flag events."""

    def __init__(
        self,
        world: World,
        pages: PageRenderer,
        *,
        flag_events: FlagEventLog,
        full_links: bool,
        forbidden_projects: Collection[str] = (),
    ) -> None:
        self._world = world
        self._flag_events = flag_events
        self._forbidden_projects = forbidden_projects
        self._pages = pages
        self._full_links = full_links
        self._lists: dict[Route, ListItems] = {
            Route.LIST_DEPLOYMENTS: list_deployments,
            Route.LIST_PULL_REQUESTS: list_pull_requests,
            Route.LIST_FLAG_EVENTS: self._list_flag_events,
        }

    def handle(self, call: Call, now: int) -> SimulatedResponse:
        """Return the response to one granted call. `now` is in epoch milliseconds."""
        route = match_route(call.method, call.path)
        match route:
            case Route.GET_DEPLOYMENT:
                return self._get_deployment(call, now)
            case Route.LIST_DEPLOYMENTS | Route.LIST_PULL_REQUESTS | Route.LIST_FLAG_EVENTS:
                return self._list(self._lists[route], call, now)
            case Route.POST_EVENT:
                return apply_event(self._world, call.body, now)
            case Route.UNKNOWN:
                return not_found()
            case Route.WRONG_METHOD:
                return method_not_allowed()
            case _:
                assert_never(route)

    def _list(self, list_items: ListItems, call: Call, now: int) -> SimulatedResponse:
        project, environment = (
            call.query.get(name, "") for name in ("projectKey", "environmentKey")
        )
        if self._is_forbidden(project, environment):
            return forbidden()
        listing = list_items(self._world, self._pages, call.query, now)
        if isinstance(listing, tuple):
            return invalid_request(listing)
        return json_response(listing.render(call, self._pages, full_links=self._full_links))

    def _list_flag_events(
        self, _: World, __: PageRenderer, parameters: Mapping[str, str], now: int
    ) -> ListPage | tuple[FieldError, ...]:
        return self._flag_events.list_events(parameters, now)

    def _is_forbidden(self, project: str, environment: str) -> bool:
        forbidden_projects = self._forbidden_projects
        return project in forbidden_projects or f"{project}/{environment}" in forbidden_projects

    def _get_deployment(self, call: Call, now: int) -> SimulatedResponse:
        identifier = parse_deployment_id(call.path)
        deployment = self._world.get(identifier, now)
        if deployment is None:
            return not_found()
        if self._is_forbidden(deployment.project, deployment.environment):
            return forbidden()
        expand = parse_list(call.query.get("expand", ""))
        return json_response(self._pages.encode_deployment(deployment, expand))
