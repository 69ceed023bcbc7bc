"""Tests of every response that LaunchDarkly documents: its record has every field unchanged."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.simulate.responses import Canned
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness, read_stream

ROOT = Path(__file__).parents[2]
OWN_SAMPLES = sorted((ROOT / "tests" / "samples").glob("*.json"))
# Third-party examples beside the checkout, if present. This project may not ship them.
VENDOR_SAMPLES = sorted(
    (ROOT.parent / "shared" / "samples" / "launchdarkly-api").glob("0[124578]*.json")
)
VENDOR_SAMPLES += sorted((ROOT.parent / "shared" / "samples" / "launchdarkly-api").glob("13*.json"))


def read_sample(path: Path) -> bytes:
    """Return the JSON of a sample."""
    return path.read_bytes()


def sample_kind(path: Path) -> str:
    """Return the kind of a sample: a deployment, a page of deployments or of pull requests."""
    body = json.loads(read_sample(path))
    if "items" not in body:
        return "deployment"
    items = [item for item in body["items"] if item]
    return "pull requests" if "externalId" in items[0] else "deployments"


def for_samples_of_kind(kind: str) -> pytest.MarkDecorator:
    """Run a test for every sample of a kind."""
    chosen = [path for path in OWN_SAMPLES + VENDOR_SAMPLES if sample_kind(path) == kind]
    return pytest.mark.parametrize("path", chosen, ids=lambda path: path.stem)


async def enrich_and_read(service: ServiceHarness, eventually: Eventually, **event: object) -> Any:
    """Let the service enrich one deployment; return the deployment of its record."""
    await service.open()
    await service.post({"projectKey": "default", "eventType": "finished", **event})
    await eventually(service.is_done)
    assert await service.failed_jobs() == []
    [fields] = await read_stream(service.redis, service.keys.enriched)
    return json.loads(fields["data"])


@for_samples_of_kind("deployment")
async def test_documented_deployment_is_published_unchanged(
    service: ServiceHarness, eventually: Eventually, path: Path
) -> None:
    """Equal as JSON, with null, digit strings, unknown fields, and a total of 25 for one item."""
    body = read_sample(path)
    expected = json.loads(body)
    service.simulator.set_response(expected["id"], Canned(status=200, body=body))
    data = await enrich_and_read(service, eventually, deploymentId=expected["id"])
    assert data["deployment"] == expected
    pulls = (expected.get("pullRequests") or {}).get("items") or []
    present = [item for item in pulls if item]
    assert data["completeness"]["pullRequests"]["present"] == len(present)
    assert len(data["summary"]["pullRequests"]) == len(present)
    if (expected.get("pullRequests") or {}).get("totalCount") == 25:
        assert data["completeness"]["complete"] is False


@for_samples_of_kind("deployments")
async def test_deployment_is_found_in_a_documented_page(
    service: ServiceHarness, eventually: Eventually, path: Path
) -> None:
    """A documented page gives the id, null items and all; the deployment is then fetched.

    The event is of the time at which the sample ended: some of them ended in 1970.
    """
    page = json.loads(read_sample(path))
    expected = [item for item in page["items"] if item][-1]
    ended_at = expected["endedAt"] or expected["startedAt"]
    body = json.dumps(page | {"_links": {}}).encode()
    service.simulator.set_response("engineering-insights/deployments", Canned(body=body))
    service.simulator.set_response(expected["id"], Canned(body=json.dumps(expected).encode()))
    data = await enrich_and_read(
        service,
        eventually,
        environmentKey=expected["environmentKey"],
        applicationKey=expected["applicationKey"],
        version=expected["applicationVersion"],
        eventTime=datetime.fromtimestamp(ended_at / 1000, UTC).isoformat(),
    )
    # The nested pages lead to the canned page above; all other fields are unchanged.
    assert data["deployment"] | {"pullRequests": None} == expected | {"pullRequests": None}


@for_samples_of_kind("pull requests")
async def test_documented_page_of_pull_requests_is_merged(
    service: ServiceHarness, eventually: Eventually, path: Path
) -> None:
    """The items of the next page follow the first ones, each once and with all its fields."""
    page = json.loads(read_sample(path))
    first = {"id": "first", "title": "the first item", "novel": 1.50}
    name = "5f0c5d2e-6f0b-4f5e-9d53-3f6c1f1f0a01"
    href = "/api/v2/engineering-insights/pull-requests?after=first"
    pulls = {"totalCount": 25, "items": [first], "_links": {"next": {"href": href}}, "novel": True}
    body = json.dumps({"id": name, "novel": None, "pullRequests": pulls}).encode()
    service.simulator.set_response(name, Canned(body=body))
    service.simulator.set_response(
        "engineering-insights/pull-requests", Canned(body=json.dumps(page).encode())
    )
    data = await enrich_and_read(service, eventually, deploymentId=name)
    unique = list({item["id"]: item for item in reversed(page["items"])}.values())[::-1]
    merged = data["deployment"]["pullRequests"]
    assert [item["id"] for item in merged["items"]] == ["first", *(item["id"] for item in unique)]
    assert merged["items"][0] == first
    assert (merged["novel"], data["deployment"]["novel"]) == (True, None)
    assert merged["items"][1] in page["items"]
    assert data["completeness"]["complete"] is False
