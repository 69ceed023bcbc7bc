"""The example events that GitHub's users collect in octokit/webhooks, one by one."""

import json
from collections import Counter
from typing import Any

import pytest

from service.accept.mapping import DeploymentEvent, Ignored, Unmappable, parse_webhook
from service.accept.signatures import SignedRequest
from service.accept.source_files import read_presets
from service.accept.sources import Source
from tests.accept.sample_webhooks import make_sources
from tests.interop.conftest import NPM, fail_or_skip

FILE = NPM / "node_modules" / "@octokit" / "webhooks-examples" / "api.github.com" / "index.json"


@pytest.fixture(scope="module")
def examples() -> list[tuple[str, Any]]:
    """Return the name and the body of every example event."""
    if not FILE.exists():
        fail_or_skip("needs `npm ci` in tests/npm")
    kinds = json.loads(FILE.read_text(encoding="utf-8"))
    return [(kind["name"], body) for kind in kinds for body in kind["examples"]]


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    """Return a source of every preset."""
    return make_sources(read_presets())


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("github", {"deployment_status success": 3}),
        # One example says that a queued run without a conclusion is completed: a person must look.
        ("github-workflow-run", {"workflow_run success": 2, "workflow_run parked": 1}),
    ],
)
def test_only_finished_deployments_of_the_examples_are_deployments(
    sources: dict[str, Source],
    examples: list[tuple[str, Any]],
    preset: str,
    expected: dict[str, int],
) -> None:
    """Every other event is ignored, and none is refused."""
    assert len(examples) >= 329
    found: Counter[str] = Counter()
    for name, body in examples:
        headers = {"x-github-event": name, "x-github-delivery": "1"}
        request = SignedRequest(headers, {}, json.dumps(body).encode())
        event = parse_webhook(sources[preset], request)
        if isinstance(event, DeploymentEvent):
            state = body.get("deployment_status", {}).get("state")
            found[f"{name} {state or body['workflow_run']['conclusion']}"] += 1
        elif isinstance(event, Unmappable):
            found[f"{name} parked"] += 1
        else:
            assert isinstance(event, Ignored), (name, event)
    assert found == expected
