"""Tests of sources with ``report = true``: which starts they understand, and what is refused."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from service.accept.filters import DeploymentFilter
from service.accept.mapping import DeploymentEvent, Event, Ignored, parse_webhook
from service.accept.signatures import SignedRequest
from service.accept.sources import Source, SourceError, load_sources
from tests.accept.sample_webhooks import Sample, make_sources, read_samples, with_value

STARTED_MS = 1_795_521_600_000
TWO_MINUTES_MS, ONE_MINUTE_MS = 120_000, 60_000
BODY_CHANGES: dict[str, tuple[tuple[str, ...], object]] = {
    "argo-rollouts": (("outcome",), "started"),
    "argocd": (("status", "operationState", "operation"), {"sync": {"revisions": ["5d1c6b0"]}}),
    "buildkite": (("event",), "build.running"),
    "cdevents": (("customData", "version"), "1.4.0"),
    "github-workflow-run": (("action",), "in_progress"),
}
# How long before the time in the sample the deployment started.
STARTED_BEFORE_MS = {
    "buildkite": TWO_MINUTES_MS,
    "harness": ONE_MINUTE_MS,
    "spinnaker": ONE_MINUTE_MS,
    "tekton": -158,
}
WITHOUT_START = {"circleci", "flux", "jenkins-generic-event", "launchdarkly"}
STARTS = {sample.preset: sample for sample in read_samples() if sample.name == "unfinished"}


@pytest.fixture(scope="module")
def sources(presets: str) -> dict[str, Source]:
    """Return a source of every preset, without report."""
    return make_sources(presets)


def map_start(source: Source, sample: Sample) -> Event:
    """Map the sample of a start."""
    path, value = BODY_CHANGES.get(sample.preset, ((), None))
    body = with_value(sample.body, path, value) if path else sample.body
    headers = {name.lower(): value for name, value in sample.headers.items()}
    if sample.preset == "tekton":
        headers["ce-type"] = "dev.tekton.event.pipelinerun.started.v1"
    event = parse_webhook(source, SignedRequest(headers, {}, json.dumps(body).encode()))
    assert isinstance(event, DeploymentEvent | Ignored), event
    return event


@pytest.mark.parametrize("preset", sorted(STARTS.keys() - WITHOUT_START))
def test_preset_understands_a_start(sources: dict[str, Source], preset: str) -> None:
    """With report it is reported with its time; without it is ignored as before."""
    source, sample = sources[preset], STARTS[preset]
    assert isinstance(map_start(source, sample), Ignored)
    event = map_start(replace(source, report=True), sample)
    assert isinstance(event, DeploymentEvent), event
    assert (event.outcome, event.report, event.application) == ("started", True, "web")
    assert event.event_time == STARTED_MS - STARTED_BEFORE_MS.get(preset, 0)


@pytest.mark.parametrize("preset", sorted(WITHOUT_START - {"launchdarkly"}))
def test_preset_without_a_start_ignores_it(sources: dict[str, Source], preset: str) -> None:
    """Its sender has no webhook for it, or none that is documented."""
    assert isinstance(map_start(replace(sources[preset], report=True), STARTS[preset]), Ignored)


def map_native(sources: dict[str, Source], **fields: object) -> Event:
    """Map a native body of a source with report."""
    body: dict[str, Any] = dict(STARTS["native"].body) | fields
    source = replace(sources["native"], report=True)
    event = parse_webhook(source, SignedRequest({}, {}, json.dumps(body).encode()))
    assert isinstance(event, DeploymentEvent | Ignored), event
    return event


def test_name_of_a_version_is_read_only_to_report_it(sources: dict[str, Source]) -> None:
    """A name that is too long, or no text, is left out."""
    event = map_native(sources, eventType="finished")
    assert isinstance(event, DeploymentEvent)
    assert (event.version_name, event.report) == ("1.4.0", True)
    for name in ("x" * 257, {"a": 1}, "", None):
        unnamed = map_native(sources, eventType="finished", versionName=name)
        assert isinstance(unnamed, DeploymentEvent)
        assert unnamed.version_name is None


def test_start_that_cannot_be_told_is_ignored(sources: dict[str, Source]) -> None:
    """It is not parked: its end is what counts. With an id LaunchDarkly knows it already."""
    incomplete = map_native(sources, version="")
    assert isinstance(incomplete, Ignored)
    assert "its event is incomplete: missing: version" in incomplete.reason
    known = map_native(sources, deploymentId="a0eebc99")
    assert isinstance(known, Ignored)
    assert "already knows" in known.reason


def test_filter_of_outcomes_lets_a_start_through(sources: dict[str, Source]) -> None:
    """Nobody knows yet how it ends; the other filters concern it."""
    event = map_native(sources)
    assert DeploymentFilter(outcomes=["failed"]).apply(event) is event
    assert isinstance(DeploymentFilter(applications=["other"]).apply(event), Ignored)


OUTCOME = '{{ path = "body.s", succeeded = ["a"], started = ["{}"] }}'
HEAD = '[[source]]\nname = "a"\nsecrets = ["s"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f'{HEAD}preset = "launchdarkly"\nproject = "p"\nreport = true',
            "report: this source ends no deployment: there is nothing to report to LaunchDarkly",
        ),
        (
            f'{HEAD}preset = "github"\nreport = true\n[source.fields]\nproject = "body.p"',
            None,
        ),
        (
            f'{HEAD}preset = "gitlab"\nreport = true',
            "report: a report must name the project: add it to the source",
        ),
        (
            f'{HEAD}preset = "render"\nreport = true',
            "report: a report must name the project, environment, version: add it",
        ),
        (
            f'{HEAD}preset = "github"\nproject = "p"\noutcome = {OUTCOME.format("b")}',
            "outcome.started: it has no effect without report = true",
        ),
        (
            f'{HEAD}preset = "github"\nproject = "p"\n[source.fields]\nstarted_at = "body.at"',
            "fields.started_at: it has no effect without report = true",
        ),
        (
            f'{HEAD}preset = "github"\nreport = true\noutcome = {OUTCOME.format("a")}',
            "outcome.started: a value here must not be one of succeeded or failed",
        ),
        (f'{HEAD}preset = "github"\nproject = "p"\nreport = "yes"', "report: Expected `bool`"),
    ],
)
def test_source_that_could_tell_nothing_is_refused(
    presets: str, text: str, message: str | None
) -> None:
    """With the key and the fix."""
    if message is None:
        assert load_sources(text, presets=presets, read_secret=str)["a"].report
        return
    with pytest.raises(SourceError) as caught:
        load_sources(text, presets=presets, read_secret=str)
    assert message in str(caught.value)
