"""Every preset over its sample webhooks, complete and broken."""

import asyncio
import itertools
import json
import tomllib
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from service.accept import mapping
from service.accept.mapping import Batch, DeploymentEvent, Event, parse_webhook
from service.accept.payload import InvalidPayload
from service.accept.signatures import SignedRequest
from service.accept.sources import Source
from tests.accept.receiver_harness import BacklogStub, parse_response, serve_receiver
from tests.accept.sample_webhooks import (
    PRESETS,
    Sample,
    json_paths,
    make_sources,
    read_samples,
    summarize,
    with_value,
    without_path,
)

SAMPLES = read_samples()
ODD_VALUES: list[object] = [
    None,
    True,
    0,
    7,
    -1.5,
    10**18,
    "",
    "\x00",
    "x" * 5000,
    [],
    [[]],
    {},
    {"a": [{}]},
]
# Fields that few samples expect, and their value in all other samples.
EXTRAS = {"deployment_id": None, "project": "default", "traceparent": None, "metadata": None}
KINDS = {"succeeded", "failed", "unfinished", "unrelated"}
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)
every_completed = pytest.mark.parametrize(
    "sample", [sample for sample in SAMPLES if "outcome" in sample.expected], ids=str
)


@pytest.fixture(scope="module")
def sources(presets: str) -> dict[str, Source]:
    """Return a source of every preset."""
    return make_sources(presets)


