"""Vendors' own examples, mapped by the preset of their sender."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from service.accept.mapping import Batch, DeploymentEvent, Event, parse_webhook
from service.accept.signatures import SignedRequest, is_genuine
from service.accept.sources import Source, load_sources, native_source
from service.cli.explain import explain_webhook
from tests.accept.sample_webhooks import REQUIRED_FIELDS, make_sources, summarize
from tests.vendor_samples import FOLDER, require_samples, require_signature_vectors

IGNORED: tuple[str, ...] = ()
HARNESS = {"x-deployment-environment": "test", "x-deployment-version": "1"}
BITBUCKET = {"x-event-key": "repo:commit_status_updated"}

# (preset, pattern of files) -> the headers of the request, and for each file the expected outcome,
# environment, application and version; a file without an entry must be ignored.
EXAMPLES: dict[tuple[str, str], tuple[Mapping[str, str], dict[str, tuple[str, ...]]]] = {
    ("github", "github/deployment_status.*.json"): (
        {"x-github-event": "deployment_status"},
        {
            "deployment_status.payload": ("succeeded", "production", "Hello-World", "f95f852b"),
            "deployment_status.with-installation.payload": (
                "succeeded",
                "production",
                "Hello-World",
                "f95f852b",
            ),
        },
    ),
    ("github", "launchdarkly/deployment-events-action.*.json"): (
        {"x-github-event": "deployment_status"},
        {"deployment-events-action.deployment_status": ("missing", "match('^deploy:")},
    ),
    ("github", "github/deployment.payload.json"): ({"x-github-event": "deployment"}, {}),
    ("github", "github/[!d]*.payload.json"): ({"x-github-event": "ping"}, {}),
    ("github", "github/ping.urlencoded.body.txt"): ({"x-github-event": "ping"}, {}),
    ("github-workflow-run", "github/workflow_run.*.json"): (
        {"x-github-event": "workflow_run"},
        {
            "workflow_run.completed.payload": ("succeeded", "production", "octo-repo", "3484a3fb"),
            "workflow_run.completed.with-pull-requests.payload": (
                "succeeded",
                "production",
                "octo-repo",
                "3484a3fb",
            ),
        },
    ),
    ("gitlab", "gitlab/deployment.[!h]*.json"): (
        {},
        {
            "deployment.success": (
                "succeeded",
                "staging",
                "test-deployment-webhooks",
                "279484c09fbe",
            ),
            "deployment.success.zulip-capture": ("succeeded", "production", "test", "58793660b22d"),
            "deployment.failed.zulip-capture": ("failed", "production", "test", "846d8de0b7b3"),
        },
    ),
    ("argocd", "argocd/*.json"): (
        {},
        {
            "cdviz.002": ("succeeded", "aaaaaaaa-aaaaaaa", "aaaaaaaa-aaaaaaa", "0.6.3"),
            "cdviz.008_sync_podinfo_1_2": ("succeeded", "argocd", "aaaaaaaaa", "94fcc5e8"),
            "cdviz.010_sync_podinfo_1_4": ("succeeded", "aaaaaaa", "aaaaaaa", "6.9.0"),
            "cdviz.013_sync_podinfo_2_3": ("succeeded", "argocd", "aaaaaaaaa", "a390e572"),
            "cdviz.016_sync_podinfo_3_3": ("succeeded", "argocd", "aaaaaaaaa", "2396abec"),
            "cdviz.017_sync_podinfo_3_4": ("succeeded", "aaaaaaa", "aaaaaaa", "6.9.0"),
            "cdviz.019_sync_podinfo_4_2": ("succeeded", "argocd", "aaaaaaaaa", "224f6a2d"),
        },
    ),
    ("flux", "flux/*.json"): (
        {},
        {
            "event.kustomization.reconciliation-succeeded.composed": (
                "succeeded",
                "production",
                "webapp",
                "802723078aff",
            ),
            "event.kustomization.validation-failed": ("missing", "metadata.env"),
        },
    ),
    ("circleci", "circleci/*.json"): (
        {},
        {
            "workflow-completed.github-oauth": (
                "succeeded",
                "production",
                "webhook-service",
                "1dc6aa69",
            ),
            "workflow-completed.github-app-gitlab": (
                "failed",
                "production",
                "hello-world",
                "850a1519",
            ),
        },
    ),
    ("buildkite", "buildkite/*.json"): (
        {},
        {"build.finished.composed": ("missing", "build.meta_data.environment")},
    ),
    ("cdevents", "cdevents/*/*.json"): (
        {},
        {
            "service_deployed": ("succeeded", "test123", "mySubject123", "0b31b1c0"),
            "service_upgraded": ("succeeded", "test123", "mySubject123", "0b31b1c0"),
            "service_rolledback": ("succeeded", "test123", "mySubject123", "0b31b1c0"),
        },
    ),
    ("cdevents", "harness/cdevents.*.json"): ({}, {}),
    ("harness", "harness/notification.*.json"): (
        HARNESS,
        {
            "notification.PipelineSuccess": ("succeeded", "test", "PIPELINE_ID", "1"),
            "notification.PipelineFailed": ("failed", "test", "PIPELINE_ID", "1"),
        },
    ),
    ("azure-devops", "azure-devops/*.json"): (
        {},
        {
            "ms.vss-release.deployment-completed-event": (
                "succeeded",
                "Dev",
                "Fabrikam",
                "Release-1",
            )
        },
    ),
    ("octopus", "octopus/*.json"): (
        {},
        {
            "subscription.deployment-failed": (
                "failed",
                "Development",
                "Argo CD Octopub",
                "0.1.178",
            ),
            "subscription.deployment-succeeded.derived": (
                "succeeded",
                "Development",
                "Argo CD Octopub",
                "0.1.178",
            ),
        },
    ),
    ("spinnaker", "spinnaker/*.json"): (
        {},
        {
            "echo-rest.pipeline-complete.composed": (
                "succeeded",
                "prod-cluster",
                "payments",
                "a90a8a2c",
            ),
            "echo-rest.pipeline-failed.composed": (
                "failed",
                "prod-cluster",
                "payments",
                "a90a8a2c",
            ),
        },
    ),
    ("vercel", "vercel/*.json"): (
        {},
        {
            "deployment.succeeded.derived": (
                "succeeded",
                "production",
                "nextjsblog-demo-new",
                "7488658d",
            )
        },
    ),
    ("heroku", "heroku/*.json"): (
        {},
        {"api-release.update.succeeded": ("succeeded", "production", "my-app", "69eec518")},
    ),
    ("render", "render/*.json"): (
        {},
        {"deploy_ended.composed": ("succeeded", "production", "backend-api", "evj-")},
    ),
    ("google-cloud-deploy", "gcp-cloud-deploy/*.json"): (
        {},
        {"pubsub-push.rollout-succeed.composed": ("succeeded", "prod", "web-app", "rel-7fd1a60b")},
    ),
    ("eventbridge-codedeploy", "aws/codedeploy.eventbridge.*.json"): (
        {},
        {
            "codedeploy.eventbridge.deployment-success": (
                "succeeded",
                "myDeploymentGroup",
                "myApplication",
                "d-123456789",
            )
        },
    ),
    ("tekton", "tekton/*.body.json"): (
        {"ce-specversion": "1.0", "ce-type": "dev.tekton.event.taskrun.unknown.v1"},
        {},
    ),
    ("jenkins-generic-event", "jenkins/*.json"): (
        {},
        {"generic-event.run-finalized": ("missing", "data.actions[].parameters[]")},
    ),
    ("bitbucket", "bitbucket/*.json"): (
        BITBUCKET,
        {"commit_status_changed": ("succeeded", "production", "repository-name", "9fec8477")},
    ),
    ("launchdarkly", "launchdarkly/webhook.*.json"): ({}, {}),
    ("native", "launchdarkly/api.post-deployment-event.*.json"): (
        {},
        {
            "api.post-deployment-event.from-schema-examples": (
                "succeeded",
                "production",
                "billing-service",
                "a90a8a2",
            )
        },
    ),
}

# Files that are no webhook of a sender with a preset.
OTHER_FILES = {
    "aws/codedeploy.trigger.*": "the message inside an SNS notification",
    "aws/sns.*": "SNS needs code of its own; docs/senders.md names EventBridge",
    "cdevents/schemas/**/*": "schemas",
    "cloudevents/binary.percent-encoded-header.*": "test_cloudevents.py has the same value",
    "cloudevents/options-handshake.*": "test_cloudevents.py has the handshake",
    "drone/*": "Drone's HTTP signatures need code of their own",
    "jenkins/outbound-webhook.*": "a plugin without a preset",
    "keptn/*": "Keptn v1 is no longer maintained",
    "launchdarkly/api.deployment*": "responses of LaunchDarkly's API",
    "netlify/*": "Netlify's JWT needs code of its own",
    "*/*.headers.json": "the headers of another file",
    "ORIGINS.md": "where the files are from",
}


@pytest.fixture(scope="module")
def sources(presets: str) -> dict[str, Source]:
    """Return a source of every preset."""
    return make_sources(presets)


def map_example(source: Source, body: bytes, headers: Mapping[str, str]) -> Event | Batch:
    """Map a vendor's example; ``sources try`` must report the same of it."""
    request = SignedRequest(headers, {}, body)
    event = parse_webhook(source, request)
    explanation = explain_webhook(source, request, now_s=0)
    assert explanation.events == (event.events if isinstance(event, Batch) else (event,))
    assert explanation.report.count("\nanswer ") == len(explanation.events)
    return event


