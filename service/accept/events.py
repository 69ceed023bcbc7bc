"""What do these bytes say? That a deployment has ended, or why they say nothing of the kind."""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.accept.clues import Clues, keep_clues
from service.accept.decode import Message, Unreadable, decode_request
from service.accept.expressions import Expression
from service.accept.names import find_names, judge_names, sender_word, to_text
from service.accept.signature import SignedRequest
from service.accept.sources import Source
from service.accept.times import read_time

METADATA_BYTES = 8192

_DELIVERY = re.compile(r"[!-~]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: ff is no version, and no id is all zero.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


class DeploymentCompleted(Struct, frozen=True, kw_only=True):
    """One deployment that ended, as its sender told it.

    Either ``deployment_id`` is there, or all of project, environment, application and version are.
    ``event_time`` is in ms since 1970. ``metadata`` is JSON of at most 8 KiB; what was larger, or
    no JSON, is dropped, and ``metadata_dropped`` says so. ``time_unreadable``: the sender gave a
    time, and we could not read it.
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
    time_unreadable: bool = False


class Ignored(Struct, frozen=True):
    """Genuine, but no deployment ended, or none that is wanted."""

    reason: str
    delivery: str


class Unmappable(Struct, frozen=True):
    """A deployment ended, but which one cannot be told; ``missing`` has the sender's own names.

    ``raw`` is what said so: the body, or one event of a batch; ``clues`` is what else has to be
    kept of the request to read that again.
    """

    reason: str
    missing: tuple[str, ...]
    delivery: str
    raw: bytes
    clues: Clues = Clues()


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


class Batch(Struct, frozen=True):
    """Several events in one request, each a delivery of its own."""

    events: tuple[Event, ...]


def read_webhook(source: Source, request: SignedRequest) -> Event | Batch:
    """Read what a genuine request says, by the rules of its source."""
    match decode_request(request):
        case Unreadable() as problem:
            return problem
        case Message() as message:
            return _read_message(source, request, message, batched=False)
        case messages:
            return Batch(
                tuple(_read_message(source, request, one, batched=True) for one in messages)
            )


def make_view(request: SignedRequest, message: Message) -> dict[str, object]:
    """Lay out what the expressions of a source look at."""
    return {
        "headers": _Members(lambda name: request.headers.get(name.replace("_", "-"))),
        "query": _Members(request.query.get),
        "ce": message.ce,
        "body": message.body,
    }


def _read_message(
    source: Source, request: SignedRequest, message: Message, *, batched: bool
) -> Event:
    event = _judge_message(source, request, message, batched=batched)
    if isinstance(event, Unmappable):
        return replace(event, clues=keep_clues(source, request, batched=batched))
    return event


def _judge_message(
    source: Source, request: SignedRequest, message: Message, *, batched: bool
) -> Event:
    view = make_view(request, message)
    # What names the whole request names none of the events in its batch.
    alone = view | {"headers": {}, "query": {}} if batched else view
    delivery = _delivery_of(source, alone, message)
    for condition in source.when:
        if not condition.holds(view):
            return Ignored(
                f"{condition.expression.text} is not what this source waits for", delivery
            )
    found = source.outcome.expression.find(view)
    outcome = source.outcome.judge(found)
    if outcome is not None:
        return _read_completed(source, view, outcome, delivery=delivery, raw=message.raw)
    if found is None and source.strict:
        word = sender_word(source.outcome.expression, "outcome")
        return Unmappable(f"missing: {word}", (word,), delivery, message.raw)
    return Ignored(f"{source.outcome.expression.text} says neither succeeded nor failed", delivery)


class _Members:
    """What is asked for by name, and is no value as a whole: among others it holds secrets.

    Headers have names that need no quotes in an expression: ``headers.x_github_event``.
    """

    __slots__ = ("get",)

    def __init__(self, get: Callable[[str], str | None]) -> None:
        self.get = get

    def __repr__(self) -> str:
        return "all of it"


def _delivery_of(source: Source, view: Mapping[str, object], message: Message) -> str:
    """Give a short printable key, equal for equal deliveries."""
    key = None if source.dedupe is None else to_text(source.dedupe.find(view))
    if not key:
        return sha256(message.identity).hexdigest()
    if _DELIVERY.fullmatch(key):
        return key
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _read_completed(
    source: Source,
    view: Mapping[str, object],
    outcome: Literal["succeeded", "failed"],
    *,
    delivery: str,
    raw: bytes,
) -> DeploymentCompleted | Unmappable:
    fields = source.fields
    names = find_names(source, view)
    if trouble := judge_names(fields, names):
        return Unmappable(trouble.reason, trouble.words, delivery, raw)
    metadata, dropped = _pack_metadata(_find(fields.metadata, view))
    written = _find(fields.finished_at, view)
    event_time = read_time(written)
    return DeploymentCompleted(
        source=source.name,
        delivery=delivery,
        project=names["project"],
        environment=names["environment"],
        application=names["application"],
        version=names["version"],
        deployment_id=names["id"],
        outcome=outcome,
        event_time=event_time,
        metadata=metadata,
        metadata_dropped=dropped,
        traceparent=_check_traceparent(_find(fields.traceparent, view)),
        time_unreadable=event_time is None and written not in (None, ""),
    )


def _find(expression: Expression | None, view: Mapping[str, object]) -> object:
    return None if expression is None else expression.find(view)


def _pack_metadata(value: object) -> tuple[msgspec.Raw | None, bool]:
    """Give metadata as JSON, and whether it had to be dropped."""
    if not value:
        return None, False
    try:
        packed = msgspec.json.encode(value)
    except (RecursionError, TypeError, ValueError):
        # As deep as the decoder went, no JSON (all headers, say), or half a character.
        return None, True
    return (msgspec.Raw(packed), False) if len(packed) <= METADATA_BYTES else (None, True)


def _check_traceparent(value: object) -> str | None:
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None
