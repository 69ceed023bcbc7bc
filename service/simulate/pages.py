"""How is a deployment written, with what was asked to be expanded, page by page?

`next` inside a deployment carries nothing but the cursor, as documented:
`/api/v2/engineering-insights/pull-requests?after=<uuid>`. So the cursor alone must tell whose
pull requests go on, and where.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Annotated

import msgspec

from service.simulate.answers import JSON_TYPE
from service.simulate.deployment import Deployment, Json, Shape
from service.simulate.draws import Draws, draw_uuid
from service.simulate.invention import (
    invent_deployment,
    invent_facts,
    invent_flag_references,
    invent_lead_time,
    invent_pull_request,
    invent_stages,
)

BASE = "/api/v2/engineering-insights"
DEPLOYMENTS = f"{BASE}/deployments"
PULL_REQUESTS = f"{BASE}/pull-requests"
DETAILS = frozenset({"deployments", "flagReferences", "leadTime"})
"""What List pull requests can expand."""
_MOST_CURSORS = 20_000


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """Where a nested collection goes on.

    The pull requests of a deployment from an offset on, or, when a pull request is named by its
    index, the deployments of that one.
    """

    deployment: Deployment
    pull_request: int | None = None
    offset: int


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how deployments are written."""

    seed: int
    shape: Shape
    page_size: Annotated[int, msgspec.Meta(ge=1)]
    nested_details: bool


class Pages:
    """Writes deployments and pull requests, and remembers the cursors that it gave away."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self._cursors: dict[str, Cursor] = {}

    def find_cursor(self, name: str) -> Cursor | None:
        """Say what a cursor stands for."""
        return self._cursors.get(name)

    def goes_on(self, deployment: Deployment) -> bool:
        """Tell whether writing this deployment may give cursors away."""
        most = max(deployment.pull_requests, self.style.shape.deployments[1])
        return most > self.style.page_size

    def write_deployment(self, deployment: Deployment, expand: AbstractSet[str]) -> Json:
        """Write a `DeploymentRep`."""
        if deployment.given is not None:
            return deployment.given
        written = invent_facts(self.style.seed, deployment, self.style.shape)
        if "pullRequests" in expand:
            details = DETAILS if self.style.nested_details else frozenset[str]()
            start = Cursor(deployment=deployment, offset=0)
            written["pullRequests"] = self.write_pull_requests(start, details)
        if "flagReferences" in expand:
            written["flagReferences"] = self._write_flags(deployment, deployment.id)
        return written

    def write_pull_request(
        self, deployment: Deployment, index: int, expand: AbstractSet[str]
    ) -> Json:
        """Write a `PullRequestRep`."""
        seed, shape = self.style.seed, self.style.shape
        written = invent_pull_request(seed, deployment, index, shape)
        if "deployments" in expand:
            start = Cursor(deployment=deployment, pull_request=index, offset=0)
            written["deployments"] = self.write_deployments(start, frozenset({"flagReferences"}))
        if "flagReferences" in expand:
            written["flagReferences"] = self._write_flags(deployment, written["id"])
        if "leadTime" in expand:
            written["leadTime"] = invent_lead_time(invent_stages(seed, deployment, index))
        return written

    def write_pull_requests(
        self, at: Cursor, expand: AbstractSet[str], limit: int | None = None
    ) -> Json:
        """Write one page of the pull requests of a deployment."""
        end = at.offset + (limit or self.style.page_size)
        total = at.deployment.pull_requests
        items = [
            self.write_pull_request(at.deployment, index, expand)
            for index in range(at.offset, min(end, total))
        ]
        following = self._write_next(at, end, PULL_REQUESTS) if end < total else {}
        return self.write_collection(items, total, link_self(PULL_REQUESTS) | following)

    def write_deployments(
        self, at: Cursor, expand: AbstractSet[str], limit: int | None = None
    ) -> Json:
        """Write one page of the deployments of a pull request.

        The first is the one at hand. The others are conjured, so each can be asked for by id and
        is the same there. None shows its pull requests here: the circle has to end somewhere.
        """
        key = (at.deployment.id, "deployments", at.pull_request)
        draws = Draws(self.style.seed, *key)
        total = max(1, draws.between(*self.style.shape.deployments))
        end = at.offset + (limit or self.style.page_size)
        shown = range(at.offset, min(end, total))
        items = [self.write_deployment(self._follow(at, turn), expand) for turn in shown]
        following = self._write_next(at, end, DEPLOYMENTS) if end < total else {}
        return self.write_collection(items, total, link_self(DEPLOYMENTS) | following)

    def write_collection(self, items: Iterable[Json], total: int, links: Json) -> Json:
        """Write a collection with its links."""
        collection: Json = {"totalCount": total, "items": list(items), "_links": links}
        return collection | ({"estimated": False} if self.style.shape.novelties else {})

    def _follow(self, at: Cursor, turn: int) -> Deployment:
        if turn == 0:
            return at.deployment
        key = (at.deployment.id, at.pull_request, turn)
        identifier = draw_uuid(self.style.seed, "sibling", *key)
        return invent_deployment(self.style.seed, identifier, self.style.shape)

    def _write_flags(self, deployment: Deployment, owner: str) -> Json:
        shape = self.style.shape
        items = invent_flag_references(self.style.seed, deployment.project, owner, shape)
        return {"totalCount": len(items), "items": items}

    def _write_next(self, at: Cursor, offset: int, path: str) -> Json:
        key = (at.deployment.id, at.pull_request, offset)
        name = draw_uuid(self.style.seed, "cursor", *key)
        if len(self._cursors) >= _MOST_CURSORS:
            self._cursors.pop(next(iter(self._cursors)))
        self._cursors[name] = msgspec.structs.replace(at, offset=offset)
        return {"next": link_to(f"{path}?after={name}")}


def link_to(href: str) -> Json:
    """Write a link; the API's are always root-relative."""
    return {"href": href, "type": JSON_TYPE}


def link_self(href: str) -> Json:
    """Write the links of a collection that has no other page."""
    return {"self": link_to(href)}
