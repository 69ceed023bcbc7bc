"""What becomes of other senders' webhooks behind the receiver: tests, repeats, haste."""

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.simulate.options import Options
from service.simulate.world import NewDeployment
from tests.end_to_end.harness import ServiceHarness

SAMPLES = Path(__file__).parents[1] / "samples" / "webhooks"
SOURCES = """
[[source]]
name = "azure"
preset = "azure-devops"
secrets = ["the secret"]
project = "default"

[[source]]
name = "gitlab"
preset = "gitlab"
secrets = ["the secret"]
project = "default"
"""
PROOF = {"azure": ("Authorization", "Basic the secret"), "gitlab": ("X-Gitlab-Token", "the secret")}

Event = dict[str, object]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def sources(tmp_path: Path) -> str:
    """Give the file of two senders whose test button sends a whole event."""
    (tmp_path / "sources.toml").write_text(SOURCES)
    return str(tmp_path / "sources.toml")


async def post_test_event(
    story: ServiceHarness, name: str, preset: str
) -> tuple[int, dict[str, Any]]:
    """Post what its sender's test button sends: a deployment that nobody made."""
    sample = json.loads((SAMPLES / preset / "succeeded.json").read_text(encoding="utf-8"))
    headers = sample["headers"] | dict([PROOF[name]])
    url = f"{story.receiver_url}/webhooks/{name}"
    async with story.session.post(url, json=sample["body"], headers=headers) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize(("name", "preset"), [("azure", "azure-devops"), ("gitlab", "gitlab")])
async def test_a_test_button_is_pleased_and_ends_quietly(
    story: ServiceHarness, eventually: Eventually, sources: str, name: str, preset: str
) -> None:
    """202, some waiting, `not_found`: no line above the level of any other, no traceback."""
    await story.open(sources=sources, not_found_timeout=0.5)
    status, answer = await post_test_event(story, name, preset)
    assert (status, answer["status"]) == (202, "queued")
    await eventually(story.is_done)
    [failed] = await story.failed_jobs()
    assert failed == answer["job"]
    assert await story.records() == []
    assert {fact["level"] for fact in story.log_events()} == {"info"}
    assert {fact["reason"] for fact in story.log_events("deployment_failed")} == {"not_found"}


async def test_a_redelivery_by_hand_takes_up_what_was_given_up(
    story: ServiceHarness, eventually: Eventually, sources: str
) -> None:
    """The very same delivery: a duplicate while it waits, welcome again once it has failed."""
    await story.open(sources=sources, not_found_timeout=0.5)
    first = await post_test_event(story, "azure", "azure-devops")
    again = await post_test_event(story, "azure", "azure-devops")
    assert [status for status, _ in (first, again)] == [202, 200]
    await eventually(story.is_done)
    assert await story.failed_jobs()
    found = story.simulator.add_deployment(
        NewDeployment(application="web", version="Release-7", started_at=1_795_521_600_000)
    )
    assert (await post_test_event(story, "azure", "azure-devops"))[0] == 202
    await eventually(story.is_done)
    [record] = await story.records()
    assert (record["subject"], await story.failed_jobs()) == (found, [])


async def test_of_a_version_deployed_again_the_new_deployment_is_waited_for(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """LaunchDarkly hears of the end after us; the record is not of the deployment before."""
    now = int(time.time() * 1000)
    facts = {"environment": "production", "version": event["version"]}
    story.simulator.add_deployment(NewDeployment(**facts, started_at=now - 10_800_000))  # type: ignore[arg-type] # facts by name
    ours = story.simulator.add_deployment(
        NewDeployment(**facts, started_at=now - 60_000, status="started")  # type: ignore[arg-type] # as above
    )
    await story.open()
    assert (await story.post({**event, "eventTime": now}))[0] == 202

    async def is_waiting() -> bool:
        return any(
            fact["reason"] == "not_finished_yet"
            for fact in story.log_events("deployment_postponed")
        )

    await eventually(is_waiting)
    url = f"{story.settings.launchdarkly_url}/api/v2/engineering-insights/deployment-events"
    headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
    async with story.session.post(url, json=event, headers=headers) as answer:
        assert answer.status == 201
    await eventually(story.is_done)
    [record] = await story.records()
    assert record["subject"] == ours
    assert record["data"]["deployment"]["status"] == "finished"


async def test_a_deployment_of_long_ago_is_not_taken_for_one_that_is_not_listed_yet(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Rolled back to, or deployed again: the version was there before, ours is still to come."""
    now = int(time.time() * 1000)
    facts = {"environment": "production", "version": event["version"]}
    story.simulator.add_deployment(NewDeployment(**facts, started_at=now - 10_800_000))  # type: ignore[arg-type] # facts by name
    await story.open()
    assert (await story.post({**event, "eventTime": now}))[0] == 202

    async def is_waiting() -> bool:
        return any(
            fact["reason"] == "not_found_yet" for fact in story.log_events("deployment_postponed")
        )

    await eventually(is_waiting)
    ours = story.simulator.add_deployment(NewDeployment(**facts, started_at=now - 60_000))  # type: ignore[arg-type] # as above
    await eventually(story.is_done)
    [record] = await story.records()
    assert record["subject"] == ours


async def test_when_no_other_comes_the_deployment_of_long_ago_was_the_one(
    story: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """A sender's clock may be hours off: at the deadline the best there is is taken."""
    now = int(time.time() * 1000)
    only = story.simulator.add_deployment(
        NewDeployment(
            environment="production",
            version=str(event["version"]),
            started_at=now - 10_800_000,
        )
    )
    await story.open(not_found_timeout=0.5)
    assert (await story.post({**event, "eventTime": now}))[0] == 202
    await eventually(story.is_done)
    [record] = await story.records()
    assert (record["subject"], await story.failed_jobs()) == (only, [])
