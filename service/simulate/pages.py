"""The JSON of deployments and pull requests, with expanded fields and nested pages.

`next` in a deployment contains only the cursor, as documented:
`/api/v2/engineering-insights/pull-requests?after=<uuid>`. So the cursor alone identifies the
deployment and the position in its pull requests.
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
"""The fields that List pull requests can expand."""
_MAX_CURSORS = 20_000
_MAX_ENCODED = 20_000


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a nested collection.

    Without `pull_request_index` the collection is the pull requests of the deployment. With it,
    the collection is the deployments of that pull request.
    """

    deployment: SimulatedDeployment
    pull_request_index: int | None = None
    offset: int


class RenderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The options that decide how deployments are rendered."""

    seed: int
    shape: Shape
    page_size: Annotated[int, msgspec.Meta(ge=1)]
    nested_details: bool


class EncodedDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of one state of a deployment."""

    deployment: SimulatedDeployment
    json: msgspec.Raw


class PageRenderer:
    """Renders deployments and pull requests and stores the cursors of their nested pages."""

    def __init__(self, config: RenderConfig) -> None:
        self._config = config
        self._cursors: dict[str, Cursor] = {}
        self._encoded: dict[tuple[str, AbstractSet[str]], EncodedDeployment] = {}

    @property
    def config(self) -> RenderConfig:
        """The options that decide how deployments are rendered."""
        return self._config

    @config.setter
    def config(self, config: RenderConfig) -> None:
        self._config = config
        self._encoded.clear()

    def get_cursor(self, cursor_id: str) -> Cursor | None:
        """Return the position of a cursor id, or None when the id is unknown."""
        return self._cursors.get(cursor_id)

    def encode_deployment(
        self, deployment: SimulatedDeployment, expand: AbstractSet[str]
    ) -> msgspec.Raw:
        """Return an encoded `DeploymentRep`. What was rendered before is not rendered again.

        One that contains cursors is: the renderer forgets the oldest, so it must store them again.
        """
        key = (deployment.id, expand)
        known = self._encoded.get(key)
        if known is not None and known.deployment == deployment:
            return known.json
        encoded = msgspec.Raw(msgspec.json.encode(self.render_deployment(deployment, expand)))
        if not self._is_paginated(deployment):
            if len(self._encoded) >= _MAX_ENCODED:
                self._encoded.pop(next(iter(self._encoded)))
            self._encoded[key] = EncodedDeployment(deployment=deployment, json=encoded)
        return encoded

    def _is_paginated(self, deployment: SimulatedDeployment) -> bool:
        largest_collection = max(deployment.pull_requests, self.config.shape.deployments[1])
        return largest_collection > self.config.page_size

    def render_deployment(self, deployment: SimulatedDeployment, expand: AbstractSet[str]) -> Json:
        """Return a `DeploymentRep`."""
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
        """Return a `PullRequestRep`."""
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
        """Return one page of the pull requests of a deployment."""
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
        """Return one page of the deployments of a pull request.

        The first is the deployment of the cursor. The others are generated, so a call by id
        returns the same ones. They are rendered without pull requests, which would nest without
        end.
        """
        key = (cursor.deployment.id, "deployments", cursor.pull_request_index)
        rng = SeededRandom(self.config.seed, *key)
        total = max(1, rng.between(*self.config.shape.deployments))
        end = cursor.offset + (limit or self.config.page_size)
        page_indexes = range(cursor.offset, min(end, total))
        items = [
            self.render_deployment(self._nested_deployment(cursor, index), expand)
            for index in page_indexes
        ]
        next_link = self._render_next_link(cursor, end, DEPLOYMENTS) if end < total else {}
        return self.render_collection(items, total, render_self_link(DEPLOYMENTS) | next_link)

    def render_collection(
        self, items: Iterable[Json | msgspec.Raw], total: int, links: Json
    ) -> Json:
        """Return a collection with its links."""
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
    """Return a link. The API always sends root-relative links."""
    return {"href": href, "type": JSON_TYPE}


def render_self_link(href: str) -> Json:
    """Return the links of a collection with only one page."""
    return {"self": render_link(href)}
