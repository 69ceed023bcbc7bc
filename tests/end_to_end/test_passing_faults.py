"""Tests of calls that fail now and then: each fault costs seconds, and every record is complete."""

import asyncio

import pytest

from service.simulate.options import Options, Shape
from service.simulate.rates import Rates
from service.simulate.world import NewDeployment
from tests.end_to_end.harness import ServiceHarness

RECORDS = 80
FAULTS = ("error", "error_html", "truncated", "html", "empty")
# Three calls a record: each of two pull requests has a further page of deployments.
PULL_REQUESTS, SHAPE, PAGE_SIZE = 2, Shape(deployments=(3, 3)), 2


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("failing_share", "within_s"), [(0.15, 20), pytest.param(0.4, 60, marks=pytest.mark.long)]
)
async def test_failing_calls_leave_every_record_complete(
    service: ServiceHarness, failing_share: float, within_s: float
) -> None:
    """A call that fails is repeated where it failed, so no record waits for minutes."""
    rates = Rates(**dict.fromkeys(FAULTS, failing_share / len(FAULTS)))
    service.simulator.options = Options(nested_page_size=PAGE_SIZE, shape=SHAPE, faults=rates)
    ids = [
        service.simulator.add_deployment(
            NewDeployment(version=f"v{number}", pull_requests=PULL_REQUESTS)
        )
        for number in range(RECORDS)
    ]
    await service.open()
    # Without the application no list call can serve several tickets.
    webhook = {"projectKey": "default", "environmentKey": "production", "eventType": "finished"}
    await asyncio.gather(*(service.post({**webhook, "deploymentId": name}) for name in ids))
    async with asyncio.timeout(within_s):
        while not await service.is_done():
            await asyncio.sleep(0.02)
    records = await service.records()
    assert {record["subject"] for record in records} == set(ids)
    assert [record["complete"] for record in records] == ["true"] * RECORDS
    assert sum(service.simulator.stats.calls.values()) > 3 * RECORDS
