"""Does every answer that LaunchDarkly documents come out of the stream with every field intact?"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from service.simulate.responses import Canned
from tests.end_to_end.harness import ServiceHarness, read_stream

ROOT = Path(__file__).parents[2]
OWN_SAMPLES = sorted((ROOT / "tests" / "samples").glob("*.json"))
# Third-party examples, where they lie beside the checkout; they are not ours to ship.
VENDOR_SAMPLES = sorted(
    (ROOT.parent / "shared" / "samples" / "launchdarkly-api").glob("0[124578]*.json")
)
VENDOR_SAMPLES += sorted((ROOT.parent / "shared" / "samples" / "launchdarkly-api").glob("13*.json"))

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


def read_sample(path: Path) -> bytes:
    """Read a sample."""
    return path.read_bytes()


def sample_kind(path: Path) -> str:
    """Tell a deployment from a page of deployments or of pull requests."""
    body = json.loads(read_sample(path))
    if "items" not in body:
        return "deployment"
    items = [item for item in body["items"] if item]
    return "pull requests" if "externalId" in items[0] else "deployments"


def for_samples_of_kind(kind: str) -> pytest.MarkDecorator:
    """Run a test over every sample of a kind."""
    chosen = [path for path in OWN_SAMPLES + VENDOR_SAMPLES if sample_kind(path) == kind]
    return pytest.mark.parametrize("path", chosen, ids=lambda path: path.stem)


async def enrich_and_read(story: ServiceHarness, eventually: Eventually, **event: object) -> Any:
    """Have one deployment enriched; gives what is in its record."""
    await story.open()
    await story.post({"projectKey": "default", "eventType": "finished", **event})
    await eventually(story.is_done)
    assert await story.failed_jobs() == []
    [fields] = await read_stream(story.redis, story.keys.enriched)
    return json.loads(fields["data"])


@for_samples_of_kind("deployment")
async def test_a_documented_deployment_comes_out_as_it_is(
    story: ServiceHarness, eventually: Eventually, path: Path
) -> None:
    """Equal as JSON, whatever the traps: null, digit strings, novelties, totals of 25 for one."""
    body = read_sample(path)
    told = json.loads(body)
    story.simulator.set_response(told["id"], Canned(status=200, body=body))
    data = await enrich_and_read(story, eventually, deploymentId=told["id"])
    assert data["deployment"] == told
    pulls = (told.get("pullRequests") or {}).get("items") or []
    present = [item for item in pulls if item]
    assert data["completeness"]["pullRequests"]["present"] == len(present)
    assert len(data["summary"]["pullRequests"]) == len(present)
    if (told.get("pullRequests") or {}).get("totalCount") == 25:
        assert data["completeness"]["complete"] is False


@for_samples_of_kind("deployments")
async def test_a_deployment_is_found_in_a_documented_page(
    story: ServiceHarness, eventually: Eventually, path: Path
) -> None:
    """A page of the list, null items and all, gives the id; the deployment is then fetched.

    Some say that it ended in 1970: long before the event, so it is taken at the deadline.
    """
    story.settings = replace(story.settings, not_found_timeout=0.5)
    page = json.loads(read_sample(path))
    told = [item for item in page["items"] if item][-1]
    body = json.dumps(page | {"_links": {}}).encode()
    story.simulator.set_response("engineering-insights/deployments", Canned(body=body))
    story.simulator.set_response(told["id"], Canned(body=json.dumps(told).encode()))
    data = await enrich_and_read(
        story,
        eventually,
        environmentKey=told["environmentKey"],
        applicationKey=told["applicationKey"],
        version=told["applicationVersion"],
        eventTime=1706701762000,
    )
    # Its own pages lead to the very page planted above; what is beside them is as told.
    assert data["deployment"] | {"pullRequests": None} == told | {"pullRequests": None}


@for_samples_of_kind("pull requests")
async def test_a_documented_page_of_pull_requests_is_merged(
    story: ServiceHarness, eventually: Eventually, path: Path
) -> None:
    """Items of the next page follow those of the first, each with all its fields, each once."""
    page = json.loads(read_sample(path))
    first = {"id": "first", "title": "the one that was there", "novel": 1.50}
    name = "5f0c5d2e-6f0b-4f5e-9d53-3f6c1f1f0a01"
    href = "/api/v2/engineering-insights/pull-requests?after=first"
    pulls = {"totalCount": 25, "items": [first], "_links": {"next": {"href": href}}, "novel": True}
    body = json.dumps({"id": name, "novel": None, "pullRequests": pulls}).encode()
    story.simulator.set_response(name, Canned(body=body))
    story.simulator.set_response(
        "engineering-insights/pull-requests", Canned(body=json.dumps(page).encode())
    )
    data = await enrich_and_read(story, eventually, deploymentId=name)
    unique = list({item["id"]: item for item in reversed(page["items"])}.values())[::-1]
    merged = data["deployment"]["pullRequests"]
    assert [item["id"] for item in merged["items"]] == ["first", *(item["id"] for item in unique)]
    assert merged["items"][0] == first
    assert (merged["novel"], data["deployment"]["novel"]) == (True, None)
    assert merged["items"][1] in page["items"]
    assert data["completeness"]["complete"] is False
