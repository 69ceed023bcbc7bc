"""Is every CD system that we know read as a person would? Payloads of ours, whole and broken."""

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

from service.accept.mapping import Batch, DeploymentCompleted, Event, parse_webhook
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
# What is in few payloads, and what it is in all others. Metadata is told where it is compared.
EXTRAS = {"deployment_id": None, "project": "default", "traceparent": None, "metadata": None}
KINDS = {"succeeded", "failed", "unfinished", "unrelated"}
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)
every_ended = pytest.mark.parametrize(
    "sample", [one for one in SAMPLES if "outcome" in one.expected], ids=str
)


@pytest.fixture(scope="module")
def sources(presets: str) -> dict[str, Source]:
    """Give a source of every preset."""
    return make_sources(presets)


def map_sample(sources: dict[str, Source], sample: Sample, body: Any) -> Event:
    """Read a body as this sample's sender would have sent it; bytes are one already."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.lower(): value for name, value in sample.headers.items()}
    event = parse_webhook(sources[sample.preset], SignedRequest(headers, {}, raw))
    assert not isinstance(event, Batch)
    return event


def test_every_preset_has_payloads_of_every_kind(presets: str) -> None:
    """Ended well, ended badly, not ended, and not about deployments at all."""
    names = tomllib.loads(presets)["preset"].keys()
    assert names - {"standard-webhooks"} == set(PRESETS)
    for name in names - {"standard-webhooks", "launchdarkly"}:
        assert {one.name for one in SAMPLES if one.preset == name} >= KINDS, name


@every_sample
def test_a_payload_is_read_as_a_person_would(sources: dict[str, Source], sample: Sample) -> None:
    """Outcome, names, time and delivery; or ignored; or what is missing."""
    event = map_sample(sources, sample, sample.body)
    extra = {key: sample.expected[key] for key in EXTRAS.keys() & sample.expected.keys()}
    expected = {key: value for key, value in sample.expected.items() if key not in EXTRAS}
    assert summarize(event) == expected
    if isinstance(event, DeploymentCompleted):
        metadata = None if event.metadata is None else json.loads(bytes(event.metadata))
        found = {key: getattr(event, key) for key in EXTRAS} | {"metadata": metadata}
        assert found == EXTRAS | {"metadata": metadata} | extra
        assert not event.time_unreadable


# What a sender's field may hold: the words that end a deployment, and some that do not.
WORDS: dict[str, tuple[str, str, str, str]] = {
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
    "argo-rollouts": ("status.phase", "Healthy", "Degraded", "Progressing Paused"),
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


@pytest.mark.parametrize("preset", WORDS)
def test_every_word_of_a_sender_is_an_outcome_or_none(
    sources: dict[str, Source], preset: str
) -> None:
    """What its vendor documents, and nothing that only looks like it."""
    path, succeeded, failed, neither = WORDS[preset]
    sample = next(one for one in SAMPLES if str(one) == f"{preset}/succeeded")
    outcomes = {"succeeded": succeeded, "failed": failed, None: neither}
    for outcome, words in outcomes.items():
        for word in words.split():
            body = with_value(sample.body, tuple(path.split(".")), word)
            assert summarize(map_sample(sources, sample, body)).get("outcome") == outcome, word
            body = with_value(sample.body, tuple(path.split(".")), word.swapcase())
            assert "outcome" not in summarize(map_sample(sources, sample, body)), word


@pytest.mark.parametrize(
    ("kind", "word", "outcome"),
    [
        ("pipelinerun.finished", "success", "succeeded"),
        ("pipelinerun.finished", "failure", "failed"),
        ("taskrun.finished", "error", "failed"),
        ("taskrun.finished", "cancel", None),
        ("testcaserun.finished", "success", None),
    ],
)
def test_a_run_of_cdevents_ends_as_it_says(
    sources: dict[str, Source], kind: str, word: str, outcome: str | None
) -> None:
    """Pipelines and tasks that name an environment; their types carry a version of the schema."""
    sample = next(one for one in SAMPLES if str(one) == "cdevents/failed")
    body = with_value(sample.body, ("context", "type"), f"dev.cdevents.{kind}.9.9.9-draft")
    body = with_value(body, ("subject", "content", "outcome"), word)
    assert summarize(map_sample(sources, sample, body)).get("outcome") == outcome


@every_ended
def test_a_delivery_that_comes_again_has_the_key_of_before(
    sources: dict[str, Source], sample: Sample
) -> None:
    """Whatever else its sender counts up from try to try."""
    headers = sample.headers | {"X-Attempt-Number": "2", "User-Agent": "again"}
    again = msgspec.structs.replace(sample, headers=headers)
    first, second = (map_sample(sources, one, one.body) for one in (sample, again))
    assert isinstance(first, DeploymentCompleted)
    assert isinstance(second, DeploymentCompleted)
    assert first.delivery == second.delivery


@every_sample
def test_a_truncated_payload_is_unreadable(sources: dict[str, Source], sample: Sample) -> None:
    """Wherever the bytes end too soon."""
    raw = json.dumps(sample.body).encode()
    for end in (*range(1, len(raw), 1 + len(raw) // 40), len(raw) - 1):
        assert isinstance(map_sample(sources, sample, raw[:end]), InvalidPayload)


@every_ended
def test_a_missing_field_never_makes_another_outcome(
    sources: dict[str, Source], sample: Sample
) -> None:
    """Every field in turn: the same deployment, told less well, or none."""
    for path in json_paths(sample.body):
        event = map_sample(sources, sample, without_path(sample.body, path))
        if isinstance(event, DeploymentCompleted):
            assert event.outcome == sample.expected["outcome"], path


@every_sample
def test_a_field_of_another_type_has_an_answer(sources: dict[str, Source], sample: Sample) -> None:
    """Every field in turn, of every wrong type: no exception, no name that is none."""
    for path, odd in itertools.product(json_paths(sample.body), ODD_VALUES):
        event = map_sample(sources, sample, with_value(sample.body, path, odd))
        if isinstance(event, DeploymentCompleted):
            names = (event.project, event.environment, event.application, event.version)
            assert event.deployment_id or all(names)
            assert not any("\x00" in (name or "") or len(name or "") > 256 for name in names)


@every_ended
def test_a_time_that_is_none_costs_the_time_and_not_the_event(
    sources: dict[str, Source], sample: Sample
) -> None:
    """It is said, so that it can be counted; nowhere but in the one place of the time."""
    garbled = [
        *((sample, with_value(sample.body, path, "soon")) for path in json_paths(sample.body)),
        *(
            (replace(sample, headers=sample.headers | {name: "soon"}), sample.body)
            for name in sample.headers
        ),
    ]
    events = [map_sample(sources, changed, body) for changed, body in garbled]
    said = [
        event
        for event in events
        if isinstance(event, DeploymentCompleted) and event.time_unreadable
    ]
    assert all(event.event_time is None for event in said)
    assert len(said) == (sample.expected["event_time"] is not None)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(data=st.data())
def test_arbitrary_json_has_an_answer(sources: dict[str, Source], data: st.DataObject) -> None:
    """Noise, and payloads with noise in several places, to every preset."""
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
@given(bodies=st.lists(JSON_VALUES | st.sampled_from([one.body for one in SAMPLES]), max_size=4))
def test_every_receiver_gives_a_documented_answer(presets: str, bodies: list[Any]) -> None:
    """Over HTTP: whatever body to whatever receiver, nothing but the statuses of the table."""
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
                    async with session.post(url, data=json.dumps(body).encode()) as heard:
                        await parse_response(heard)
                        statuses.add(heard.status)
            return statuses

    assert asyncio.run(post_all()) <= {200, 202, 400, 422}
