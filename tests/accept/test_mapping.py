"""What do these bytes say?"""

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from service.accept.mapping import (
    MAX_METADATA_BYTES,
    Batch,
    DeploymentCompleted,
    Event,
    Ignored,
    Unmappable,
    parse_webhook,
)
from service.accept.payload import InvalidPayload
from service.accept.signatures import SignedRequest
from service.accept.sources import Source, load_sources
from tests.factories import make_event
from tests.vendor_samples import require_samples

DEPLOYMENT_ID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FINISHED = {
    "projectKey": "default",
    "environmentKey": "production",
    "applicationKey": "web",
    "version": "7fd1a60",
    "eventType": "finished",
    "eventTime": 1_795_428_000_000,
}


def map_body(source: Source, body: object, **headers: str) -> Event:
    """Read a body, given as JSON or as bytes; headers are given in snake_case."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    event = parse_webhook(source, SignedRequest(names, {}, raw))
    assert not isinstance(event, Batch)
    return event


def map_completed(source: Source, body: object, **headers: str) -> DeploymentCompleted:
    """Read a body that must tell of a deployment that ended."""
    event = map_body(source, body, **headers)
    assert isinstance(event, DeploymentCompleted), event
    return event


def deployment_status(**changes: Any) -> dict[str, Any]:
    """Write what GitHub sends when a deployment's state changes."""
    return {
        "deployment": {"sha": "f95f852b", "environment": "production", "payload": {}},
        "deployment_status": {
            "state": "success",
            "environment": "Production (EU)",
            "updated_at": "2025-05-02T12:00:00Z",
        },
        "repository": {"name": "web-frontend"},
    } | changes


def deployment_status_with_payload(payload: object) -> dict[str, Any]:
    """Write a deployment_status whose deployment carries a payload."""
    return deployment_status(deployment={"sha": "f95f852b", "payload": payload})


def map_github(source: Source, body: object) -> Event:
    """Read a deployment_status."""
    return map_body(source, body, x_github_event="deployment_status", x_github_delivery="guid")


def test_a_native_body_is_read_whole(native: Source) -> None:
    """Each field of LaunchDarkly's deployment-events, and ours beside them."""
    body = FINISHED | {
        "deploymentId": DEPLOYMENT_ID,
        "eventMetadata": {"build": 17},
        "deploymentMetadata": None,
    }
    event = map_completed(native, body, webhook_id="msg_1", traceparent=TRACEPARENT)
    metadata = b'{"event":{"build":17},"deployment":null}'
    assert event.metadata is not None
    assert bytes(event.metadata) == metadata
    assert msgspec.structs.replace(event, metadata=None) == make_event(
        delivery="msg_1",
        application="web",
        version="7fd1a60",
        deployment_id=DEPLOYMENT_ID,
        event_time=1_795_428_000_000,
        metadata=None,
        traceparent=TRACEPARENT,
    )


@pytest.mark.parametrize(
    ("event_type", "kind"),
    [
        ("finished", DeploymentCompleted),
        ("failed", DeploymentCompleted),
        ("started", Ignored),
        ("custom", Ignored),
        ([], Ignored),
        (None, Unmappable),
    ],
)
def test_only_finished_and_failed_end_a_native_deployment(
    native: Source, event_type: object, kind: type
) -> None:
    """Other types are ignored; a body with none is mended by its sender."""
    assert type(map_body(native, FINISHED | {"eventType": event_type})) is kind


def test_a_failure_is_an_outcome(native: Source) -> None:
    """A failed deployment has ended too."""
    assert map_completed(native, FINISHED | {"eventType": "failed"}).outcome == "failed"


@pytest.mark.parametrize("missing", ["projectKey", "environmentKey", "applicationKey", "version"])
@pytest.mark.parametrize("value", [None, ""])
def test_without_an_id_every_key_is_needed(native: Source, missing: str, value: object) -> None:
    """The sender hears its own name of the field; with an id nothing else is needed."""
    event = map_body(native, FINISHED | {missing: value})
    assert isinstance(event, Unmappable)
    assert (event.missing, event.reason) == ((missing,), f"missing: {missing}")
    known = FINISHED | {missing: value, "deploymentId": DEPLOYMENT_ID}
    assert map_completed(native, known).deployment_id == DEPLOYMENT_ID


