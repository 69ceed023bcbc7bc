"""Tests of webhooks from other senders: test buttons, redeliveries, early webhooks."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from service.simulate.options import Options
from service.simulate.world import NewDeployment
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness

SAMPLES = Path(__file__).parents[1] / "samples" / "webhooks"
SOURCES = """
[[source]]
name = "azure"
preset = "azure-devops"
secrets = ["the sender's secret"]
project = "default"

[[source]]
name = "gitlab"
preset = "gitlab"
secrets = ["the sender's secret"]
project = "default"
"""
CREDENTIALS = {
    "azure": ("Authorization", "Basic the sender's secret"),
    "gitlab": ("X-Gitlab-Token", "the sender's secret"),
}

Event = dict[str, object]


@pytest.fixture
def sources(tmp_path: Path) -> str:
    """Return the path of a file with two sources whose test button sends a complete event."""
    (tmp_path / "sources.toml").write_text(SOURCES)
    return str(tmp_path / "sources.toml")


async def post_test_event(
    service: ServiceHarness, name: str, preset: str
) -> tuple[int, dict[str, Any]]:
    """Post what the test button of a sender sends: a deployment that does not exist."""
    sample = json.loads((SAMPLES / preset / "succeeded.json").read_text(encoding="utf-8"))
    headers = sample["headers"] | dict([CREDENTIALS[name]])
    url = f"{service.receiver_url}/webhooks/{name}"
    async with service.session.post(url, json=sample["body"], headers=headers) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize(("name", "preset"), [("azure", "azure-devops"), ("gitlab", "gitlab")])
async def test_test_button_is_accepted_and_fails_quietly(
    service: ServiceHarness, eventually: Eventually, sources: str, name: str, preset: str
) -> None:
    """The response is 202 and the ticket fails as `not_found`, with no warning and no traceback."""
    await service.open(sources=sources, not_found_timeout=0.5)
    status, reply = await post_test_event(service, name, preset)
    assert (status, reply["status"]) == (202, "queued")
    await eventually(service.is_done)
    [failed] = await service.failed_jobs()
    assert failed == reply["job"]
    assert await service.records() == []
    assert {line["level"] for line in service.log_events()} == {"info"}
    assert {line["reason"] for line in service.log_events("deployment_failed")} == {"not_found"}


async def test_manual_redelivery_retries_a_failed_ticket(
    service: ServiceHarness, eventually: Eventually, sources: str
) -> None:
    """The same delivery is a duplicate while it waits, and accepted once it has failed."""
    await service.open(sources=sources, not_found_timeout=0.5)
    first = await post_test_event(service, "azure", "azure-devops")
    again = await post_test_event(service, "azure", "azure-devops")
    assert [status for status, _ in (first, again)] == [202, 200]
    await eventually(service.is_done)
    assert await service.failed_jobs()
    deployment = service.simulator.add_deployment(
        NewDeployment(application="web", version="Release-7", started_at=1_795_521_600_000)
    )
    assert (await post_test_event(service, "azure", "azure-devops"))[0] == 202
    await eventually(service.is_done)
    [record] = await service.records()
    assert (record["subject"], await service.failed_jobs()) == (deployment, [])


async def test_redeployed_version_waits_for_the_new_deployment(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """LaunchDarkly learns of the end later; the record is not of the previous deployment."""
    now = int(time.time() * 1000)
    fields = {"environment": "production", "version": event["version"]}
    service.simulator.add_deployment(NewDeployment(**fields, started_at=now - 10_800_000))  # type: ignore[arg-type] # fields by name
    expected_id = service.simulator.add_deployment(
        NewDeployment(**fields, started_at=now - 60_000, status="started")  # type: ignore[arg-type] # fields by name
    )
    await service.open()
    assert (await service.post({**event, "eventTime": now}))[0] == 202

    async def is_waiting() -> bool:
        return any(
            line["reason"] == "not_finished_yet"
            for line in service.log_events("deployment_postponed")
        )

    await eventually(is_waiting)
    url = f"{service.settings.launchdarkly_url}/api/v2/engineering-insights/deployment-events"
    headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
    async with service.session.post(url, json=event, headers=headers) as response:
        assert response.status == 201
    await eventually(service.is_done)
    [record] = await service.records()
    assert record["subject"] == expected_id
    assert record["data"]["deployment"]["status"] == "finished"


async def test_old_deployment_is_not_taken_for_an_unlisted_one(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """The version was deployed before, and the new deployment is not listed yet."""
    now = int(time.time() * 1000)
    fields = {"environment": "production", "version": event["version"]}
    service.simulator.add_deployment(NewDeployment(**fields, started_at=now - 10_800_000))  # type: ignore[arg-type] # fields by name
    await service.open()
    assert (await service.post({**event, "eventTime": now}))[0] == 202

    async def is_waiting() -> bool:
        return any(
            line["reason"] == "not_found_yet" for line in service.log_events("deployment_postponed")
        )

    await eventually(is_waiting)
    expected_id = service.simulator.add_deployment(NewDeployment(**fields, started_at=now - 60_000))  # type: ignore[arg-type] # fields by name
    await eventually(service.is_done)
    [record] = await service.records()
    assert record["subject"] == expected_id


@pytest.mark.parametrize("has_time", [True, False])
async def test_old_deployment_is_never_taken_for_another_event(
    service: ServiceHarness, event: Event, eventually: Eventually, *, has_time: bool
) -> None:
    """A resync of the same version: the failed ticket says that an earlier deployment is known."""
    now = int(time.time() * 1000)
    deployment = service.simulator.add_deployment(
        NewDeployment(
            environment="production",
            version=str(event["version"]),
            started_at=now - 10_800_000,
        )
    )
    await service.open(not_found_timeout=0.5)
    times = {"eventTime": now} if has_time else {}
    body = {name: value for name, value in event.items() if name != "eventTime"} | times
    assert (await service.post(body))[0] == 202
    await eventually(service.is_done)
    assert (await service.records(), len(await service.failed_jobs())) == ([], 1)
    (failed,) = service.log_events("deployment_failed")
    assert failed["reason"] == "not_found"
    assert (
        f"an earlier deployment of this version is known: {deployment}, ended" in failed["detail"]
    )
