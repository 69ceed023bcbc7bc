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
    story: ServiceHarness, event: Event, eventually: Eventually, *, known: bool
) -> None:
    """Sixty deployments of five applications, under a quota of a minute for single calls."""
    story.simulator.options = Options(
        auto_create=False, quota=Limits(global_limit=2, window_ms=2000)
    )
    ids = [
        story.simulator.add_deployment(
            NewDeployment(application=f"application-{n % 5}", version=f"1.{n}")
        )
        for n in range(60)
    ]
    events = [
        {**event, "applicationKey": f"application-{n % 5}", "version": f"1.{n}"}
        | ({"deploymentId": ids[n]} if known else {})
        for n in range(60)
    ]
    await story.open(workers=0)
    replies = await asyncio.gather(*map(story.post, events))
    assert {status for status, _ in replies} == {202}
    await story.add_worker()
    await eventually(story.is_done)
    records = await story.records()
    assert sorted(record["subject"] for record in records) == sorted(ids)
    assert sum(story.simulator.stats.calls.values()) <= 3
    calls = [line["calls"] for line in story.log_events("deployment_published")]
    assert sum(calls) == sum(story.simulator.stats.calls.values())
