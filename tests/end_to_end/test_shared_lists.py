"""Tests of shared list calls: a backlog deeper than the quota needs few calls."""

import asyncio

import pytest

from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.world import NewDeployment
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness

Event = dict[str, object]


@pytest.mark.parametrize("known", [False, True])
async def test_burst_of_webhooks_costs_few_calls(
    service: ServiceHarness, event: Event, eventually: Eventually, *, known: bool
) -> None:
    """Sixty deployments of five applications, under a quota of a minute for single calls."""
    service.simulator.options = Options(
        auto_create=False, quota=Limits(global_limit=2, window_ms=2000)
    )
    ids = [
        service.simulator.add_deployment(
            NewDeployment(application=f"application-{n % 5}", version=f"1.{n}")
        )
        for n in range(60)
    ]
    events = [
        {**event, "applicationKey": f"application-{n % 5}", "version": f"1.{n}"}
        | ({"deploymentId": ids[n]} if known else {})
        for n in range(60)
    ]
    await service.open(workers=0)
    replies = await asyncio.gather(*map(service.post, events))
    assert {status for status, _ in replies} == {202}
    await service.add_worker()
    await eventually(service.is_done)
    records = await service.records()
    assert sorted(record["subject"] for record in records) == sorted(ids)
    assert sum(service.simulator.stats.calls.values()) <= 3
    calls = [line["calls"] for line in service.log_events("deployment_published")]
    assert sum(calls) == sum(service.simulator.stats.calls.values())
