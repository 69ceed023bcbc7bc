"""Tests of the explanation of a webhook: the receiver's answer, and where values came from."""

import hmac
import json
from collections.abc import Mapping

import pytest

from service.accept.mapping import DeploymentEvent
from service.accept.signatures import SignedRequest
from service.accept.source_files import read_presets
from service.accept.sources import Source, load_sources
from service.cli.explain import Explanation, explain_webhook

GITHUB = """
[[source]]
name = "web"
preset = "github"
secrets = ["secret"]
project = "default"
environments = { "Production (EU)" = "prod-eu" }
"""
BODY = {
    "deployment_status": {
        "state": "success",
        "environment": "Production (EU)",
        "updated_at": "2026-11-24T12:00:00Z",
    },
    "deployment": {"sha": "7fd1a60", "payload": {}},
    "repository": {"name": "web"},
}
WHERE = "body.deployment_status.environment || body.deployment.environment"
STATE = "body.deployment_status.state"
NATIVE = '[[source]]\nname = "ci"\npreset = "native"\nsecrets = ["secret"]\n'
BEARER = {"authorization": "Bearer secret"}
EVENT = {"deploymentId": "a0eebc99", "eventType": "finished"}


def load_source(text: str) -> Source:
    """Load the one source of a file."""
    (source,) = load_sources(text, presets=read_presets(), read_secret=str).values()
    return source


def explain_github(
    body: object, *, signed: bool = True, event: str = "deployment_status"
) -> Explanation:
    """Try a body of GitHub's."""
    raw = json.dumps(body).encode()
    headers = {"x-github-event": event, "x-github-delivery": "guid"}
    if signed:
        digest = hmac.new(b"secret", raw, "sha256").hexdigest()
        headers["x-hub-signature-256"] = f"sha256={digest}"
    return explain_webhook(load_source(GITHUB), SignedRequest(headers, {}, raw), now_s=0)


def explain_native(body: object, headers: Mapping[str, str] = BEARER) -> Explanation:
    """Try a native body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return explain_webhook(load_source(NATIVE), SignedRequest(headers, {}, raw), now_s=0)


APPLICATION = "match('^deploy:(.+)$', body.deployment.task) || body.repository.name"


def test_explanation_of_a_deployment_lists_every_field() -> None:
    """What each comes to, from what, and by which expression."""
    trial = explain_github(BODY)
    assert trial.accepted
    assert isinstance(trial.events[0], DeploymentEvent)
    assert trial.report.splitlines() == [
        "source       web, preset github",
        "verified     yes",
        "",
        'when         "deployment_status" <- headers.x_github_event, as required',
        'outcome      succeeded, as "success" <- body.deployment_status.state',
        "id           nothing <- json(body.deployment.payload).launchdarkly.deploymentId",
        'project      "default", set by the source',
        f'environment  "prod-eu", for "Production (EU)" <- {WHERE}',
        f'application  "web" <- {APPLICATION}',
        'version      "7fd1a60" <- body.deployment.sha',
        'finished_at  "2026-11-24T12:00:00Z" <- body.deployment_status.updated_at',
        "metadata     {} <- json(body.deployment.payload)",
        "answer       queued as find:default/prod-eu/web/7fd1a60 (202), delivery guid",
    ]


def test_explanation_covers_the_mapping_of_a_forged_request() -> None:
    """A body that was copied out of a log has no signature, and its mapping is wanted."""
    trial = explain_github(BODY, signed=False)
    assert not trial.accepted
    assert "no: HMAC-SHA256 in X-Hub-Signature-256: it is missing\n" in trial.report
    assert "rejected (401); if genuine: queued as find:default/prod-eu/web/" in trial.report


def test_explanation_tells_a_wrong_signature_from_a_missing_one() -> None:
    """Of several ways to be verified each is told."""
    report = explain_native(EVENT, {"webhook-signature": "v1,x", "webhook-id": "1"}).report
    assert "no: HMAC-SHA256 in webhook-signature, at most 300 s old: no secret matches" in report
    assert "nor: the secret in Authorization, after Bearer: it is missing" in report


def test_explanation_checks_the_secret_in_the_query() -> None:
    """Senders that can set no header."""
    source = load_source(NATIVE + 'verify = { query = "token" }\n')
    raw = json.dumps(EVENT).encode()
    for query, fault in (({"token": "x"}, "no secret matches"), ({}, "it is missing")):
        trial = explain_webhook(source, SignedRequest({}, query, raw), now_s=0)
        assert f"no: the secret in the URL, as ?token=: {fault}" in trial.report
    assert explain_webhook(source, SignedRequest({}, {"token": "secret"}, raw), now_s=0).accepted


@pytest.mark.parametrize(
    ("trial", "line", "welcome"),
    [
        (
            explain_github(BODY, event="push"),
            'when         "push" <- headers.x_github_event, required: "deployment_status"',
            True,
        ),
        (
            explain_github(BODY | {"deployment_status": {"state": "queued"}}),
            f'outcome      neither succeeded nor failed, as "queued" <- {STATE}',
            True,
        ),
        (
            explain_github(BODY | {"repository": {}}),
            f"answer       parked (202): missing: {APPLICATION}",
            False,
        ),
        (
            explain_native({"eventType": "finished", "projectKey": "p", "version": "1"}),
            "answer       rejected (422): missing: environmentKey, applicationKey",
            False,
        ),
        (explain_native(b"{"), "answer       rejected (400): the body is not JSON", False),
        (
            explain_native(EVENT | {"eventTime": "soon"}),
            'finished_at  "soon" <- body.eventTime, which is not a time: the arrival is used',
            True,
        ),
    ],
    ids=lambda value: "" if isinstance(value, Explanation) else str(value)[:40],
)
def test_explanation_names_the_answer_and_its_reason(
    trial: Explanation, line: str, *, welcome: bool
) -> None:
    """The answer, its status, and the line that explains it."""
    assert line in trial.report.splitlines()
    assert trial.accepted is welcome


def test_explanation_covers_each_event_of_a_batch() -> None:
    """One after the other."""
    batch = [
        {"specversion": "1.0", "id": str(n), "source": "/cd", "type": "t", "data": EVENT}
        for n in range(2)
    ]
    headers = BEARER | {"content-type": "application/cloudevents-batch+json"}
    trial = explain_native(batch, headers)
    assert len(trial.events) == 2
    assert trial.report.count("answer       queued as id:a0eebc99 (202), delivery ") == 2


def test_explanation_escapes_control_characters() -> None:
    """Names come from outside."""
    trial = explain_native(EVENT | {"deploymentId": "\x1b[2J", "version": "\u202e"})
    assert not set("\x1b\u202e") & set(trial.report)
