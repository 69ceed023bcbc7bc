"""CloudEvents: structured, binary and batched events, and the handshake."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st

from service.accept.mapping import Batch, DeploymentEvent, parse_webhook
from service.accept.payload import MAX_BATCH_EVENTS, InvalidPayload, Payload, decode_request
from service.accept.signatures import SignedRequest
from service.accept.sources import Source
from service.store import RedisUnavailable
from tests.accept.receiver_harness import (
    FINISHED,
    BacklogStub,
    ReceiverAddress,
    native_headers,
    parse_response,
    serve_receiver,
)
from tests.accept.sample_webhooks import make_sources, read_samples

STRUCTURED = "application/cloudevents+json; charset=UTF-8"
BATCHED = "Application/CloudEvents-Batch+JSON"
DEPLOYED = next(sample.body for sample in read_samples() if str(sample) == "cdevents/succeeded")
REMOVED = next(sample.body for sample in read_samples() if str(sample) == "cdevents/removed")
ATTRIBUTES = {"specversion": "1.0", "id": "1", "source": "/cd", "type": "deployed"}


def cloudevent(data: object = None, **attributes: object) -> dict[str, Any]:
    """Return a CloudEvent."""
    event: dict[str, Any] = ATTRIBUTES | attributes
    return event if data is None else event | {"data": data}


def decode_body(body: object, **headers: str) -> Payload | tuple[Payload, ...] | InvalidPayload:
    """Decode a body, given as JSON or bytes; headers are given in snake_case."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return decode_request(SignedRequest(names, {}, raw))


def decode_message(body: object, **headers: str) -> Payload:
    """Decode a body that must be one event."""
    message = decode_body(body, **headers)
    assert isinstance(message, Payload), message
    return message


@pytest.fixture(scope="module")
def cdevents(presets: str) -> Source:
    """Return a source of CDEvents."""
    return make_sources(presets)["cdevents"]


def test_structured_event_has_its_data_as_body() -> None:
    """All other members, extensions too, are its attributes."""
    message = decode_message(cloudevent({"a": 1}, traceparent="00-x"), content_type=STRUCTURED)
    assert message.body == {"a": 1}
    assert message.ce_attributes == ATTRIBUTES | {"traceparent": "00-x"}


def test_batch_with_a_byte_order_mark_and_half_a_pair_is_decoded() -> None:
    """What one event of a batch holds does not lose the others."""
    half_pair = json.dumps([cloudevent({"a": "A"}), cloudevent()]).replace('"A"', r'"\ud83d"')
    payloads = decode_body(b"\xef\xbb\xbf" + half_pair.encode(), content_type=BATCHED)
    assert isinstance(payloads, tuple)
    assert [payload.body for payload in payloads] == [{"a": "\ufffd"}, None]


@pytest.mark.parametrize("kind", [{}, {"datacontenttype": "application/vnd.x+json; v=1"}])
def test_base64_data_is_decoded(kind: dict[str, str]) -> None:
    """Base64 of JSON is the body; base64 of other data gives no body and no error."""
    event = cloudevent(data_base64=b64encode(b'{"a": 1}').decode(), **kind)
    assert decode_message(event, content_type=STRUCTURED).body == {"a": 1}
    event |= {"datacontenttype": "image/png", "data_base64": "AAAA"}
    assert decode_message(event, content_type=STRUCTURED).body is None


@pytest.mark.parametrize("kind", ["application/json", "text/json", "application/cdevents+json", ""])
def test_binary_event_has_the_request_body_as_body(kind: str) -> None:
    """Its attributes are headers. Without data, or with data that is not JSON, it has no body."""
    headers = {f"ce_{name}": value for name, value in ATTRIBUTES.items()}
    message = decode_message({"a": 1}, content_type=kind, **headers)
    assert (message.body, message.ce_attributes) == ({"a": 1}, ATTRIBUTES)
    assert decode_message(b"", content_type=kind, **headers).body is None
    assert decode_message(b"<a/>", content_type="text/xml", **headers).body is None


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ('"Euro%20%E2%82%AC%20%F0%9F%98%80"', "Euro € 😀"),
        (r'"a \"quoted\" \\ %22word%22"', 'a "quoted" \\ "word"'),
        ("100%2525", "100%25"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ('"', '"'),
        ('""', ""),
        ("a+b", "a+b"),
        ("€", "€"),
    ],
)
def test_binary_attribute_is_unquoted_and_decoded_once(header: str, value: str) -> None:
    """HTTP binding, 3.1.3.2, with its own example."""
    message = decode_message(b"", ce_specversion="1.0", ce_subject=header)
    assert message.ce_attributes["subject"] == value


