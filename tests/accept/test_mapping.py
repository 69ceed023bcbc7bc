"""The mapping of native and GitHub bodies to events."""

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
    DeploymentEvent,
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
    """Map a body, given as JSON or bytes; headers are given in snake_case."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    event = parse_webhook(source, SignedRequest(names, {}, raw))
    assert not isinstance(event, Batch)
    return event


def map_completed(source: Source, body: object, **headers: str) -> DeploymentEvent:
    """Map a body that must be a completed deployment."""
    event = map_body(source, body, **headers)
    assert isinstance(event, DeploymentEvent), event
    return event


def deployment_status(**changes: Any) -> dict[str, Any]:
    """Return a deployment_status of GitHub."""
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
    """Return a deployment_status whose deployment has this payload."""
    return deployment_status(deployment={"sha": "f95f852b", "payload": payload})


def map_github(source: Source, body: object) -> Event:
    """Map a deployment_status."""
    return map_body(source, body, x_github_event="deployment_status", x_github_delivery="guid")


def test_native_body_is_mapped_completely(native: Source) -> None:
    """Each field of LaunchDarkly's deployment-events, and our own."""
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
        ("finished", DeploymentEvent),
        ("failed", DeploymentEvent),
        ("started", Ignored),
        ("custom", Ignored),
        ([], Ignored),
        (None, Unmappable),
    ],
)
def test_native_event_type_decides_the_kind_of_event(
    native: Source, event_type: object, kind: type
) -> None:
    """Other types are ignored; a body without a type is unmappable."""
    assert type(map_body(native, FINISHED | {"eventType": event_type})) is kind


def test_native_failed_deployment_is_completed(native: Source) -> None:
    """A failed deployment has ended too."""
    assert map_completed(native, FINISHED | {"eventType": "failed"}).outcome == "failed"


@pytest.mark.parametrize("missing", ["projectKey", "environmentKey", "applicationKey", "version"])
@pytest.mark.parametrize("value", [None, ""])
def test_native_body_without_id_needs_every_key(
    native: Source, missing: str, value: object
) -> None:
    """The event names the missing field; with an id no other field is needed."""
    event = map_body(native, FINISHED | {missing: value})
    assert isinstance(event, Unmappable)
    assert (event.missing, event.reason) == ((missing,), f"missing: {missing}")
    known = FINISHED | {missing: value, "deploymentId": DEPLOYMENT_ID}
    assert map_completed(native, known).deployment_id == DEPLOYMENT_ID


def test_unmappable_event_names_all_wrong_fields(native: Source) -> None:
    """Invalid and missing fields are in one reason."""
    event = map_body(native, FINISHED | {"version": "a\nb", "projectKey": None})
    assert isinstance(event, Unmappable)
    assert event.reason == "cannot be used: version; missing: projectKey"
    assert event.missing == ("version", "projectKey")


@pytest.mark.parametrize(
    "invalid",
    ["../../x", "%2e%2e", "x" * 10_240, "a b", "-a", "a\n", "ä", "a/b", "a\x00", {}, [], True, 1.5],
)
def test_invalid_deployment_id_is_unmappable(native: Source, invalid: object) -> None:
    """It becomes part of a URL: letters, digits, '-' and '_' only."""
    event = map_body(native, FINISHED | {"deploymentId": invalid})
    assert isinstance(event, Unmappable)
    assert event.missing == ("deploymentId",)


@pytest.mark.parametrize(
    "invalid", ["x" * 257, "a\nb", "a\x7f", "\x85", {"a": 1}, ["a"], False, 1.5]
)
@pytest.mark.parametrize("field", ["projectKey", "environmentKey", "applicationKey", "version"])
def test_invalid_key_is_unmappable(native: Source, field: str, invalid: object) -> None:
    """Keys are 1 to 256 characters without control characters, even beside an id."""
    event = map_body(native, FINISHED | {"deploymentId": DEPLOYMENT_ID, field: invalid})
    assert isinstance(event, Unmappable)
    assert event.missing == (field,)


