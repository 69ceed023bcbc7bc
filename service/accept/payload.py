"""The payload of a request: a JSON object, the ``payload`` of a form, or CloudEvents.

CloudEvents follow the HTTP binding 1.0: structured and batched by content type, binary by ``ce-``
headers. Any other content type is ignored: many senders set none, or a wrong one.
"""

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from math import isfinite
from typing import NoReturn
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec
from msgspec import Struct

from service.accept.signatures import SignedRequest

MAX_BATCH_EVENTS = 1000

_CLOUDEVENTS_TYPE = "application/cloudevents"
_TOO_DEEP_REASON = "the body is nested too deeply"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # the decoder has joined the pairs


class Payload(Struct, frozen=True):
    """One event: its bytes, its decoded body, and its CloudEvents attributes, if any."""

    raw: bytes
    body: object
    ce_attributes: Mapping[str, object] = {}

    @property
    def dedup_key(self) -> bytes:
        """The bytes that equal events share: source and id of a CloudEvent, or the raw bytes."""
        source, event_id = self.ce_attributes.get("source"), self.ce_attributes.get("id")
        if isinstance(source, str) and isinstance(event_id, str):
            return f"{len(source)}:{source}{event_id}".encode("utf-8", "surrogatepass")
        return self.raw


class InvalidPayload(Struct, frozen=True):
    """A body that cannot be decoded, and why."""

    reason: str


def decode_request(request: SignedRequest) -> Payload | tuple[Payload, ...] | InvalidPayload:
    """Decode a genuine request; a tuple is a batch, and may be empty."""
    media_type = _parse_media_type(request.headers.get("content-type"))
    if media_type.startswith(_CLOUDEVENTS_TYPE):
        return _decode_cloudevents(request.body, media_type)
    if request.headers.get("ce-specversion") is not None:
        return _decode_binary(request, media_type)
    is_form = request.body.startswith(b"payload=")
    body = _parse_json_object(_parse_form_payload(request.body) if is_form else request.body)
    return body if isinstance(body, InvalidPayload) else Payload(request.body, body)


def _decode_cloudevents(
    body: bytes, media_type: str
) -> Payload | tuple[Payload, ...] | InvalidPayload:
    match media_type.removeprefix(_CLOUDEVENTS_TYPE):
        case "-batch+json":
            return _decode_batch(body)
        case "+json":
            return _decode_structured(body)
        case _:
            return InvalidPayload("CloudEvents are accepted as JSON only")


def _parse_media_type(content_type: object) -> str:
    return str(content_type or "").partition(";")[0].strip().lower()


def _parse_json(text: bytes | str) -> object:
    """Parse any JSON value; InvalidPayload if it is not valid."""
    try:
        value: object = msgspec.json.decode(text)
    except RecursionError:
        return InvalidPayload(_TOO_DEEP_REASON)
    except ValueError:
        return _parse_nearly_json(text)
    return value


def _parse_nearly_json(text: bytes | str) -> object:
    """Parse JSON that senders really write although msgspec refuses it; else InvalidPayload.

    A byte order mark is ignored (RFC 8259, 8.1), and UTF-16 is read: PowerShell writes both. Half
    a surrogate pair, as a truncated emoji leaves it, becomes U+FFFD. A number that is too large
    for a float stays the text that it is.
    """
    try:
        value: object = json.loads(
            text.removeprefix("\ufeff") if isinstance(text, str) else text,
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
        )
        return _replace_lone_surrogates(value)
    except RecursionError:
        return InvalidPayload(_TOO_DEEP_REASON)
    except ValueError:  # malformed, in no encoding of Unicode, or an integer of 5,000 digits
        return InvalidPayload("the body is not JSON")


def _parse_float(digits: str) -> float | str:
    number = float(digits)
    return number if isfinite(number) else digits


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _replace_lone_surrogates(value: object) -> object:
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value)
        case list():
            return [_replace_lone_surrogates(item) for item in value]
        case dict():
            return {
                _LONE_SURROGATE.sub("\ufffd", name): _replace_lone_surrogates(item)
                for name, item in value.items()
            }
        case _:
            return value


