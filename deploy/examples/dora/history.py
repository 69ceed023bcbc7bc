"""The deployments that were read, the last revision of each; pure. Times are epoch ms."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from .deployments import Deployment, Scope


class History:
    """Deployments by application and environment, in the order in which they ended.

    ``number`` grows with each change, so equal numbers mean equal contents.
    """

    def __init__(self) -> None:
        self.number = 0
        self._deployments: dict[str, Deployment] = {}
        self._sorted: dict[Scope, list[Deployment]] | None = None

    def add(self, deployment: Deployment) -> None:
        """Add a deployment, or its newer revision; an older revision changes nothing."""
        known = self._deployments.get(deployment.id)
        if known is None or deployment.revision > known.revision:
            self._deployments[deployment.id] = deployment
            self._note_change()

    def forget_before(self, time_ms: int) -> None:
        """Drop the deployments that ended before a time."""
        old_ids = [
            deployment.id
            for deployment in self._deployments.values()
            if deployment.ended_at < time_ms
        ]
        for deployment_id in old_ids:
            del self._deployments[deployment_id]
        if old_ids:
            self._note_change()

    def __len__(self) -> int:
        return len(self._deployments)

    def by_scope(self) -> Mapping[Scope, Sequence[Deployment]]:
        """Return the deployments of each application and environment, the oldest first."""
        if self._sorted is None:
            grouped = defaultdict(list)
            for deployment in sorted(self._deployments.values(), key=_order):
                grouped[deployment.scope].append(deployment)
            self._sorted = dict(sorted(grouped.items(), key=_name_order))
        return self._sorted

    def _note_change(self) -> None:
        self.number += 1
        self._sorted = None


def find_rollbacks(deployments: Iterable[Deployment]) -> Mapping[str, Deployment]:
    """Return the deployment that rolled back each deployment, by the id of the latter."""
    rollbacks: dict[str, Deployment] = {}
    for deployment in deployments:
        change = deployment.change
        if change is not None and change.rollback and change.previous is not None:
            rollbacks.setdefault(change.previous.deployment_id, deployment)
    return rollbacks


def _order(deployment: Deployment) -> tuple[int, str]:
    return deployment.ended_at, deployment.id


def _name_order(item: tuple[Scope, object]) -> tuple[str, str, str]:
    project, environment, application = item[0]
    return application, environment, project