def test_keys_may_be_any_printable_text(native: Source) -> None:
    """Spaces, slashes, other scripts and whole numbers are valid."""
    event = map_completed(native, FINISHED | {"version": 17, "applicationKey": "Läden/東 x"})
    assert (event.version, event.application) == ("17", "Läden/東 x")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"{} {}", "the body is not JSON"),
        (b'{"a": NaN}', "the body is not JSON"),
        (b'{"a": "\xff"}', "the body is not JSON"),
        (b'\xef\xbb\xbf{"a": Infinity}', "the body is not JSON"),
        (b"\xff\xfe{", "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b"null", "the body is not a JSON object"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b'{"a":' * 100_000, "the body is nested too deeply"),
        (b"payload=%7B", "the body is not JSON"),
    ],
)
def test_body_that_is_not_a_json_object_is_invalid(
    native: Source, body: bytes, reason: str
) -> None:
    """Empty, truncated, not UTF-8, a bad number, a list, too deep, a truncated form."""
    assert map_body(native, body) == InvalidPayload(reason)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark_is_ignored(native: Source, encoding: str) -> None:
    """PowerShell writes one before UTF-8, or writes UTF-16 (RFC 8259, 8.1)."""
    body = json.dumps(FINISHED | {"version": "ü-1"}, ensure_ascii=False)
    assert map_completed(native, body.encode(encoding)).version == "ü-1"


def test_half_a_surrogate_pair_becomes_the_replacement_character(native: Source) -> None:
    """A sender cut a text in the middle of an emoji; whole emojis around it stay."""
    metadata = rb'"deploymentMetadata": {"\ud83d": ["fix \ud83d", "\ud83d\ude00"]}'
    event = map_completed(native, json.dumps(FINISHED)[:-1].encode() + b", " + metadata + b"}")
    expected = {"event": None, "deployment": {"\ufffd": ["fix \ufffd", "😀"]}}
    assert msgspec.json.decode(event.metadata or b"null") == expected


def test_number_over_the_range_of_a_float_stays_a_text(native: Source) -> None:
    """Whatever else the sender writes, the deployment has ended."""
    metadata = b'"deploymentMetadata": {"a": 1e999}'
    event = map_completed(native, json.dumps(FINISHED)[:-1].encode() + b", " + metadata + b"}")
    assert msgspec.json.decode(event.metadata or b"null")["deployment"] == {"a": "1e999"}


@given(st.text() | st.binary())
def test_nearly_json_never_raises(native: Source, text: str | bytes) -> None:
    """Any bytes, with or without the marks of an encoding, are an event or a reason."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    for body in (raw, b"\xef\xbb\xbf" + raw, b"\xff\xfe" + raw, b'{"a": "\\ud83d' + raw):
        map_body(native, body)


def test_delivery_id_is_the_senders_or_a_digest(native: Source) -> None:
    """Equal deliveries have equal ids; every id is short and printable."""
    body = json.dumps(FINISHED).encode()
    digest = hashlib.sha256(body).hexdigest()
    assert map_completed(native, body, webhook_id="msg_1").delivery == "msg_1"
    assert map_completed(native, body).delivery == digest
    assert map_completed(native, body, webhook_id="").delivery == digest
    for key in ("x" * 129, "a b", "é", "\udcff"):
        expected = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        assert map_completed(native, body, webhook_id=key).delivery == expected


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
def test_large_metadata_is_dropped_and_reported(
    native: Source, metadata: object, *, kept: bool, dropped: bool
) -> None:
    """A record stays small; the event itself is kept."""
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
        assert isinstance(event, DeploymentEvent)
        assert (event.metadata, event.metadata_dropped) == (None, True)


def test_one_url_parameter_may_be_metadata(presets: str) -> None:
    """A parameter is named in the expression, as a header is."""
    source = source_with_metadata(presets, "query.run")
    raw = json.dumps(FINISHED).encode()
    event = parse_webhook(source, SignedRequest({}, MultiDict({"run": "7"}), raw))
    assert isinstance(event, DeploymentEvent)
    assert event.metadata is not None
    assert bytes(event.metadata) == b'"7"'


def test_metadata_at_the_nesting_limit_is_no_error(native: Source) -> None:
    """Metadata that could be decoded may be too deep to encode."""
    for depth in range(700, 1000):
        deep = '{"a":' * depth + "1" + "}" * depth
        body = json.dumps(FINISHED)[:-1] + f', "eventMetadata": {deep}}}'
        assert isinstance(map_body(native, body.encode()), DeploymentEvent | InvalidPayload)


@pytest.mark.parametrize(
    "traceparent",
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
def test_invalid_traceparent_is_dropped(native: Source, traceparent: str) -> None:
    """W3C Trace Context: lower-case hex, no all-zero id, version not ff."""
    assert map_completed(native, FINISHED, traceparent=traceparent).traceparent is None


def test_github_deployment_status_is_mapped(github: Source) -> None:
    """Names are mapped by the alias tables; the project comes from the source."""
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
    + [(state, None) for state in ("pending", "in_progress", "queued", "waiting", "inactive")],
)
def test_github_states_map_to_outcomes(github: Source, state: object, outcome: str | None) -> None:
    """Three of GitHub's states end a deployment; the others are ignored."""
    event = map_github(github, deployment_status(deployment_status={"state": state}))
    if outcome is None:
        assert isinstance(event, Ignored)
    else:
        assert isinstance(event, Unmappable | DeploymentEvent)
        body = deployment_status(deployment_status={"state": state, "environment": "test"})
        completed = map_github(github, body)
        assert isinstance(completed, DeploymentEvent)
        assert (completed.outcome, completed.environment) == (outcome, "test")


