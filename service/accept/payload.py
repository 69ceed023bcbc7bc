"""The payload of a request: a JSON object, the ``payload`` of a form, or CloudEvents.

CloudEvents follow the HTTP binding 1.0: structured and batched by content type, binary by ``ce-``
headers. Any other content type is ignored: many senders set none, or a wrong one.
"""

from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.accept.named_fields import FieldTree, decode_fields
from service.accept.signatures import SignedRequest
from service.json_repair import repair_json

MAX_BATCH_EVENTS = 1000

_CLOUDEVENTS_TYPE = "application/cloudevents"
_FORM_START = b"payload="
_QUOTED_PART_BYTES = 1 << 16

T = TypeVar("T")


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


_NOT_JSON = InvalidPayload("the body is not JSON")
_NOT_AN_OBJECT = InvalidPayload("the body is not a JSON object")


def decode_request(
    request: SignedRequest, *, fields: FieldTree | None = None
) -> Payload | tuple[Payload, ...] | InvalidPayload:
    """Decode a genuine request; a tuple is a batch, and may be empty.

    ``fields`` are those of the body that are needed; None: all of them.
    """
    media_type = _parse_media_type(request.headers.get("content-type"))
    if media_type.startswith(_CLOUDEVENTS_TYPE):
        return _decode_cloudevents(request.body, media_type, fields)
    if request.headers.get("ce-specversion") is not None:
        return _decode_binary(request, media_type, fields)
    is_form = request.body.startswith(_FORM_START)
    text = _parse_form_payload(request.body) if is_form else request.body
    body = _parse_json_object(text, fields)
    return body if isinstance(body, InvalidPayload) else Payload(request.body, body)


def _decode_cloudevents(
    body: bytes, media_type: str, fields: FieldTree | None
) -> Payload | tuple[Payload, ...] | InvalidPayload:
    match media_type.removeprefix(_CLOUDEVENTS_TYPE):
        case "-batch+json":
            return _decode_batch(body, fields)
        case "+json":
            return _decode_structured(body, fields)
        case _:
            return InvalidPayload("CloudEvents are accepted as JSON only")


def _parse_media_type(content_type: object) -> str:
    return str(content_type or "").partition(";")[0].strip().lower()


def _parse_json(text: bytes, fields: FieldTree | None) -> object:
    """Parse any JSON value; InvalidPayload if it is not valid, even after a repair."""
    return _decode_or_repair(text, partial(decode_fields, fields=fields))


def _decode_or_repair(text: bytes, decode: Callable[[bytes], T]) -> T | InvalidPayload:
    value = _try_decode(text, decode)
    if value is _NOT_JSON and (repaired := repair_json(text)) is not None:
        return _try_decode(repaired, decode)
    return value


def _try_decode(text: bytes, decode: Callable[[bytes], T]) -> T | InvalidPayload:
    try:
        return decode(text)
    except RecursionError:
        return InvalidPayload("the body is nested too deeply")
    except ValueError:
        return _NOT_JSON


def _parse_json_object(text: bytes, fields: FieldTree | None) -> dict[str, object] | InvalidPayload:
    value = _parse_json(text, fields)
    if isinstance(value, (dict, InvalidPayload)):
        return value
    return _NOT_AN_OBJECT


def _parse_form_payload(form: bytes) -> bytes:
    """Return the field ``payload`` of a form that begins with it; empty if it is not valid."""
    if not form.isascii():
        return b""
    quoted = form.removeprefix(_FORM_START).partition(b"&")[0].replace(b"+", b" ")
    return b"".join(unquote_to_bytes(piece) for piece in _cut_quoted(quoted))


def _cut_quoted(quoted: bytes) -> Iterator[bytes]:
    """Yield the parts of a quoted text, without cutting an escape: unquoting takes much memory."""
    start = 0
    while start < len(quoted):
        end = start + _QUOTED_PART_BYTES
        cut_escape = quoted.find(b"%", end - 2, end)
        end = end if cut_escape < 0 else cut_escape
        yield quoted[start:end]
        start = end


def _split_array(body: bytes) -> list[msgspec.Raw] | InvalidPayload:
    """Return the JSON of each item."""
    items = _decode_or_repair(body, partial(msgspec.json.decode, type=list[msgspec.Raw]))
    return InvalidPayload("the body is not a JSON array") if items is _NOT_JSON else items


def _decode_batch(body: bytes, fields: FieldTree | None) -> tuple[Payload, ...] | InvalidPayload:
    raw_events = _split_array(body)
    if isinstance(raw_events, InvalidPayload):
        return raw_events
    if len(raw_events) > MAX_BATCH_EVENTS:
        return InvalidPayload(f"a batch may hold {MAX_BATCH_EVENTS} events")
    payloads: list[Payload] = []
    for raw_event in raw_events:
        payload = _decode_structured(bytes(raw_event), fields)
        if isinstance(payload, InvalidPayload):
            return payload
        payloads.append(payload)
    return tuple(payloads)


def _decode_structured(raw: bytes, fields: FieldTree | None) -> Payload | InvalidPayload:
    event = _decode_or_repair(raw, partial(_decode_event, fields=fields))
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
    media_type = _parse_media_type(ce_attributes.get("datacontenttype"))
    return _decode_data(Payload(raw, data, ce_attributes), media_type, fields)


def _decode_event(raw: bytes, fields: FieldTree | None) -> dict[str, object] | InvalidPayload:
    """Return the members of a CloudEvent in JSON; of its data only the fields that are needed."""
    try:
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return _NOT_AN_OBJECT
    return {
        name: decode_fields(value, fields if name == "data" else None)
        for name, value in members.items()
    }


def _decode_binary(
    request: SignedRequest, media_type: str, fields: FieldTree | None
) -> Payload | InvalidPayload:
    ce_attributes: dict[str, object] = {}
    for name, value in request.headers.items():
        if name.lower().startswith("ce-"):
            text = _decode_attribute(value)
            if text is None:
                return InvalidPayload(f"CloudEvents: {name[:64]!a} is not UTF-8")
            ce_attributes.setdefault(name[3:].lower(), text)
    if ce_attributes["specversion"] != "1.0":
        return InvalidPayload("CloudEvents: specversion is not 1.0")
    event = Payload(request.body, request.body, ce_attributes)
    return _decode_data(event, media_type, fields)


def _decode_data(
    event: Payload, media_type: str, fields: FieldTree | None
) -> Payload | InvalidPayload:
    """Parse data whose media type is JSON or missing; other data has no body for us."""
    is_json = not media_type or media_type == "text/json" or media_type.endswith(("/json", "+json"))
    data = event.body
    body = _parse_json(data, fields) if isinstance(data, bytes) and data and is_json else None
    return body if isinstance(body, InvalidPayload) else replace(event, body=body)


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
