"""Tests of a version that is deployed more than once: each announced deployment gets a record."""

import time
from typing import Any

import pytest

from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness

Event = dict[str, object]
FIRST, SECOND = "a0eebc99-0000-4ef8-bb6d-000000000001", "a0eebc99-0000-4ef8-bb6d-000000000002"
MINUTE_MS = 60_000


class Runs:
    """Two runs of one version, a minute apart: their webhooks, and what LaunchDarkly lists."""

    def __init__(self, service: ServiceHarness, event: Event, *outcomes: str) -> None:
        self.service = service
        self.event = event
        self.outcomes = outcomes
        now = int(time.time() * 1000)
        self.ends = (now - 2 * MINUTE_MS, now - MINUTE_MS)

    async def report(self, number: int) -> None:
        """Post the webhook of a run."""
        kind = "failed" if self.outcomes[number] == "failed" else "finished"
        webhook = {**self.event, "eventType": kind, "eventTime": self.ends[number]}
        assert (await self.service.post(webhook))[0] == 202

    def list(self, number: int) -> None:
        """Let LaunchDarkly list a run. It learned of the end half a minute late."""
        self.service.simulator.add_raw_deployment(
            {
                "id": (FIRST, SECOND)[number],
                "applicationKey": self.event["applicationKey"],
                "applicationVersion": self.event["version"],
                "environmentKey": self.event["environmentKey"],
                "status": "failed" if self.outcomes[number] == "failed" else "finished",
                "startedAt": self.ends[number] - 20_000,
                "endedAt": self.ends[number] + 35_000,
                "pullRequests": {"totalCount": 0, "items": []},
                "flagReferences": {"totalCount": 0, "items": []},
            }
        )

    async def is_waiting(self) -> bool:
        """Return whether an event waits for its deployment."""
        postponed = self.service.log_events("deployment_postponed")
        return any(line["reason"] == "not_found_yet" for line in postponed)

    async def read_records(self) -> dict[str, tuple[str, int]]:
        """Return the outcome and the time of the event in each record, by deployment."""
        records: list[dict[str, Any]] = await self.service.records()
        assert len({record["id"] for record in records}) == len(records)
        return {
            record["subject"]: (
                record["data"]["event"]["outcome"],
                record["data"]["event"]["eventTime"],
            )
            for record in records
        }


OUTCOMES = [("failed", "succeeded"), ("failed", "failed"), ("succeeded", "succeeded")]


@pytest.mark.parametrize("outcomes", OUTCOMES)
async def test_run_and_its_rerun_that_wait_together_get_a_record_each(
    service: ServiceHarness, event: Event, eventually: Eventually, outcomes: tuple[str, str]
) -> None:
    """Both webhooks arrive before LaunchDarkly lists either deployment."""
    runs = Runs(service, event, *outcomes)
    await service.open()
    await runs.report(0)
    await runs.report(1)
    await eventually(runs.is_waiting)
    runs.list(1)
    runs.list(0)
    await eventually(service.is_done)
    assert await runs.read_records() == {
        FIRST: (outcomes[0], runs.ends[0]),
        SECOND: (outcomes[1], runs.ends[1]),
    }
    assert await service.failed_jobs() == []


@pytest.mark.parametrize("outcomes", OUTCOMES)
async def test_rerun_of_a_published_run_waits_for_its_own_deployment(
    service: ServiceHarness, event: Event, eventually: Eventually, outcomes: tuple[str, str]
) -> None:
    """When its webhook comes, LaunchDarkly lists only the first deployment."""
    runs = Runs(service, event, *outcomes)
    await service.open()
    runs.list(0)
    await runs.report(0)
    await eventually(service.is_done)
    await runs.report(1)
    await eventually(runs.is_waiting)
    runs.list(1)
    await eventually(service.is_done)
    assert await runs.read_records() == {
        FIRST: (outcomes[0], runs.ends[0]),
        SECOND: (outcomes[1], runs.ends[1]),
    }
    assert await service.failed_jobs() == []


@pytest.mark.parametrize(("outcomes", "failures"), [(OUTCOMES[0], 1), (OUTCOMES[2], 0)])
async def test_rerun_that_launchdarkly_never_lists_takes_no_record(
    service: ServiceHarness,
    event: Event,
    eventually: Eventually,
    outcomes: tuple[str, str],
    failures: int,
) -> None:
    """Another outcome ends in `failed`. With the same outcome it may be the same deployment."""
    runs = Runs(service, event, *outcomes)
    await service.open(not_found_timeout=0.5)
    runs.list(0)
    await runs.report(0)
    await eventually(service.is_done)
    await runs.report(1)
    await eventually(service.is_done)
    assert await runs.read_records() == {FIRST: (outcomes[0], runs.ends[0])}
    assert len(await service.failed_jobs()) == failures
    for line in service.log_events("deployment_failed"):
        assert FIRST in line["detail"]
