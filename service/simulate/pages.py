"""How is a deployment written, with what was asked to be expanded, page by page?

`next` inside a deployment carries nothing but the cursor, as documented:
`/api/v2/engineering-insights/pull-requests?after=<uuid>`. So the cursor alone must tell whose
pull requests go on, and where.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Annotated

import msgspec

from service.simulate.generator import (
    SeededRandom,
    generate_deployment,
    generate_deployment_fields,
    generate_flag_references,
    generate_pull_request,
    generate_stages,
    render_lead_time,
    seeded_uuid,
)
from service.simulate.options import Json, Shape, SimulatedDeployment
from service.simulate.responses import JSON_TYPE

BASE = "/api/v2/engineering-insights"
DEPLOYMENTS = f"{BASE}/deployments"
PULL_REQUESTS = f"{BASE}/pull-requests"
PULL_REQUEST_DETAILS = frozenset({"deployments", "flagReferences", "leadTime"})
"""What List pull requests can expand."""
_MAX_CURSORS = 20_000


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """Where a nested collection goes on.

    The pull requests of a deployment from an offset on, or, when a pull request is named by its
    index, the deployments of that one.
    """

    deployment: SimulatedDeployment
    pull_request_index: int | None = None
    offset: int


class RenderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how deployments are written."""

    seed: int
    shape: Shape
    page_size: Annotated[int, msgspec.Meta(ge=1)]
    nested_details: bool


class PageRenderer:
    """Writes deployments and pull requests, and remembers the cursors that it gave away."""

    def __init__(self, config: RenderConfig) -> None:
        self.config = config
        self._cursors: dict[str, Cursor] = {}

    def get_cursor(self, cursor_id: str) -> Cursor | None:
        """Say what a cursor stands for."""
        return self._cursors.get(cursor_id)

    def is_paginated(self, deployment: SimulatedDeployment) -> bool:
        """Tell whether writing this deployment may give cursors away."""
        largest_collection = max(deployment.pull_requests, self.config.shape.deployments[1])
        return largest_collection > self.config.page_size

    def render_deployment(self, deployment: SimulatedDeployment, expand: AbstractSet[str]) -> Json:
        """Write a `DeploymentRep`."""
        if deployment.raw is not None:
            return deployment.raw
        rendered = generate_deployment_fields(self.config.seed, deployment, self.config.shape)
        if "pullRequests" in expand:
            details = PULL_REQUEST_DETAILS if self.config.nested_details else frozenset[str]()
            start = Cursor(deployment=deployment, offset=0)
            rendered["pullRequests"] = self.render_pull_requests(start, details)
        if "flagReferences" in expand:
            rendered["flagReferences"] = self._render_flags(deployment, deployment.id)
        return rendered

    def render_pull_request(
        self, deployment: SimulatedDeployment, index: int, expand: AbstractSet[str]
    ) -> Json:
        """Write a `PullRequestRep`."""
        seed, shape = self.config.seed, self.config.shape
        rendered = generate_pull_request(seed, deployment, index, shape)
        if "deployments" in expand:
            start = Cursor(deployment=deployment, pull_request_index=index, offset=0)
            rendered["deployments"] = self.render_deployments(start, frozenset({"flagReferences"}))
        if "flagReferences" in expand:
            rendered["flagReferences"] = self._render_flags(deployment, rendered["id"])
        if "leadTime" in expand:
            rendered["leadTime"] = render_lead_time(generate_stages(seed, deployment, index))
        return rendered

    def render_pull_requests(
        self, cursor: Cursor, expand: AbstractSet[str], limit: int | None = None
    ) -> Json:
        """Write one page of the pull requests of a deployment."""
        end = cursor.offset + (limit or self.config.page_size)
        total = cursor.deployment.pull_requests
        items = [
            self.render_pull_request(cursor.deployment, index, expand)
            for index in range(cursor.offset, min(end, total))
        ]
        next_link = self._render_next_link(cursor, end, PULL_REQUESTS) if end < total else {}
        return self.render_collection(items, total, render_self_link(PULL_REQUESTS) | next_link)

    def render_deployments(
        self, cursor: Cursor, expand: AbstractSet[str], limit: int | None = None
    ) -> Json:
        """Write one page of the deployments of a pull request.

        The first is the one at hand. The others are conjured, so each can be asked for by id and
        is the same there. None shows its pull requests here: the circle has to end somewhere.
        """
        key = (cursor.deployment.id, "deployments", cursor.pull_request_index)
        rng = SeededRandom(self.config.seed, *key)
        total = max(1, rng.between(*self.config.shape.deployments))
        end = cursor.offset + (limit or self.config.page_size)
        page_indexes = range(cursor.offset, min(end, total))
        items = [
            self.render_deployment(self._nested_deployment(cursor, turn), expand)
            for turn in page_indexes
        ]
        next_link = self._render_next_link(cursor, end, DEPLOYMENTS) if end < total else {}
        return self.render_collection(items, total, render_self_link(DEPLOYMENTS) | next_link)

    def render_collection(self, items: Iterable[Json], total: int, links: Json) -> Json:
        """Write a collection with its links."""
        collection: Json = {"totalCount": total, "items": list(items), "_links": links}
        return collection | ({"estimated": False} if self.config.shape.novelties else {})

    def _nested_deployment(self, cursor: Cursor, index: int) -> SimulatedDeployment:
        if index == 0:
            return cursor.deployment
        key = (cursor.deployment.id, cursor.pull_request_index, index)
        identifier = seeded_uuid(self.config.seed, "sibling", *key)
        return generate_deployment(self.config.seed, identifier, self.config.shape)

    def _render_flags(self, deployment: SimulatedDeployment, owner_id: str) -> Json:
        shape = self.config.shape
        items = generate_flag_references(self.config.seed, deployment.project, owner_id, shape)
        return {"totalCount": len(items), "items": items}

    def _render_next_link(self, cursor: Cursor, offset: int, path: str) -> Json:
        key = (cursor.deployment.id, cursor.pull_request_index, offset)
        cursor_id = seeded_uuid(self.config.seed, "cursor", *key)
        if len(self._cursors) >= _MAX_CURSORS:
            self._cursors.pop(next(iter(self._cursors)))
        self._cursors[cursor_id] = msgspec.structs.replace(cursor, offset=offset)
        return {"next": render_link(f"{path}?after={cursor_id}")}


def render_link(href: str) -> Json:
    """Write a link; the API's are always root-relative."""
    return {"href": href, "type": JSON_TYPE}


def render_self_link(href: str) -> Json:
    """Write the links of a collection that has no other page."""
    return {"self": render_link(href)}