def _parse_json_object(text: bytes | str) -> dict[str, object] | InvalidPayload:
    value = _parse_json(text)
    if isinstance(value, (dict, InvalidPayload)):
        return value
    return InvalidPayload("the body is not a JSON object")


def _parse_form_payload(form: bytes) -> str:
    """Return the field ``payload`` of a form; empty if the form is not valid."""
    try:
        fields = parse_qs(form.decode("ascii"), errors="strict", max_num_fields=16)
    except ValueError:
        return ""
    return fields.get("payload", [""])[0]


def _split_array(body: bytes) -> list[msgspec.Raw] | InvalidPayload:
    """Return the JSON of each item; items of a body that msgspec refuses are written again."""
    try:
        return msgspec.json.decode(body, type=list[msgspec.Raw])
    except RecursionError:
        return InvalidPayload(_TOO_DEEP_REASON)
    except ValueError:
        items = _parse_nearly_json(body)
    if not isinstance(items, list):
        return InvalidPayload("the body is not a JSON array")
    return [msgspec.Raw(msgspec.json.encode(item)) for item in items]


def _decode_batch(body: bytes) -> tuple[Payload, ...] | InvalidPayload:
    raw_events = _split_array(body)
    if isinstance(raw_events, InvalidPayload):
        return raw_events
    if len(raw_events) > MAX_BATCH_EVENTS:
        return InvalidPayload(f"a batch may hold {MAX_BATCH_EVENTS} events")
    payloads: list[Payload] = []
    for raw_event in raw_events:
        payload = _decode_structured(bytes(raw_event))
        if isinstance(payload, InvalidPayload):
            return payload
        payloads.append(payload)
    return tuple(payloads)


def _decode_structured(raw: bytes) -> Payload | InvalidPayload:
    event = _parse_json_object(raw)
    if isinstance(event, InvalidPayload):
        return event
    ce_attributes = {
        name: value for name, value in event.items() if name not in {"data", "data_base64"}
    }
    if ce_attributes.get("specversion") != "1.0":
        return InvalidPayload("CloudEvents: specversion is not 1.0")
    if "data_base64" not in event:
        return Payload(raw, event.get("data"), ce_attributes)
    try:
        data = b64decode(str(event["data_base64"]), validate=True)
    except ValueError:
        return InvalidPayload("CloudEvents: data_base64 is not base64")
    return _decode_data(
        raw, data, ce_attributes, _parse_media_type(ce_attributes.get("datacontenttype"))
    )


def _decode_binary(request: SignedRequest, media_type: str) -> Payload | InvalidPayload:
    ce_attributes: dict[str, object] = {}
    for name, value in request.headers.items():
        if name.lower().startswith("ce-"):
            text = _decode_attribute(value)
            if text is None:
                return InvalidPayload(f"CloudEvents: {name[:64]!a} is not UTF-8")
            ce_attributes.setdefault(name[3:].lower(), text)
    if ce_attributes["specversion"] != "1.0":
        return InvalidPayload("CloudEvents: specversion is not 1.0")
    return _decode_data(request.body, request.body, ce_attributes, media_type)


def _decode_data(
    raw: bytes, data: bytes, ce_attributes: Mapping[str, object], media_type: str
) -> Payload | InvalidPayload:
    """Parse data whose media type is JSON or missing; other data has no body for us."""
    is_json = not media_type or media_type == "text/json" or media_type.endswith(("/json", "+json"))
    body = _parse_json(data) if data and is_json else None
    return body if isinstance(body, InvalidPayload) else Payload(raw, body, ce_attributes)


def _decode_attribute(value: str) -> str | None:
    """Unquote, then percent-decode once (HTTP binding 3.1.3.2); None if that is not UTF-8."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _unescape_quoted(value[1:-1])
    try:
        return unquote_to_bytes(value.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        return None


def _unescape_quoted(quoted: str) -> str:
    """Undo the backslashes of a quoted string (RFC 9110, 5.6.4)."""
    return "\\".join(part.replace("\\", "") for part in quoted.split("\\\\"))
