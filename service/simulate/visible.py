"""The deployments that are visible at one time, by project and environment."""

from bisect import bisect_left, insort
from heapq import heappop, heappush
from itertools import count

from msgspec import Struct

from service.simulate.options import SimulatedDeployment

Place = tuple[int, str]


class VisibleVersion(Struct, frozen=True, kw_only=True):
    """The state of a deployment that is visible from a time on, until the next version."""

    visible_at: int
    deployment: SimulatedDeployment


class VisibleDeployments:
    """The visible version of each deployment, kept sorted: a list call must not look at all others.

    Times are epoch milliseconds. The time may only go on.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: list[tuple[int, int, VisibleVersion]] = []
        self._versions: dict[str, VisibleVersion] = {}
        self._places: dict[tuple[str, str], list[Place]] = {}

    def add(self, version: VisibleVersion) -> None:
        """Add a version; of two that become visible at once, the later one counts."""
        heappush(self._waiting, (version.visible_at, next(self._numbers), version))

    def get(self, identifier: str, now: int) -> VisibleVersion | None:
        """Return the visible version of a deployment, or None."""
        self._show_until(now)
        return self._versions.get(identifier)

    def list_started(
        self, project: str, environment: str, *, now: int, start: int, end: int
    ) -> list[VisibleVersion]:
        """Return those that started in this range, newest first; "" is every environment."""
        self._show_until(now)
        places = [
            place
            for (its_project, its_environment), all_places in self._places.items()
            if its_project == project and environment in {"", its_environment}
            for place in all_places[
                bisect_left(all_places, (-end, "")) : bisect_left(all_places, (1 - start, ""))
            ]
        ]
        if not environment:
            places.sort()
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
        return self._places.setdefault((deployment.project, deployment.environment), [])


def _place(deployment: SimulatedDeployment) -> Place:
    return -deployment.started_at, deployment.id
