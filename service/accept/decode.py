"""What is in the body? A JSON object, a form's payload, or CloudEvents: one of them, or a batch.

CloudEvents as in its HTTP binding 1.0: structured and batched by their content type, binary by
``ce-`` headers. Any other content type means nothing: many senders set none, or the wrong one.
"""

from base64 import b64decode
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec
from msgspec import Struct

from service.accept.signature import SignedRequest

BATCH_EVENTS = 1000

_ENVELOPE = "application/cloudevents"
_TOO_DEEP = "the body is nested too deeply"


class Message(Struct, frozen=True):
    """One event as it came: ``raw`` is its own bytes, ``ce`` what CloudEvents says around it."""

    raw: bytes
    body: object
    ce: Mapping[str, object] = {}

    @property
    def identity(self) -> bytes:
        """What is equal for equal events: the source and id of a CloudEvent, or else the bytes."""
        source, key = self.ce.get("source"), self.ce.get("id")
        if isinstance(source, str) and isinstance(key, str):
            return f"{len(source)}:{source}{key}".encode("utf-8", "surrogatepass")
        return self.raw


class Unreadable(Struct, frozen=True):
    """Nothing that we can read."""

    reason: str


def decode_request(request: SignedRequest) -> Message | tuple[Message, ...] | Unreadable:
    """Decode a genuine request; a tuple is a batch, which may be empty."""
    kind = _media_type(request.headers.get("content-type"))
    if kind == f"{_ENVELOPE}-batch+json":
        return _decode_batch(request.body)
    if kind == f"{_ENVELOPE}+json":
        return _open_envelope(request.body)
    if kind.startswith(_ENVELOPE):
        return Unreadable("CloudEvents are understood as JSON only")
    if request.headers.get("ce-specversion") is not None:
        return _decode_binary(request, kind)
    form = request.body.startswith(b"payload=")
    body = _parse_object(_read_payload(request.body) if form else request.body)
    return body if isinstance(body, Unreadable) else Message(request.body, body)


def _media_type(content_type: object) -> str:
    return str(content_type or "").partition(";")[0].strip().lower()


def _parse(text: bytes | str) -> object:
    """Parse JSON of any kind; what cannot be is an Unreadable."""
    try:
        value: object = msgspec.json.decode(text)
    except RecursionError:
        return Unreadable(_TOO_DEEP)
    except ValueError:  # malformed, not UTF-8, or a number that nothing can hold
        return Unreadable("the body is not JSON")
    return value


def _parse_object(text: bytes | str) -> dict[str, object] | Unreadable:
    value = _parse(text)
    if isinstance(value, dict | Unreadable):
        return value
    return Unreadable("the body is not a JSON object")


def _read_payload(form: bytes) -> str:
    """Give what a form holds as ``payload``; what is no such form comes out empty."""
    try:
        fields = parse_qs(form.decode("ascii"), errors="strict", max_num_fields=16)
    except ValueError:
        return ""
    return fields.get("payload", [""])[0]


def _decode_batch(body: bytes) -> tuple[Message, ...] | Unreadable:
    try:
        parts = msgspec.json.decode(body, type=list[msgspec.Raw])
    except RecursionError:
        return Unreadable(_TOO_DEEP)
    except ValueError:
        return Unreadable("the body is not a JSON array")
    if len(parts) > BATCH_EVENTS:
        return Unreadable(f"a batch may hold {BATCH_EVENTS} events")
    messages: list[Message] = []
    for part in parts:
        message = _open_envelope(bytes(part))
        if isinstance(message, Unreadable):
            return message
        messages.append(message)
    return tuple(messages)


def _open_envelope(raw: bytes) -> Message | Unreadable:
    event = _parse_object(raw)
    if isinstance(event, Unreadable):
        return event
    ce = {name: value for name, value in event.items() if name not in {"data", "data_base64"}}
    if ce.get("specversion") != "1.0":
        return Unreadable("CloudEvents: specversion is not 1.0")
    if "data_base64" not in event:
        return Message(raw, event.get("data"), ce)
    try:
        data = b64decode(str(event["data_base64"]), validate=True)
    except ValueError:
        return Unreadable("CloudEvents: data_base64 is not base64")
    return _with_data(raw, data, ce, _media_type(ce.get("datacontenttype")))


def _decode_binary(request: SignedRequest, kind: str) -> Message | Unreadable:
    ce: dict[str, object] = {}
    for name, value in request.headers.items():
        if name.lower().startswith("ce-"):
            text = _decode_attribute(value)
            if text is None:
                return Unreadable(f"CloudEvents: {name[:64]!a} is not UTF-8")
            ce.setdefault(name[3:].lower(), text)
    if ce["specversion"] != "1.0":
        return Unreadable("CloudEvents: specversion is not 1.0")
    return _with_data(request.body, request.body, ce, kind)


def _with_data(
    raw: bytes, data: bytes, ce: Mapping[str, object], kind: str
) -> Message | Unreadable:
    """Data that is there and may be JSON must be JSON; any other says nothing to us."""
    is_json = not kind or kind == "text/json" or kind.endswith(("/json", "+json"))
    body = _parse(data) if data and is_json else None
    return body if isinstance(body, Unreadable) else Message(raw, body, ce)


def _decode_attribute(value: str) -> str | None:
    """Unquote, then percent-decode once (HTTP binding 3.1.3.2); None when that is not UTF-8."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _unescape(value[1:-1])
    try:
        return unquote_to_bytes(value.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        return None


def _unescape(quoted: str) -> str:
    """Undo the backslashes of a quoted string (RFC 9110, 5.6.4)."""
    return "\\".join(part.replace("\\", "") for part in quoted.split("\\\\"))
