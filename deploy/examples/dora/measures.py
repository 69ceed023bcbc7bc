"""The four measures of DORA, as docs/consumers.md defines them; pure. Durations are in ms."""

from collections.abc import Container, Iterable
from statistics import median

from msgspec import Struct

from .deployments import Deployment


class Measures(Struct, frozen=True, kw_only=True):
    """The measures of some deployments; None where no deployment says anything.

    ``succeeded`` is the number of successful deployments: over the length of a period it is the
    deployment frequency. ``failed`` counts those that failed or were rolled back later.
    """

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    recoveries: int = 0
    lead_time_ms: float | None = None
    recovery_ms: float | None = None

    @property
    def failure_rate(self) -> float | None:
        """The share (0 to 1) of all deployments that failed or were rolled back later."""
        return self.failed / self.total if self.total else None


def has_failed(deployment: Deployment, rolled_back: Container[str]) -> bool:
    """Return whether a deployment failed, or is one of those that were rolled back."""
    return not deployment.succeeded or deployment.id in rolled_back


def recovery_of(deployment: Deployment) -> int | None:
    """Return how long the failure lasted that a deployment ended; None if it ended none."""
    return deployment.change.recovery_ms if deployment.change else None


def lead_time_of(deployment: Deployment) -> int | None:
    """Return the lead time of a deployment; None if it failed or nobody knows it."""
    return deployment.lead_time_ms if deployment.succeeded else None


def measure(deployments: Iterable[Deployment], rolled_back: Container[str]) -> Measures:
    """Return the measures of the last revisions; ``rolled_back`` has ids of deployments."""
    listed = list(deployments)
    recoveries = [after_ms for after_ms in map(recovery_of, listed) if after_ms is not None]
    lead_times = [lead_time for lead_time in map(lead_time_of, listed) if lead_time is not None]
    return Measures(
        total=len(listed),
        succeeded=sum(deployment.succeeded for deployment in listed),
        failed=sum(has_failed(deployment, rolled_back) for deployment in listed),
        recoveries=len(recoveries),
        lead_time_ms=median(lead_times) if lead_times else None,
        recovery_ms=median(recoveries) if recoveries else None,
    )