@pytest.mark.parametrize("header", ["%C3%28", "%ff", "%C0%A0", "%ed%a0%80", "\udcff"])
def test_binary_attribute_that_is_not_utf_8_is_invalid(header: str) -> None:
    """Overlong forms and surrogates are not UTF-8 either."""
    reason = "CloudEvents: 'ce-subject' is not UTF-8"
    assert decode_body(b"", ce_specversion="1.0", ce_subject=header) == InvalidPayload(reason)


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ([], STRUCTURED, "the body is not a JSON object"),
        ({}, STRUCTURED, "CloudEvents: specversion is not 1.0"),
        (cloudevent(specversion="0.3"), STRUCTURED, "CloudEvents: specversion is not 1.0"),
        (cloudevent(data_base64="#"), STRUCTURED, "CloudEvents: data_base64 is not base64"),
        (cloudevent(data_base64=5), STRUCTURED, "CloudEvents: data_base64 is not base64"),
        (cloudevent(data_base64="e30"), STRUCTURED, "CloudEvents: data_base64 is not base64"),
        (cloudevent(data_base64="ew=="), STRUCTURED, "the body is not JSON"),
        (b"<event/>", "application/cloudevents+xml", "CloudEvents are accepted as JSON only"),
        ({}, BATCHED, "the body is not a JSON array"),
        (b"[" * 100_000, BATCHED, "the body is nested too deeply"),
        ([cloudevent(), 5], BATCHED, "the body is not a JSON object"),
        ([cloudevent()] * (MAX_BATCH_EVENTS + 1), BATCHED, "a batch may hold 1000 events"),
    ],
)
def test_malformed_cloudevent_is_invalid(body: object, kind: str, reason: str) -> None:
    """The reason is one sentence; nothing is raised."""
    assert decode_body(body, content_type=kind) == InvalidPayload(reason)


def test_binary_event_of_another_version_is_invalid() -> None:
    """Its attributes may have another meaning."""
    reason = "CloudEvents: specversion is not 1.0"
    assert decode_body({}, ce_specversion="0.3") == InvalidPayload(reason)


def test_event_is_mapped_alike_in_every_mode(cdevents: Source) -> None:
    """Structured, binary, batched or bare: the same deployment and the same delivery."""
    event = cloudevent(DEPLOYED, id=DEPLOYED["context"]["id"], source=DEPLOYED["context"]["source"])
    binary = {f"ce-{name}": str(event[name]) for name in ATTRIBUTES}
    bare = json.dumps(DEPLOYED).encode()
    requests = [
        SignedRequest({"content-type": STRUCTURED}, {}, json.dumps(event).encode()),
        SignedRequest({"content-type": BATCHED}, {}, json.dumps([event]).encode()),
        SignedRequest(binary | {"content-type": "application/json"}, {}, bare),
        SignedRequest({}, {}, bare),
    ]
    results = [parse_webhook(cdevents, request) for request in requests]
    flat = [result.events[0] if isinstance(result, Batch) else result for result in results]
    assert isinstance(flat[0], DeploymentEvent)
    assert flat == [flat[0]] * 4


def test_batch_ignores_the_delivery_id_of_the_request(native: Source) -> None:
    """With one id for the whole request, all events but one would be duplicates."""
    events = [
        cloudevent(FINISHED, id="1"),
        cloudevent(FINISHED, id="2"),
        cloudevent(FINISHED, id="1"),
    ]
    headers = {"content-type": BATCHED, "webhook-id": "msg_1"}
    batch = parse_webhook(native, SignedRequest(headers, {}, json.dumps(events).encode()))
    assert isinstance(batch, Batch)
    keys = [event.delivery for event in batch.events if isinstance(event, DeploymentEvent)]
    assert len(keys) == 3
    assert keys[0] == keys[2] != keys[1]


@given(
    body=st.binary()
    | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode),
    kind=st.sampled_from([STRUCTURED, BATCHED, "application/json", ""]),
    attribute=st.text(st.characters(exclude_categories=())),
)
def test_arbitrary_bytes_decode_or_are_invalid(body: bytes, kind: str, attribute: str) -> None:
    """In every mode, with any header that aiohttp can decode."""
    headers = {"content-type": kind, "ce-x": attribute}
    for more in ({}, {"ce-specversion": "1.0"}):
        payload = decode_request(SignedRequest(headers | more, {}, body))
        assert isinstance(payload, Payload | tuple | InvalidPayload)