def matches_expected(summary: dict[str, Any], expected: tuple[str, ...]) -> bool:
    """Return whether each value starts as expected; nothing expected means ignored."""
    if not expected:
        return summary == {"ignored": True}
    if expected[0] == "missing":
        return str(summary.get("missing", [""])[0]).startswith(expected[1])
    names = ("outcome", "environment", "application", "version")
    values = [str(summary.get(name, "\0")) for name in names]
    return all(text.startswith(start) for text, start in zip(values, expected, strict=True))


@pytest.mark.parametrize(("preset", "pattern"), EXAMPLES)
def test_vendor_example_is_mapped_as_documented(
    sources: dict[str, Source], preset: str, pattern: str
) -> None:
    """Blocked, approved and running deployments, pings and removals are ignored."""
    headers, expected = EXAMPLES[preset, pattern]
    wrong = {}
    for path in require_samples(f"webhooks/{pattern}"):
        summary = summarize(map_example(sources[preset], path.read_bytes(), headers))
        if not matches_expected(summary, expected.get(path.name.rpartition(".")[0], IGNORED)):
            wrong[path.name] = summary
    assert wrong == {}


def test_published_cloudevents_are_mapped_alike_in_every_mode(sources: dict[str, Source]) -> None:
    """Structured, binary and batched events name the same deployment."""
    expected = ("succeeded", "test123", "mySubject123", "0b31b1c0")
    for path in require_samples("webhooks/cloudevents/*service-deployed*.json"):
        sent = json.loads(path.read_text())
        raw = json.dumps(sent["body"]).encode()
        summary = summarize(map_example(sources["cdevents"], raw, sent["headers"]))
        assert matches_expected(summary, expected), summary
    for path in require_samples("webhooks/cloudevents/batch.request.json"):
        sent = json.loads(path.read_text())
        raw = json.dumps(sent["body"]).encode()
        summary = summarize(map_example(sources["cdevents"], raw, sent["headers"]))
        assert [event["outcome"] for event in summary["events"]] == ["succeeded", "succeeded"]