def test_github_environment_may_come_from_the_deployment(github: Source) -> None:
    """An older status has no environment of its own."""
    event = map_github(github, deployment_status(deployment_status={"state": "error"}))
    assert isinstance(event, DeploymentEvent)
    assert event.environment == "production"


def test_github_ping_is_ignored(github: Source) -> None:
    """So are all events other than deployment_status."""
    for name in ("ping", "deployment", "Deployment_Status", ""):
        assert isinstance(map_body(github, deployment_status(), x_github_event=name), Ignored)
    assert isinstance(map_body(github, deployment_status()), Ignored)


@pytest.mark.parametrize("as_text", [False, True])
def test_github_payload_may_hold_the_deployment_id(github: Source, *, as_text: bool) -> None:
    """GitHub passes on the payload of the deployment, as an object or as a string."""
    payload: Any = {"launchdarkly": {"deploymentId": DEPLOYMENT_ID, "projectKey": "mobile"}}
    event = map_github(
        github, deployment_status_with_payload(json.dumps(payload) if as_text else payload)
    )
    assert isinstance(event, DeploymentEvent)
    assert (event.deployment_id, event.project) == (DEPLOYMENT_ID, "mobile")
    assert event.metadata is not None
    assert json.loads(bytes(event.metadata)) == payload


@pytest.mark.parametrize("payload", ["", "deploy!", "[" * 5000, None, [], 7, {"launchdarkly": "x"}])
def test_github_payload_of_any_shape_is_accepted(github: Source, payload: object) -> None:
    """The deployment is mapped by its names."""
    event = map_github(github, deployment_status_with_payload(payload))
    assert isinstance(event, DeploymentEvent)
    assert event.deployment_id is None


@pytest.mark.parametrize("state", [{"state": None}, {}])
def test_event_that_is_waited_for_but_names_no_outcome_is_unmappable(
    github: Source, state: dict[str, object]
) -> None:
    """It may be a deployment that ended, so a person looks at it; another word is an answer."""
    body = deployment_status() | {"deployment_status": {"environment": "test"} | state}
    event = map_github(github, body)
    assert isinstance(event, Unmappable)
    assert event.missing == ("deployment_status.state",)


def test_github_event_without_names_is_unmappable(github: Source) -> None:
    """The reason names the expressions that found nothing."""
    event = map_github(github, {"deployment_status": {"state": "success", "environment": "x"}})
    assert isinstance(event, Unmappable)
    application = "match('^deploy:(.+)$', body.deployment.task) || body.repository.name"
    assert event.missing == (application, "deployment.sha")
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
def test_arbitrary_json_maps_to_an_event(native: Source, github: Source, body: object) -> None:
    """JSON of any shape is one of the four kinds of event, and never raises."""
    raw = json.dumps(body).encode()
    for source in (native, github):
        event = map_body(source, raw, x_github_event="deployment_status", webhook_id="m")
        assert isinstance(event, Event)


@given(body=st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_map_to_an_event(native: Source, github: Source, body: bytes) -> None:
    """Noise is an invalid payload."""
    for source in (native, github):
        assert isinstance(map_body(source, body), Event)


def test_github_examples_are_mapped_as_documented(github: Source) -> None:
    """A successful deployment_status is an event; other states, pings and runs are ignored."""
    completed = set()
    for path in require_samples("webhooks/github/*.payload.json"):
        name = path.name.partition(".")[0]
        event = map_body(github, path.read_bytes(), x_github_event=name)
        assert isinstance(event, DeploymentEvent | Ignored), path.name
        if isinstance(event, DeploymentEvent):
            completed.add(path.name)
    assert completed == {
        "deployment_status.payload.json",
        "deployment_status.with-installation.payload.json",
    }