@pytest.fixture
async def receiver_address(
    backlog_stub: BacklogStub, cdevents: Source, native: Source
) -> AsyncIterator[ReceiverAddress]:
    """Yield the address of a receiver for CDEvents, with the token "secret", and native bodies."""
    async with serve_receiver(backlog_stub, cdevents, native) as address:
        yield address


async def post_batch(
    address: ReceiverAddress, events: list[Any], *, name: str = "cdevents"
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Post a batch; return status, decoded body and headers."""
    raw = json.dumps(events).encode()
    url = f"http://{address[0]}:{address[1]}/webhooks/{name}"
    headers = {"Content-Type": BATCHED, "Authorization": "Bearer secret"} | native_headers(raw)
    if name == "native":
        del headers["Authorization"]
    async with ClientSession() as session, session.post(url, data=raw, headers=headers) as response:
        return response.status, await parse_response(response), dict(response.headers)


async def test_batch_response_lists_each_event(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub
) -> None:
    """In the order sent: queued, duplicate, ignored and parked; 202 if anything was kept."""
    unmappable = {**DEPLOYED, "subject": {"id": "web", "content": {}}}
    events = [
        cloudevent(data, id=str(index))
        for index, data in enumerate([DEPLOYED, REMOVED, unmappable])
    ]
    status, answer, _ = await post_batch(receiver_address, events)
    assert (status, answer["status"]) == (202, "batch")
    assert [result["status"] for result in answer["events"]] == ["queued", "ignored", "parked"]
    assert [raw for _, raw in backlog_stub.parked.values()] == [json.dumps(events[2]).encode()]
    status, answer, _ = await post_batch(receiver_address, events)
    assert [result["status"] for result in answer["events"]] == [
        "duplicate",
        "ignored",
        "duplicate",
    ]
    assert status == 200
    assert [name for name, _ in backlog_stub.log_events[:3]] == [
        "webhook_queued",
        "webhook_ignored",
        "webhook_parked",
    ]
    assert (await post_batch(receiver_address, []))[:2] == (200, {"status": "batch", "events": []})


async def test_batch_is_503_if_an_event_could_not_be_kept(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub
) -> None:
    """The sender repeats the whole batch; events that were kept are duplicates then."""
    backlog_stub.result = RedisUnavailable("gone")
    status, answer, headers = await post_batch(
        receiver_address, [cloudevent(DEPLOYED), cloudevent(REMOVED, id="2")]
    )
    assert (status, headers["Retry-After"]) == (503, "2")
    assert [result["status"] for result in answer["events"]] == [503, "ignored"]


async def test_batch_of_a_strict_source_is_422_for_a_missing_field(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub
) -> None:
    """The complete events of the batch are kept."""
    events = [cloudevent(FINISHED, id="1"), cloudevent(FINISHED | {"version": None}, id="2")]
    status, answer, _ = await post_batch(receiver_address, events, name="native")
    assert (status, answer["detail"]) == (422, "not every event could be kept")
    assert [result["status"] for result in answer["events"]] == ["queued", 422]
    assert answer["events"][1]["missing"] == ["version"]
    assert len(backlog_stub.events) == 1


async def request_options(
    address: ReceiverAddress, name: str, headers: dict[str, str]
) -> tuple[int, dict[str, str]]:
    """Send an OPTIONS request; return status and headers."""
    url = f"http://{address[0]}:{address[1]}/webhooks/{name}"
    async with ClientSession() as session, session.options(url, headers=headers) as response:
        return response.status, {name: response.headers[name] for name in sorted(response.headers)}


async def test_cloudevents_handshake_allows_every_origin(receiver_address: ReceiverAddress) -> None:
    """https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md, section 4."""
    headers = {"WebHook-Request-Origin": "eventemitter.example.com", "WebHook-Request-Rate": "120"}
    status, answered = await request_options(receiver_address, "cdevents", headers)
    assert status == 200
    assert answered["Allow"] == "POST"
    assert answered["WebHook-Allowed-Origin"] == answered["WebHook-Allowed-Rate"] == "*"


async def test_plain_options_request_names_only_the_method(
    receiver_address: ReceiverAddress,
) -> None:
    """204 with Allow, and 404 for an unknown source."""
    status, answered = await request_options(receiver_address, "cdevents", {})
    assert (status, answered["Allow"]) == (204, "POST")
    assert not [name for name in answered if name.startswith("WebHook")]
    assert (await request_options(receiver_address, "nobody", {"WebHook-Request-Origin": "x"}))[
        0
    ] == 404