def test_all_that_is_wrong_is_said_at_once(native: Source) -> None:
    """What cannot be used and what is missing, in one answer."""
    event = map_body(native, FINISHED | {"version": "a\nb", "projectKey": None})
    assert isinstance(event, Unmappable)
    assert event.reason == "cannot be used: version; missing: projectKey"
    assert event.missing == ("version", "projectKey")


@pytest.mark.parametrize(
    "bad",
    ["../../x", "%2e%2e", "x" * 10_240, "a b", "-a", "a\n", "ä", "a/b", "a\x00", {}, [], True, 1.5],
)
def test_an_id_that_is_none_is_refused_by_name(native: Source, bad: object) -> None:
    """It becomes a part of a URL: nothing but letters, digits, '-' and '_' may."""
    event = map_body(native, FINISHED | {"deploymentId": bad})
    assert isinstance(event, Unmappable)
    assert event.missing == ("deploymentId",)


@pytest.mark.parametrize("bad", ["x" * 257, "a\nb", "a\x7f", "\x85", {"a": 1}, ["a"], False, 1.5])
@pytest.mark.parametrize("field", ["projectKey", "environmentKey", "applicationKey", "version"])
def test_a_name_that_is_none_is_refused_by_name(native: Source, field: str, bad: object) -> None:
    """Names are 1 to 256 characters without control characters, even beside an id."""
    event = map_body(native, FINISHED | {"deploymentId": DEPLOYMENT_ID, field: bad})
    assert isinstance(event, Unmappable)
    assert event.missing == (field,)


def test_names_may_be_any_printable_text(native: Source) -> None:
    """Spaces, slashes, other scripts, whole numbers: names belong to their owners."""
    event = map_completed(native, FINISHED | {"version": 17, "applicationKey": "Läden/東 x"})
    assert (event.version, event.application) == ("17", "Läden/東 x")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"{} {}", "the body is not JSON"),
        (b'{"a": NaN}', "the body is not JSON"),
        (b'{"a": 1e999}', "the body is not JSON"),
        (b'{"a": "\xff"}', "the body is not JSON"),
        (b"\xef\xbb\xbf{}", "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b"null", "the body is not a JSON object"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b'{"a":' * 100_000, "the body is nested too deeply"),
        (b"payload=%7B", "the body is not JSON"),
    ],
)
def test_what_is_no_json_object_is_unreadable(native: Source, body: bytes, reason: str) -> None:
    """Empty, cut off, not UTF-8, no number, a list, too deep, a form cut off."""
    assert map_body(native, body) == InvalidPayload(reason)


def test_a_delivery_is_named_by_its_sender_or_by_its_bytes(native: Source) -> None:
    """Equal deliveries have equal keys; every key is short and printable."""
    body = json.dumps(FINISHED).encode()
    digest = hashlib.sha256(body).hexdigest()
    assert map_completed(native, body, webhook_id="msg_1").delivery == "msg_1"
    assert map_completed(native, body).delivery == digest
    assert map_completed(native, body, webhook_id="").delivery == digest
    for odd in ("x" * 129, "a b", "é", "\udcff"):
        expected = hashlib.sha256(odd.encode("utf-8", "surrogatepass")).hexdigest()
        assert map_completed(native, body, webhook_id=odd).delivery == expected


@pytest.mark.parametrize(
    ("metadata", "kept", "dropped"),
    [
        ({"a": "x" * (MAX_METADATA_BYTES - 40)}, True, False),
        ({"a": "x" * MAX_METADATA_BYTES}, False, True),
        ({}, False, False),
        ("", False, False),
        (None, False, False),
    ],
)
def test_large_metadata_is_dropped_and_said_to_be(
    native: Source, metadata: object, *, kept: bool, dropped: bool
) -> None:
    """A record stays small; the event itself is not lost for it."""
    event = map_completed(native, FINISHED | {"deploymentMetadata": metadata})
    assert (event.metadata is not None, event.metadata_dropped) == (kept, dropped)