def map_sample(sources: dict[str, Source], sample: Sample, body: Any) -> Event:
    """Map a body, given as JSON or bytes, with the headers of a sample."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.lower(): value for name, value in sample.headers.items()}
    event = parse_webhook(sources[sample.preset], SignedRequest(headers, {}, raw))
    assert not isinstance(event, Batch)
    return event


def test_every_preset_has_samples_of_every_kind(presets: str) -> None:
    """Succeeded, failed, not ended, and not about deployments."""
    names = tomllib.loads(presets)["preset"].keys()
    assert names - {"standard-webhooks"} == set(PRESETS)
    for name in names - {"standard-webhooks", "launchdarkly"}:
        assert {sample.name for sample in SAMPLES if sample.preset == name} >= KINDS, name


@every_sample
def test_sample_is_mapped_as_expected(sources: dict[str, Source], sample: Sample) -> None:
    """Outcome, names, time and delivery; or ignored; or the missing fields."""
    event = map_sample(sources, sample, sample.body)
    extra = {key: sample.expected[key] for key in EXTRAS.keys() & sample.expected.keys()}
    expected = {key: value for key, value in sample.expected.items() if key not in EXTRAS}
    assert summarize(event) == expected
    if isinstance(event, DeploymentEvent):
        metadata = None if event.metadata is None else json.loads(bytes(event.metadata))
        values = {key: getattr(event, key) for key in EXTRAS} | {"metadata": metadata}
        assert values == EXTRAS | {"metadata": metadata} | extra
        assert not event.time_unreadable


# For each preset: the field of the state, and its values that mean succeeded, failed, or neither.
STATES: dict[str, tuple[str, str, str, str]] = {
    "native": ("eventType", "finished", "failed", "started custom"),
    "github": (
        "deployment_status.state",
        "success",
        "failure error",
        "pending in_progress queued waiting inactive",
    ),
    "github-workflow-run": (
        "workflow_run.conclusion",
        "success",
        "failure cancelled timed_out startup_failure",
        "neutral skipped stale action_required",
    ),
    "gitlab": ("status", "success", "failed canceled", "created running blocked approved rejected"),
    "argocd": ("status.operationState.phase", "Succeeded", "Failed Error", "Running Terminating"),
    "argo-rollouts": ("outcome", "succeeded", "failed", "started"),
    "flux": ("severity", "info", "error", "trace"),
    "circleci": ("workflow.status", "success", "failed error canceled", "on_hold running"),
    "buildkite": (
        "build.state",
        "passed",
        "failed canceled",
        "scheduled running blocked canceling",
    ),
    "azure-devops": (
        "resource.environment.status",
        "succeeded",
        "rejected canceled partiallySucceeded",
        "inProgress queued scheduled notStarted undefined",
    ),
    "octopus": (
        "Payload.Event.Category",
        "DeploymentSucceeded",
        "DeploymentFailed",
        "DeploymentQueued DeploymentStarted GuidedFailureInterruptionRaised",
    ),
    "harness": (
        "eventData.eventType",
        "PipelineSuccess",
        "PipelineFailed",
        "PipelineStart PipelineEnd PipelinePaused StageSuccess StageFailed",
    ),
    "spinnaker": (
        "content.execution.status",
        "SUCCEEDED",
        "TERMINAL CANCELED STOPPED",
        "NOT_STARTED RUNNING PAUSED SKIPPED",
    ),
    "vercel": (
        "type",
        "deployment.succeeded",
        "deployment.error deployment.canceled",
        "deployment.created deployment.ready deployment.promoted",
    ),
    "heroku": ("data.status", "succeeded", "failed", "pending"),
    "render": ("data.status", "succeeded", "failed canceled", "live"),
    "google-cloud-deploy": (
        "message.attributes.Action",
        "Succeed",
        "Failure Cancelled",
        "Start Pending",
    ),
    "eventbridge-codedeploy": ("detail.state", "SUCCESS", "FAILURE STOP", "START READY"),
    "jenkins-generic-event": ("data.result", "SUCCESS", "FAILURE ABORTED UNSTABLE", "NOT_BUILT"),
    "bitbucket": ("commit_status.state", "SUCCESSFUL", "FAILED STOPPED", "INPROGRESS"),
}


@pytest.mark.parametrize("preset", STATES)
def test_documented_states_map_to_outcomes(sources: dict[str, Source], preset: str) -> None:
    """Each state that the vendor documents, and none that only resembles it."""
    path, succeeded, failed, neither = STATES[preset]
    sample = next(sample for sample in SAMPLES if str(sample) == f"{preset}/succeeded")
    outcomes = {"succeeded": succeeded, "failed": failed, None: neither}
    for outcome, states in outcomes.items():
        for state in states.split():
            body = with_value(sample.body, tuple(path.split(".")), state)
            assert summarize(map_sample(sources, sample, body)).get("outcome") == outcome, state
            body = with_value(sample.body, tuple(path.split(".")), state.swapcase())
            assert "outcome" not in summarize(map_sample(sources, sample, body)), state


@pytest.mark.parametrize(
    ("kind", "state", "outcome"),
    [
        ("pipelinerun.finished", "success", "succeeded"),
        ("pipelinerun.finished", "failure", "failed"),
        ("taskrun.finished", "error", "failed"),
        ("taskrun.finished", "cancel", "failed"),
        ("testcaserun.finished", "success", None),
    ],
)
def test_cdevents_run_has_its_documented_outcome(
    sources: dict[str, Source], kind: str, state: str, outcome: str | None
) -> None:
    """Pipeline and task runs that name an environment; a type ends in a schema version."""
    sample = next(sample for sample in SAMPLES if str(sample) == "cdevents/failed")
    body = with_value(sample.body, ("context", "type"), f"dev.cdevents.{kind}.9.9.9-draft")
    body = with_value(body, ("subject", "content", "outcome"), state)
    assert summarize(map_sample(sources, sample, body)).get("outcome") == outcome


@every_sample
def test_sample_means_the_same_as_part_of_a_large_body(
    sources: dict[str, Source], sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large body only the fields that the preset names are decoded."""
    event = map_sample(sources, sample, sample.body)
    monkeypatch.setattr(mapping, "LARGE_BYTES", 0)
    assert map_sample(sources, sample, sample.body) == event


@every_completed
def test_repeated_delivery_keeps_its_id(sources: dict[str, Source], sample: Sample) -> None:
    """Other headers of the sender may differ from attempt to attempt."""
    headers = sample.headers | {"X-Attempt-Number": "2", "User-Agent": "again"}
    second_attempt = msgspec.structs.replace(sample, headers=headers)
    first, second = (
        map_sample(sources, attempt, attempt.body) for attempt in (sample, second_attempt)
    )
    assert isinstance(first, DeploymentEvent)
    assert isinstance(second, DeploymentEvent)
    assert first.delivery == second.delivery


