"""What do these bytes say? That a deployment has ended, or why they say nothing of the kind."""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import Struct

from service.accept.expressions import Expression
from service.accept.signature import SignedRequest
from service.accept.sources import Source
from service.accept.times import read_time

METADATA_BYTES = 8192

_DELIVERY = re.compile(r"[!-~]{1,128}")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")
# https://www.w3.org/TR/trace-context/#traceparent-header: ff is no version, and no id is all zero.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_NEEDED = ("project", "environment", "application", "version")
_UNUSABLE = "\0"  # stands for a value that is no text; no shape takes it


class DeploymentCompleted(Struct, frozen=True, kw_only=True):
    """One deployment that ended, as its sender told it.

    Either ``deployment_id`` is there, or all of project, environment, application and version are.
    ``event_time`` is in ms since 1970. ``metadata`` is JSON of at most 8 KiB; what was larger is
    dropped, and ``metadata_dropped`` says so.
    """

    source: str
    delivery: str
    project: str | None
    environment: str | None
    application: str | None
    version: str | None
    deployment_id: str | None
    outcome: Literal["succeeded", "failed"]
    event_time: int | None
    metadata: msgspec.Raw | None
    metadata_dropped: bool
    traceparent: str | None


class Ignored(Struct, frozen=True):
    """Genuine, but no deployment ended."""

    reason: str
    delivery: str


class Unmappable(Struct, frozen=True):
    """A deployment ended, but which one cannot be told; ``missing`` has the sender's own names."""

    reason: str
    missing: tuple[str, ...]
    delivery: str


class Unreadable(Struct, frozen=True):
    """Not a JSON object."""

    reason: str


class Queued(Struct, frozen=True):
    """Kept now, as this job."""

    job: str


class Duplicate(Struct, frozen=True):
    """Was kept before, as this job."""

    job: str


class Full(Struct, frozen=True):
    """There is no room; there may be in so many seconds."""

    retry_after_s: int


Event = DeploymentCompleted | Ignored | Unmappable | Unreadable
Remembered = Queued | Duplicate | Full


def read_event(source: Source, request: SignedRequest) -> Event:
    """Read what a genuine request says, by the rules of its source."""
    body = _decode(request.body)
    if isinstance(body, Unreadable):
        return body
    view = {"headers": _SnakeCase(request.headers), "query": request.query, "body": body}
    delivery = _delivery_of(source, view, request.body)
    for condition in source.when:
        if not condition.holds(view):
            return Ignored(
                f"{condition.expression.text} is not what this source waits for", delivery
            )
    found = source.outcome.expression.find(view)
    outcome = source.outcome.judge(found)
    if outcome is not None:
        return _read_completed(source, view, delivery, outcome)
    if found is None and source.strict:
        word = _sender_word(source.outcome.expression, "outcome")
        return Unmappable(f"missing: {word}", (word,), delivery)
    return Ignored(f"{source.outcome.expression.text} says neither succeeded nor failed", delivery)


class _SnakeCase:
    """Headers by a name that needs no quotes in an expression: ``headers.x_github_event``."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def get(self, name: str) -> str | None:
        return self._headers.get(name.replace("_", "-"))


def _decode(body: bytes) -> dict[str, object] | Unreadable:
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        return Unreadable("the body is nested too deeply")
    except ValueError:  # malformed, not UTF-8, or a number that nothing can hold
        form = body.startswith(b"payload=")
        return Unreadable(
            "the body is a form; set the content type to application/json"
            if form
            else "the body is not JSON"
        )
    return value if isinstance(value, dict) else Unreadable("the body is not a JSON object")


def _delivery_of(source: Source, view: Mapping[str, object], body: bytes) -> str:
    """Give a short printable key, equal for equal deliveries."""
    key = None if source.dedupe is None else _to_text(source.dedupe.find(view))
    if not key:
        return sha256(body).hexdigest()
    return (
        key
        if _DELIVERY.fullmatch(key)
        else sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    )


def _read_completed(
    source: Source,
    view: Mapping[str, object],
    delivery: str,
    outcome: Literal["succeeded", "failed"],
) -> DeploymentCompleted | Unmappable:
    fields = source.fields
    names = {
        "id": _find_name(fields.id, view, {}),
        "project": _find_name(fields.project, view, {}) or source.project,
        "environment": _find_name(fields.environment, view, source.environments),
        "application": _find_name(fields.application, view, source.applications),
        "version": _find_name(fields.version, view, {}),
    }
    if unmappable := _judge_names(source, names, delivery):
        return unmappable
    metadata, dropped = _pack_metadata(_find(fields.metadata, view))
    return DeploymentCompleted(
        source=source.name,
        delivery=delivery,
        project=names["project"],
        environment=names["environment"],
        application=names["application"],
        version=names["version"],
        deployment_id=names["id"],
        outcome=outcome,
        event_time=read_time(_find(fields.finished_at, view)),
        metadata=metadata,
        metadata_dropped=dropped,
        traceparent=_check_traceparent(_find(fields.traceparent, view)),
    )


def _judge_names(
    source: Source, names: Mapping[str, str | None], delivery: str
) -> Unmappable | None:
    bad = [
        key
        for key, name in names.items()
        if name and not (_ID if key == "id" else _NAME).fullmatch(name)
    ]
    lacking = [key for key in _NEEDED if not names[key]] if not names["id"] else []
    if not bad and not lacking:
        return None
    words = {key: _sender_word(getattr(source.fields, key), key) for key in (*bad, *lacking)}
    problems = [
        f"{problem}: {', '.join(words[key] for key in keys)}"
        for problem, keys in (("cannot be used", bad), ("missing", lacking))
        if keys
    ]
    return Unmappable("; ".join(problems), tuple(words.values()), delivery)


def _sender_word(expression: Expression | None, key: str) -> str:
    """Give the sender's own name of a field, such as ``projectKey``."""
    return expression.text.removeprefix("body.") if expression else key


def _find(expression: Expression | None, view: Mapping[str, object]) -> object:
    return None if expression is None else expression.find(view)


def _find_name(
    expression: Expression | None, view: Mapping[str, object], aliases: Mapping[str, str]
) -> str | None:
    value = None if expression is None else expression.find(view)
    if isinstance(value, str):
        return aliases.get(value, value) or None
    if value is None:
        return None
    name = _to_text(value)
    return _UNUSABLE if name is None else aliases.get(name, name)


def _to_text(value: object) -> str | None:
    """Give a text as it is and a whole number as its digits; nothing else names anything."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def _pack_metadata(value: object) -> tuple[msgspec.Raw | None, bool]:
    """Give metadata as JSON, and whether it had to be dropped."""
    if not value:
        return None, False
    try:
        packed = msgspec.json.encode(value)
    except (RecursionError, ValueError):  # as deep as the decoder went, or half a character
        return None, True
    return (msgspec.Raw(packed), False) if len(packed) <= METADATA_BYTES else (None, True)


def _check_traceparent(value: object) -> str | None:
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None