def source_with_metadata(presets: str, path: str) -> Source:
    """Return a source whose metadata is at ``path``."""
    text = '[[source]]\nname = "s"\npreset = "native"\nsecrets = ["x"]\n'
    text += f'fields.metadata = "{path}"\n'
    return load_sources(text, presets=presets, read_secret=str)["s"]


@pytest.mark.parametrize("path", ["headers", "query", "@", "&body", "{all: headers, x: body}"])
def test_metadata_that_is_not_json_is_dropped_and_reported(presets: str, path: str) -> None:
    """All headers as metadata would leak secrets; the event itself is kept."""
    source = source_with_metadata(presets, path)
    headers = {"authorization": "Bearer private"}
    for query in ({"token": "private"}, MultiDict({"token": "private"})):
        raw = json.dumps(FINISHED).encode()
        event = parse_webhook(source, SignedRequest(headers, query, raw))
        assert isinstance(event, DeploymentCompleted)
        assert (event.metadata, event.metadata_dropped) == (None, True)


def test_one_url_parameter_may_be_metadata(presets: str) -> None:
    """A parameter is named in the expression, as a header is."""
    source = source_with_metadata(presets, "query.run")
    raw = json.dumps(FINISHED).encode()
    event = parse_webhook(source, SignedRequest({}, MultiDict({"run": "7"}), raw))
    assert isinstance(event, DeploymentCompleted)
    assert event.metadata is not None
    assert bytes(event.metadata) == b'"7"'


def test_metadata_as_deep_as_can_be_read_is_no_error(native: Source) -> None:
    """Just below the depth that cannot be read, writing it again must not fail either."""
    for depth in range(700, 1000):
        deep = '{"a":' * depth + "1" + "}" * depth
        body = json.dumps(FINISHED)[:-1] + f', "eventMetadata": {deep}}}'
        assert isinstance(map_body(native, body.encode()), DeploymentCompleted | InvalidPayload)


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "00",
        TRACEPARENT.upper(),
        "ff" + TRACEPARENT[2:],
        TRACEPARENT + "-00",
        "00-" + "0" * 32 + TRACEPARENT[35:],
        TRACEPARENT[:36] + "0" * 16 + "-01",
    ],
)
def test_a_traceparent_that_is_none_is_left_out(native: Source, odd: str) -> None:
    """W3C Trace Context: lower-case hex, no all-zero id, version not ff."""
    assert map_completed(native, FINISHED, traceparent=odd).traceparent is None


def test_githubs_deployment_status_is_mapped(github: Source) -> None:
    """Names through the alias tables, the project from the source."""
    event = map_github(github, deployment_status())
    assert event == make_event(
        source="github",
        delivery="guid",
        environment="prod-eu",
        application="web",
        version="f95f852b",
        deployment_id=None,
        event_time=1_746_187_200_000,
        metadata=None,
    )


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("success", "succeeded"), ("failure", "failed"), ("error", "failed")]
    + [
        (state, None) for state in ("pending", "in_progress", "queued", "waiting", "inactive", None)
    ],
)
def test_githubs_states(github: Source, state: object, outcome: str | None) -> None:
    """Three of GitHub's states end a deployment; the others are ignored."""
    event = map_github(github, deployment_status(deployment_status={"state": state}))
    if outcome is None:
        assert isinstance(event, Ignored)
    else:
        assert isinstance(event, Unmappable | DeploymentCompleted)
        body = deployment_status(deployment_status={"state": state, "environment": "test"})
        ended = map_github(github, body)
        assert isinstance(ended, DeploymentCompleted)
        assert (ended.outcome, ended.environment) == (outcome, "test")


def test_githubs_environment_may_be_the_deployments(github: Source) -> None:
    """An older status has none of its own."""
    event = map_github(github, deployment_status(deployment_status={"state": "error"}))
    assert isinstance(event, DeploymentCompleted)
    assert event.environment == "production"