@every_sample
def test_truncated_sample_is_invalid(sources: dict[str, Source], sample: Sample) -> None:
    """The body may end after any byte."""
    raw = json.dumps(sample.body).encode()
    for end in (*range(1, len(raw), 1 + len(raw) // 40), len(raw) - 1):
        assert isinstance(map_sample(sources, sample, raw[:end]), InvalidPayload)


@every_completed
def test_missing_field_never_changes_the_outcome(
    sources: dict[str, Source], sample: Sample
) -> None:
    """Each field in turn: the same outcome, or no completed deployment."""
    for path in json_paths(sample.body):
        event = map_sample(sources, sample, without_path(sample.body, path))
        if isinstance(event, DeploymentEvent):
            assert event.outcome == sample.expected["outcome"], path


@every_sample
def test_field_of_a_wrong_type_never_raises(sources: dict[str, Source], sample: Sample) -> None:
    """Each field in turn, of every wrong type; no invalid key is accepted."""
    for path, value in itertools.product(json_paths(sample.body), ODD_VALUES):
        event = map_sample(sources, sample, with_value(sample.body, path, value))
        if isinstance(event, DeploymentEvent):
            names = (event.project, event.environment, event.application, event.version)
            assert event.deployment_id or all(names)
            assert not any("\x00" in (name or "") or len(name or "") > 256 for name in names)


@every_completed
def test_invalid_time_is_reported_and_keeps_the_event(
    sources: dict[str, Source], sample: Sample
) -> None:
    """Only the one field that holds the time has this effect."""
    changed_requests = [
        *((sample, with_value(sample.body, path, "soon")) for path in json_paths(sample.body)),
        *(
            (replace(sample, headers=sample.headers | {name: "soon"}), sample.body)
            for name in sample.headers
        ),
    ]
    events = [map_sample(sources, changed, body) for changed, body in changed_requests]
    reported = [
        event for event in events if isinstance(event, DeploymentEvent) and event.time_unreadable
    ]
    assert all(event.event_time is None for event in reported)
    assert len(reported) == (sample.expected["event_time"] is not None)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(data=st.data())
def test_arbitrary_json_maps_to_an_event(sources: dict[str, Source], data: st.DataObject) -> None:
    """For every preset: noise, and samples with noise in several places."""
    sample = data.draw(st.sampled_from(SAMPLES))
    body = sample.body
    for _ in range(data.draw(st.integers(1, 4))):
        paths = list(json_paths(body))
        if not paths:
            break
        body = with_value(body, data.draw(st.sampled_from(paths)), data.draw(JSON_VALUES))
    assert isinstance(map_sample(sources, sample, body), Event)
    noise = json.dumps(data.draw(JSON_VALUES)).encode()
    for preset in PRESETS:
        other = Sample(preset, "", sample.headers, noise, {})
        assert isinstance(map_sample(sources, other, noise), Event)


@settings(max_examples=10)
@given(
    bodies=st.lists(JSON_VALUES | st.sampled_from([sample.body for sample in SAMPLES]), max_size=4)
)
def test_every_source_responds_with_a_documented_status(presets: str, bodies: list[Any]) -> None:
    """Any body to any source over HTTP: no status but those of the table."""
    opened = make_sources(presets, verify='verify = "none"')

    async def post_all() -> set[int]:
        async with (
            serve_receiver(BacklogStub(), *opened.values()) as (host, port),
            ClientSession() as session,
        ):
            statuses = set()
            for name in opened:
                for body in bodies:
                    url = f"http://{host}:{port}/webhooks/{name}"
                    async with session.post(url, data=json.dumps(body).encode()) as response:
                        await parse_response(response)
                        statuses.add(response.status)
            return statuses

    assert asyncio.run(post_all()) <= {200, 202, 400, 422}
