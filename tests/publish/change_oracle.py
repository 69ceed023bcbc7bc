"""A plain oracle for ``change``: what the definitions of docs/consumers.md say, without Redis."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

LOOKBACK = 25


class EndedDeployment(Struct, frozen=True):
    """One deployment that ended, as it was reported last; ``ended_at`` is epoch ms."""

    id: str
    version: str | None
    ended_at: int
    outcome: str

    @property
    def has_succeeded(self) -> bool:
        """Whether it succeeded."""
        return self.outcome == "succeeded"


def expected_changes(deployments: Iterable[EndedDeployment]) -> dict[str, Any]:
    """Return the change of each deployment by its id; None if too many later ones ended."""
    ordered = sorted(deployments, key=lambda item: (item.ended_at, msgspec.json.encode(item.id)))
    return {
        deployment.id: describe_change(deployment, ordered[max(0, index - LOOKBACK) : index])
        if len(ordered) - index - 1 <= LOOKBACK
        else None
        for index, deployment in enumerate(ordered)
    }


def describe_change(own: EndedDeployment, earlier: Sequence[EndedDeployment]) -> dict[str, Any]:
    """Return the change of a deployment; ``earlier`` are those that ended before, oldest first."""
    if not earlier:
        return {
            "previous": None,
            "sincePreviousMs": None,
            "redeployment": False,
            "rollback": False,
            "recovery": None,
        }
    *before_previous, previous = earlier
    redeployment = own.version is not None and own.version == previous.version
    rollback = (
        not redeployment
        and own.version is not None
        and any(item.version == own.version and item.has_succeeded for item in before_previous)
    )
    return {
        "previous": {
            "deploymentId": previous.id,
            "version": previous.version,
            "endedAt": previous.ended_at,
            "outcome": previous.outcome,
        },
        "sincePreviousMs": own.ended_at - previous.ended_at,
        "redeployment": redeployment,
        "rollback": rollback,
        "recovery": _describe_recovery(own, earlier, rollback=rollback),
    }


def _describe_recovery(
    own: EndedDeployment, earlier: Sequence[EndedDeployment], *, rollback: bool
) -> dict[str, Any] | None:
    failed_in_a_row: list[EndedDeployment] = []
    for deployment in reversed(earlier):
        if deployment.has_succeeded:
            break
        failed_in_a_row.append(deployment)
    if not own.has_succeeded or not (failed_in_a_row or rollback):
        return None
    failure = failed_in_a_row[-1] if failed_in_a_row else earlier[-1]
    return {
        "failedDeploymentId": failure.id,
        "failedAt": failure.ended_at,
        "afterMs": own.ended_at - failure.ended_at,
    }