def test_githubs_ping_is_ignored(github: Source) -> None:
    """So are all events other than deployment_status."""
    for name in ("ping", "deployment", "Deployment_Status", ""):
        assert isinstance(map_body(github, deployment_status(), x_github_event=name), Ignored)
    assert isinstance(map_body(github, deployment_status()), Ignored)


@pytest.mark.parametrize("as_text", [False, True])
def test_githubs_payload_may_carry_our_id(github: Source, *, as_text: bool) -> None:
    """GitHub passes on what the deployment was created with, as an object or as a string."""
    payload: Any = {"launchdarkly": {"deploymentId": DEPLOYMENT_ID, "projectKey": "mobile"}}
    event = map_github(
        github, deployment_status_with_payload(json.dumps(payload) if as_text else payload)
    )
    assert isinstance(event, DeploymentCompleted)
    assert (event.deployment_id, event.project) == (DEPLOYMENT_ID, "mobile")
    assert event.metadata is not None
    assert json.loads(bytes(event.metadata)) == payload


@pytest.mark.parametrize("payload", ["", "deploy!", "[" * 5000, None, [], 7, {"launchdarkly": "x"}])
def test_githubs_payload_may_be_anything(github: Source, payload: object) -> None:
    """Whatever else a deployment carries, it is mapped by its names."""
    event = map_github(github, deployment_status_with_payload(payload))
    assert isinstance(event, DeploymentCompleted)
    assert event.deployment_id is None


def test_what_github_does_not_say_is_unmappable(github: Source) -> None:
    """The reason has the expressions that found nothing."""
    event = map_github(github, {"deployment_status": {"state": "success", "environment": "x"}})
    assert isinstance(event, Unmappable)
    assert event.missing == ("repository.name", "deployment.sha")
    assert event.delivery == "guid"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMED = ("deploymentId", "projectKey", "environmentKey", "applicationKey", "version")
NATIVE_BODIES = st.fixed_dictionaries(
    {"eventType": st.sampled_from(["finished", "failed"]) | JSON_VALUES},
    optional=dict.fromkeys([*NAMED, "eventTime", "eventMetadata"], JSON_VALUES),
)
GITHUB_BODIES = st.fixed_dictionaries(
    {
        "deployment": st.fixed_dictionaries({"sha": JSON_VALUES, "payload": JSON_VALUES})
        | JSON_VALUES,
        "deployment_status": st.fixed_dictionaries(
            {"state": st.just("success") | JSON_VALUES, "environment": JSON_VALUES}
        )
        | JSON_VALUES,
        "repository": st.fixed_dictionaries({"name": JSON_VALUES}) | JSON_VALUES,
    }
)


@given(body=NATIVE_BODIES | GITHUB_BODIES | JSON_VALUES)
def test_arbitrary_json_has_an_answer(native: Source, github: Source, body: object) -> None:
    """Hostile shapes end in one of four values, never in an exception."""
    raw = json.dumps(body).encode()
    for source in (native, github):
        event = map_body(source, raw, x_github_event="deployment_status", webhook_id="m")
        assert isinstance(event, Event)


@given(body=st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_have_an_answer(native: Source, github: Source, body: bytes) -> None:
    """Noise is unreadable at worst."""
    for source in (native, github):
        assert isinstance(map_body(source, body), Event)


def test_githubs_own_examples_are_mapped_as_documented(github: Source) -> None:
    """A successful deployment_status is an event; other states, pings and runs are ignored."""
    completed = set()
    for path in require_samples("webhooks/github/*.payload.json"):
        name = path.name.partition(".")[0]
        event = map_body(github, path.read_bytes(), x_github_event=name)
        assert isinstance(event, DeploymentCompleted | Ignored), path.name
        if isinstance(event, DeploymentCompleted):
            completed.add(path.name)
    assert completed == {
        "deployment_status.payload.json",
        "deployment_status.with-installation.payload.json",
    }
