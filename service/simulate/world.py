"""Which deployments exist, and from when on can they be seen? Times are epoch milliseconds."""

from bisect import insort
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec

from service.simulate.deployment import ENVIRONMENT, PROJECT, Deployment, Shape
from service.simulate.draws import draw_uuid
from service.simulate.invention import count_pull_requests, invent_deployment, invent_duration

NEVER = "04040404"
"""No deployment whose id begins so is ever conjured."""


class NewDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment to add; what is left out is invented or the present."""

    project: str = PROJECT
    environment: str = ENVIRONMENT
    application: str = "billing-service"
    version: str = "a90a8a2"
    pull_requests: int | None = None
    started_at: int | None = None
    status: str = "finished"
    """`started` gives a deployment that is still in progress."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How the world makes deployments up and how long it hides news."""

    seed: int
    shape: Shape
    conjure: bool
    visible_after_ms: int
    grow_every_ms: int = 0


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as it can be seen from a moment on, until the next sighting."""

    visible_at: int
    deployment: Deployment


class World:
    """All deployments: added, planted, made by events, or conjured when asked for by id.

    Like the real API it is eventually consistent: what an event changes is seen later.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._sightings: dict[str, list[Sighting]] = {}
        self._order: list[tuple[int, str]] = []
        self._running: dict[tuple[str, str, str, str], Deployment] = {}
        self._asked_at: dict[str, int] = {}

    def add(self, new: NewDeployment, now: int) -> Deployment:
        """Add a deployment that can be seen at once."""
        started_at = now if new.started_at is None else new.started_at
        made = self._make(new, started_at)
        if new.status != "started":
            ended_at = started_at + invent_duration(self.rules.seed, made.id)
            made = msgspec.structs.replace(made, ended_at=ended_at)
        self._show(made, now)
        return made

    def plant(self, given: dict[str, Any], project: str, now: int) -> Deployment:
        """Add a deployment whose answer is given word by word; it can be seen at once."""
        planted = Deployment(
            id=given["id"],
            project=project,
            environment=given.get("environmentKey", ENVIRONMENT),
            application=given.get("applicationKey", ""),
            version=given.get("applicationVersion", ""),
            started_at=_read_time(given.get("startedAt"), now),
            status=str(given.get("status")),
            pull_requests=0,
            given=given,
        )
        self._show(planted, now)
        return planted

    def start(self, new: NewDeployment, metadata: dict[str, Any], now: int) -> Deployment:
        """Begin a deployment by an event; it is seen later."""
        started_at = now if new.started_at is None else new.started_at
        started = self._make(new, started_at, metadata)
        self._show(started, now + self.rules.visible_after_ms)
        return started

    def end(self, new: NewDeployment, metadata: dict[str, Any], now: int) -> Deployment:
        """End the deployment in progress of this version; it is seen later.

        An end without a beginning is allowed: then both are the same moment, and the duration
        means nothing (LaunchDarkly's product docs, "deployment events").
        """
        ended_at = now if new.started_at is None else new.started_at
        running = self._running.pop(_name(new), None) or self._make(new, ended_at)
        ended = msgspec.structs.replace(
            running,
            status=new.status,
            ended_at=max(ended_at, running.started_at),
            metadata={**running.metadata, **metadata},
        )
        self._show(ended, now + self.rules.visible_after_ms)
        return ended

    def find(self, identifier: str, now: int) -> Deployment | None:
        """Look a deployment up by id, as it can be seen now."""
        if identifier in self._sightings:
            return self._see(identifier, now)
        if not self.rules.conjure or identifier.startswith(NEVER) or not _is_uuid(identifier):
            return None
        if self.rules.visible_after_ms:
            asked_at = self._asked_at.setdefault(identifier, now)
            if now < asked_at + self.rules.visible_after_ms:
                return None
        return invent_deployment(self.rules.seed, identifier, self.rules.shape)

    def browse(self, project: str, now: int) -> Iterator[Deployment]:
        """Give what can be seen now of one project, newest start first. Conjured ones are not."""
        for _, identifier in self._order:
            deployment = self._see(identifier, now)
            if deployment is not None and deployment.project == project:
                yield deployment

    def _make(
        self, new: NewDeployment, started_at: int, metadata: dict[str, Any] | None = None
    ) -> Deployment:
        identifier = draw_uuid(self.rules.seed, "deployment", len(self._order))
        count = new.pull_requests
        if count is None:
            count = count_pull_requests(self.rules.seed, identifier, self.rules.shape)
        return Deployment(
            id=identifier,
            project=new.project,
            environment=new.environment,
            application=new.application,
            version=new.version,
            started_at=started_at,
            status=new.status,
            pull_requests=count,
            metadata=metadata or {},
        )

    def _show(self, deployment: Deployment, visible_at: int) -> None:
        sightings = self._sightings.setdefault(deployment.id, [])
        if not sightings:
            insort(self._order, (-deployment.started_at, deployment.id))
        if deployment.status == "started":
            self._running[_name(deployment)] = deployment
        sightings.append(Sighting(visible_at=visible_at, deployment=deployment))

    def _see(self, identifier: str, now: int) -> Deployment | None:
        for sighting in reversed(self._sightings[identifier]):
            if sighting.visible_at <= now:
                return self._grow(sighting, now)
        return None

    def _grow(self, sighting: Sighting, now: int) -> Deployment:
        """Give a deployment with the pull requests that have joined it by now."""
        deployment, every = sighting.deployment, self.rules.grow_every_ms
        if not every or deployment.given is not None:
            return deployment
        joined = 1 + (now - sighting.visible_at) // every
        return msgspec.structs.replace(
            deployment, pull_requests=min(joined, deployment.pull_requests)
        )


def _name(deployment: Deployment | NewDeployment) -> tuple[str, str, str, str]:
    return (
        deployment.project,
        deployment.environment,
        deployment.application,
        deployment.version,
    )


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _read_time(value: object, otherwise: int) -> int:
    match value:
        case int():
            return value
        case str() if value.isdigit():
            return int(value)
        case _:
            return otherwise
