"""What does the Engineering Insights API answer to one call?

The routes, parameters, defaults and errors are those of LaunchDarkly's OpenAPI document (tags
"Insights deployments (beta)" and "Insights pull requests (beta)").
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import assert_never
from urllib.parse import unquote

import msgspec

from service.simulate.answers import (
    Answer,
    Call,
    answer_invalid,
    answer_json,
    answer_not_beta,
    answer_not_found,
    answer_unauthorized,
    answer_wrong_method,
)
from service.simulate.deployment import Deployment
from service.simulate.events import record_event
from service.simulate.listing import list_deployments, list_pull_requests
from service.simulate.pages import BASE, DEPLOYMENTS, PULL_REQUESTS, Pages
from service.simulate.query import read_list
from service.simulate.world import World

EVENTS = f"{BASE}/deployment-events"
_MOST_KEPT = 4_096


class Route(StrEnum):
    """The routes, as verb and URL pattern: rate limits count by them."""

    GET_DEPLOYMENT = "GET /deployments/{id}"
    LIST_DEPLOYMENTS = "GET /deployments"
    LIST_PULL_REQUESTS = "GET /pull-requests"
    POST_EVENT = "POST /deployment-events"
    UNKNOWN = "unknown"
    WRONG_METHOD = "wrong method"


def find_route(method: str, path: str) -> Route:
    """Say which route a call takes."""
    routes = {
        DEPLOYMENTS: ("GET", Route.LIST_DEPLOYMENTS),
        PULL_REQUESTS: ("GET", Route.LIST_PULL_REQUESTS),
        EVENTS: ("POST", Route.POST_EVENT),
    }
    known = routes.get(path)
    if known is None:
        parent, _, identifier = path.rpartition("/")
        if parent != DEPLOYMENTS or not identifier:
            return Route.UNKNOWN
        known = ("GET", Route.GET_DEPLOYMENT)
    verb, route = known
    return route if method == verb else Route.WRONG_METHOD


def read_identifier(path: str) -> str:
    """Give the deployment id at the end of a path."""
    return unquote(path.rpartition("/")[2])


def refuse_stranger(route: Route, headers: Mapping[str, str], token: str) -> Answer | None:
    """Turn away a call without the bare token (401) or without the beta header (403).

    Posting events is the one route that needs no beta header (LaunchDarkly's own GitHub action).
    """
    if headers.get("Authorization") != token:
        return answer_unauthorized()
    if headers.get("LD-API-Version") != "beta" and route is not Route.POST_EVENT:
        return answer_not_beta()
    return None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An encoded answer and the deployment of which it is true."""

    deployment: Deployment
    answer: Answer


class Api:
    """The routes over one world."""

    def __init__(self, world: World, pages: Pages, *, full_links: bool) -> None:
        self._world = world
        self._pages = pages
        self._full_links = full_links
        self._kept: dict[tuple[str, str], Kept] = {}

    def answer(self, call: Call, now: int) -> Answer:
        """Answer one call that was let in. `now` is in epoch milliseconds."""
        route = find_route(call.method, call.path)
        match route:
            case Route.GET_DEPLOYMENT:
                return self._get_deployment(call, now)
            case Route.LIST_DEPLOYMENTS:
                found = list_deployments(self._world, self._pages, call.query, now)
            case Route.LIST_PULL_REQUESTS:
                found = list_pull_requests(self._world, self._pages, call.query, now)
            case Route.POST_EVENT:
                return record_event(self._world, call.body, now)
            case Route.UNKNOWN:
                return answer_not_found()
            case Route.WRONG_METHOD:
                return answer_wrong_method()
            case _:
                assert_never(route)
        if isinstance(found, tuple):
            return answer_invalid(found)
        return answer_json(found.write(call, self._pages, full_links=self._full_links))

    def _get_deployment(self, call: Call, now: int) -> Answer:
        identifier = read_identifier(call.path)
        deployment = self._world.find(identifier, now)
        if deployment is None:
            return answer_not_found()
        key = (identifier, call.query.get("expand", ""))
        kept = self._kept.get(key)
        if kept is not None and kept.deployment == deployment:
            return kept.answer
        written = self._pages.write_deployment(deployment, read_list(key[1]))
        answer = answer_json(written)
        # A page that goes on holds a cursor, which must be remembered anew each time.
        if not self._pages.goes_on(deployment):
            if len(self._kept) >= _MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = Kept(deployment=deployment, answer=answer)
        return answer