def test_every_sample_is_read_or_is_no_webhook_of_a_preset() -> None:
    """No file of the vendors' samples is left out unnoticed."""
    require_samples("webhooks/*")
    folder = FOLDER / "webhooks"
    read = {f"{pattern}" for _, pattern in EXAMPLES} | {"cloudevents/*service-deployed*"}
    read |= {"cloudevents/batch.request.json", "standard-webhooks/*"}
    known = {path for pattern in read | OTHER_FILES.keys() for path in folder.glob(pattern)}
    assert {path for path in folder.rglob("*") if path.is_file()} - known == set()


def test_published_request_of_standard_webhooks_is_accepted(presets: str) -> None:
    """The native source verifies its signature at its time, and maps its body."""
    (path,) = require_samples("webhooks/standard-webhooks/*.json")
    sent = json.loads(path.read_text(encoding="utf-8"))
    source = native_source([sent["secret"]], presets=presets)
    request = SignedRequest(sent["headers"], {}, sent["body_text"].encode())
    now_s = int(sent["headers"]["webhook-timestamp"])
    explanation = explain_webhook(source, request, now_s=now_s)
    assert explanation.accepted
    (event,) = explanation.events
    assert isinstance(event, DeploymentEvent)
    assert (event.application, event.delivery) == ("web-app", sent["headers"]["webhook-id"])


# Source of a published vector -> the preset that must verify it.
VECTOR_PRESETS = {
    "github": "github",
    "circleci": "circleci",
    "flux": "flux",
    "vercel": "vercel",
    "gitlab": "gitlab",
    "bitbucket": "bitbucket",
    "launchdarkly": "launchdarkly",
}


def test_preset_verifies_published_vectors_as_documented(presets: str) -> None:
    """Each vector is verified by the preset of its sender."""
    vectors = [
        vector for vector in require_signature_vectors() if vector["source"] in VECTOR_PRESETS
    ]
    assert vectors
    wrong = []
    for vector in vectors:
        preset = VECTOR_PRESETS[vector["source"]]
        text = f'[[source]]\nname = "s"\npreset = "{preset}"\nproject = "default"\n'
        text += f"secrets = {json.dumps(vector['secrets'])}\n"
        text += f"[source.fields]\n{REQUIRED_FIELDS.get(preset, '')}\n"
        source = load_sources(text, presets=presets, read_secret=str)["s"]
        headers = {name.lower(): value for name, value in vector["headers"].items()}
        request = SignedRequest(headers, {}, vector["body"].encode())
        genuine = is_genuine(source.checks, request, now_s=vector.get("now", 0))
        if genuine is not (vector["expected"] == "valid"):
            wrong.append(vector["id"])
    assert wrong == []
