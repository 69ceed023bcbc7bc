"""The deployments that exist, and when each becomes visible. Times are epoch milliseconds."""

from typing import Any
from uuid import UUID

import msgspec

from service.simulate.generator import (
    generate_deployment,
    generate_duration_ms,
    generate_pull_request_count,
    seeded_uuid,
)
from service.simulate.options import (
    DEFAULT_ENVIRONMENT,
    DEFAULT_PROJECT,
    Shape,
    SimulatedDeployment,
)
from service.simulate.reported_events import ReportedEvents
from service.simulate.visible import DeploymentRange, VisibleDeployments, VisibleVersion

UNKNOWN_ID_PREFIX = "04040404"
"""Ids with this prefix are never created automatically."""


class NewDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment to add. Omitted values are generated; the omitted start time is now."""

    project: str = DEFAULT_PROJECT
    environment: str = DEFAULT_ENVIRONMENT
    application: str = "billing-service"
    version: str = "a90a8a2"
    pull_requests: int | None = None
    started_at: int | None = None
    status: str = "finished"
    """`started` means that the deployment is still in progress."""


class WorldConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The options that decide which deployments exist and when they are visible."""

    seed: int
    shape: Shape
    auto_create: bool
    visible_after_ms: int
    events_visible_after_ms: int | None = None
    grow_every_ms: int = 0

    @property
    def event_lag_ms(self) -> int:
        """How long the change of an event stays invisible."""
        lag_ms = self.events_visible_after_ms
        return self.visible_after_ms if lag_ms is None else lag_ms


class World:
    """All deployments: added, created by events, or created when requested by id.

    Like the real API it is eventually consistent: the change of an event is visible later.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.reported_events = ReportedEvents()
        self._known: dict[str, SimulatedDeployment] = {}
        self._visible = VisibleDeployments()
        self._running: dict[tuple[str, str, str, str], SimulatedDeployment] = {}
        self._first_requested_at: dict[str, int] = {}

    def add(self, new_deployment: NewDeployment, now: int) -> SimulatedDeployment:
        """Add a deployment that is visible at once."""
        started_at = now if new_deployment.started_at is None else new_deployment.started_at
        deployment = self._build(new_deployment, started_at)
        if new_deployment.status != "started":
            ended_at = started_at + generate_duration_ms(self.config.seed, deployment.id)
            deployment = msgspec.structs.replace(deployment, ended_at=ended_at)
        self._add_version(deployment, now)
        return deployment

    def add_raw(self, raw: dict[str, Any], project: str, now: int) -> SimulatedDeployment:
        """Add a deployment with an exact response. It is visible at once."""
        deployment = SimulatedDeployment(
            id=raw["id"],
            project=project,
            environment=raw.get("environmentKey", DEFAULT_ENVIRONMENT),
            application=raw.get("applicationKey", ""),
            version=raw.get("applicationVersion", ""),
            started_at=_parse_time(raw.get("startedAt"), now),
            status=str(raw.get("status")),
            pull_requests=0,
            raw=raw,
        )
        self._add_version(deployment, now)
        return deployment

    def start(
        self, new_deployment: NewDeployment, metadata: dict[str, Any], now: int
    ) -> SimulatedDeployment:
        """Start a deployment by an event. It becomes visible later."""
        started_at = now if new_deployment.started_at is None else new_deployment.started_at
        deployment = self._build(new_deployment, started_at, metadata)
        self._add_version(deployment, now + self.config.event_lag_ms)
        return deployment

    def end(
        self, new_deployment: NewDeployment, metadata: dict[str, Any], now: int
    ) -> SimulatedDeployment:
        """End the running deployment of this version. The change becomes visible later.

        An end without a start is allowed. Then both times are equal and the duration means nothing
        (LaunchDarkly's product docs, "deployment events").
        """
        ended_at = now if new_deployment.started_at is None else new_deployment.started_at
        running = self._running.pop(_deployment_key(new_deployment), None) or self._build(
            new_deployment, ended_at
        )
        deployment = msgspec.structs.replace(
            running,
            status=new_deployment.status,
            ended_at=max(ended_at, running.started_at),
            metadata={**running.metadata, **metadata},
        )
        self._add_version(deployment, now + self.config.event_lag_ms)
        return deployment

    def list_all(self) -> list[SimulatedDeployment]:
        """Return the last state of each deployment that was added or reported, visible or not."""
        return list(self._known.values())

    def get(self, identifier: str, now: int) -> SimulatedDeployment | None:
        """Return the visible state of a deployment, or None."""
        if identifier in self._known:
            version = self._visible.get(identifier, now)
            return None if version is None else self.show(version, now)
        if (
            not self.config.auto_create
            or identifier.startswith(UNKNOWN_ID_PREFIX)
            or not _is_uuid(identifier)
        ):
            return None
        if self.config.visible_after_ms:
            first_requested_at = self._first_requested_at.setdefault(identifier, now)
            if now < first_requested_at + self.config.visible_after_ms:
                return None
        return generate_deployment(self.config.seed, identifier, self.config.shape)

    def list_started(self, selection: DeploymentRange, now: int) -> list[VisibleVersion]:
        """Return the selected visible deployments, newest start first; :meth:`show` completes one.

        Automatically created deployments are not listed.
        """
        return self._visible.list_started(selection, now)

    def show(self, version: VisibleVersion, now: int) -> SimulatedDeployment:
        """Return a deployment with the pull requests that it shows by now."""
        deployment, interval_ms = version.deployment, self.config.grow_every_ms
        if not interval_ms or deployment.raw is not None:
            return deployment
        joined_count = 1 + (now - version.visible_at) // interval_ms
        return msgspec.structs.replace(
            deployment, pull_requests=min(joined_count, deployment.pull_requests)
        )

    def _build(
        self, new_deployment: NewDeployment, started_at: int, metadata: dict[str, Any] | None = None
    ) -> SimulatedDeployment:
        identifier = seeded_uuid(self.config.seed, "deployment", len(self._known))
        pull_request_count = new_deployment.pull_requests
        if pull_request_count is None:
            pull_request_count = generate_pull_request_count(
                self.config.seed, identifier, self.config.shape
            )
        return SimulatedDeployment(
            id=identifier,
            project=new_deployment.project,
            environment=new_deployment.environment,
            application=new_deployment.application,
            version=new_deployment.version,
            started_at=started_at,
            status=new_deployment.status,
            pull_requests=pull_request_count,
            metadata=metadata or {},
        )

    def _add_version(self, deployment: SimulatedDeployment, visible_at: int) -> None:
        self._known[deployment.id] = deployment
        if deployment.status == "started":
            self._running[_deployment_key(deployment)] = deployment
        self._visible.add(VisibleVersion(visible_at=visible_at, deployment=deployment))


def _deployment_key(deployment: SimulatedDeployment | NewDeployment) -> tuple[str, str, str, str]:
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


def _parse_time(value: object, default: int) -> int:
    match value:
        case int():
            return value
        case str() if value.isascii() and value.isdigit():
            return int(value)
        case _:
            return default
