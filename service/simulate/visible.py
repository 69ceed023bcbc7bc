"""The deployments that are visible at one time, by project, environment and application."""

from bisect import bisect_left, insort
from heapq import heappop, heappush
from itertools import chain, count

from msgspec import Struct

from service.simulate.options import SimulatedDeployment

Place = tuple[int, str]


class VisibleVersion(Struct, frozen=True, kw_only=True):
    """The state of a deployment that is visible from a time on, until the next version."""

    visible_at: int
    deployment: SimulatedDeployment


class DeploymentRange(Struct, frozen=True, kw_only=True):
    """The deployments of a project that started from ``start`` to ``end``.

    An empty environment or set of applications selects them all.
    """

    project: str
    environment: str = ""
    applications: frozenset[str] = frozenset()
    start: int
    end: int

    def has(self, project: str, environment: str, application: str) -> bool:
        """Return whether deployments of these are selected."""
        return (
            project == self.project
            and self.environment in {"", environment}
            and (not self.applications or application in self.applications)
        )


class VisibleDeployments:
    """The visible version of each deployment, kept sorted: a list call must not look at all others.

    Times are epoch milliseconds. The time may only go on.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: list[tuple[int, int, VisibleVersion]] = []
        self._versions: dict[str, VisibleVersion] = {}
        self._places: dict[tuple[str, str, str], list[Place]] = {}

    def add(self, version: VisibleVersion) -> None:
        """Add a version; of two that become visible at once, the later one counts."""
        heappush(self._waiting, (version.visible_at, next(self._numbers), version))

    def get(self, identifier: str, now: int) -> VisibleVersion | None:
        """Return the visible version of a deployment, or None."""
        self._show_until(now)
        return self._versions.get(identifier)

    def list_started(self, selection: DeploymentRange, now: int) -> list[VisibleVersion]:
        """Return the selected versions, newest start first."""
        self._show_until(now)
        selected = [
            places[
                bisect_left(places, (-selection.end, "")) : bisect_left(
                    places, (1 - selection.start, "")
                )
            ]
            for scope, places in self._places.items()
            if selection.has(*scope)
        ]
        places = selected[0] if len(selected) == 1 else sorted(chain.from_iterable(selected))
        return [self._versions[identifier] for _, identifier in places]

    def _show_until(self, now: int) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            version = heappop(self._waiting)[2]
            self._hide(version.deployment.id)
            self._versions[version.deployment.id] = version
            insort(self._places_of(version.deployment), _place(version.deployment))

    def _hide(self, identifier: str) -> None:
        if (version := self._versions.pop(identifier, None)) is not None:
            places = self._places_of(version.deployment)
            del places[bisect_left(places, _place(version.deployment))]

    def _places_of(self, deployment: SimulatedDeployment) -> list[Place]:
        scope = deployment.project, deployment.environment, deployment.application
        return self._places.setdefault(scope, [])


def _place(deployment: SimulatedDeployment) -> Place:
    return -deployment.started_at, deployment.id
