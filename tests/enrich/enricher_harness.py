"""A harness that runs an enricher against one simulated LaunchDarkly."""

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from service.backlog.ticket import Lease
from service.enrich.client import open_session
from service.enrich.enricher import Enricher
from service.enrich.verdict import Verdict
from service.simulate.responses import Canned
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from tests.factories import make_lease, make_ticket

LIST_PATH = "engineering-insights/deployments"
APPLICATIONS = [f"application-{number}" for number in range(10)]
_EXPAND = {"expand": "pullRequests,flagReferences"}


class EnricherHarness:
    """An enricher, and the simulator at ``origin`` that it calls."""

    def __init__(self, simulator: Simulator, origin: str, enricher: Enricher) -> None:
        self.simulator = simulator
        self.origin = origin
        self.enricher = enricher

    @property
    def calls(self) -> int:
        """The number of calls that the simulator received."""
        return sum(self.simulator.stats.calls.values())

    def set_response(
        self,
        suffix: str,
        content: object,
        status: int = 200,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        times: float = math.inf,
    ) -> None:
        """Set the response of the paths with this ending; content other than bytes becomes JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        canned = Canned(status=status, body=body)
        canned = replace(canned, headers={**canned.headers, **headers})
        self.simulator.set_response(suffix, canned, times=times)

    def add_deployments(self, count: int, **fields: Any) -> list[str]:
        """Add deployments of ten applications, one a second until now; return their ids."""
        now = int(time.time() * 1000)
        return [
            self.simulator.add_deployment(
                NewDeployment(
                    application=APPLICATIONS[number % 10],
                    version=f"v{number}",
                    started_at=now - 1000 * (count - number),
                    **fields,
                )
            )
            for number in range(count)
        ]

    async def enrich(self, lease: Lease) -> Verdict:
        """Return the verdict on one ticket that was claimed alone."""
        return await self.enricher.enrich(lease)

    async def enrich_together(self, leases: Sequence[Lease]) -> list[Verdict]:
        """Return the verdicts on tickets that were claimed together."""
        self.enricher.share_lists(leases)
        return await asyncio.gather(*map(self.enricher.enrich, leases))

    async def get_deployment(self, deployment_id: str) -> bytes:
        """Return one deployment as the simulator sends it to any client."""
        url = f"{self.origin}/api/v2/{LIST_PATH}/{deployment_id}"
        async with (
            open_session("api-simulator", max_connections=1) as session,
            session.get(url, params=_EXPAND) as response,
        ):
            return await response.read()


def make_current_lease(**ticket_fields: Any) -> Lease:
    """Return the lease of a ticket that was queued now, by the clock of the simulator."""
    now = int(time.time() * 1000)
    return make_lease(make_ticket(**ticket_fields), queued_at=now, now=now)


def make_batch(count: int, deployment_ids: Sequence[str] = (), **ticket_fields: Any) -> list[Lease]:
    """Return the leases of tickets that share the call of the first one."""
    now = int(time.time() * 1000)
    leases = []
    for number in range(count):
        fields: dict[str, Any] = {
            "project": "default",
            "environment": "production",
            "application": APPLICATIONS[number % 10],
            "version": f"v{number}",
            "deployment_id": deployment_ids[number] if deployment_ids else None,
        }
        leases.append(
            make_lease(
                make_ticket(**{**fields, **ticket_fields}),
                job=f"job-{number}",
                queued_at=now,
                now=now,
                leader="job-0" if number else None,
            )
        )
    return leases
