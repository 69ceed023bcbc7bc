"""The mapping of a genuine request to events: a completed deployment, or why there is none."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.accept.expressions import Expression
from service.accept.named_fields import LARGE_BYTES, FieldTree, find_named_fields
from service.accept.payload import InvalidPayload, Payload, decode_request
from service.accept.replay import ReplayContext, list_expressions, replay_context
from service.accept.signatures import SignedRequest
from service.accept.sources import Fields, Source, is_valid_key

MAX_METADATA_BYTES = 8192
MAX_NAME_CHARACTERS = 256

_DEPLOYMENT_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_REQUIRED_KEYS = ("project", "environment", "application", "version")
_INVALID_KEY = "\0"  # stands for a value of a wrong type; is_valid_key refuses it

_DELIVERY_ID = re.compile(r"[!-~]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header forbids version ff and ids of all zeros.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)

# A smaller number is seconds, any other milliseconds: 1e11 is the year 5138 in s, March 1973 in ms.
_MIN_MS = 100_000_000_000
_MAX_MS = 253_402_300_799_999  # the end of the year 9999

_NUMBER_TYPES = (int, float)
_NUMERIC_TIME = re.compile(r"[0-9]{1,15}([.][0-9]{1,9})?")
_ISO_8601 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?)"
    r" ?(?:(Z|UTC)|([+-][0-9]{2}(?::?[0-9]{2})?))"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_MS = timedelta(milliseconds=1)


class MappingError(Struct, frozen=True):
    """Why an event cannot be mapped, and the sender's names of the wrong or missing fields."""

    reason: str
    labels: tuple[str, ...]


def resolve_keys(source: Source, inputs: Mapping[str, object]) -> dict[str, str | None]:
    """Return id, project, environment, application and version; None for a missing one."""
    fields = source.fields
    return {
        "id": _resolve_key(fields.id, inputs, {}),
        "project": _resolve_key(fields.project, inputs, {}) or source.project,
        "environment": _resolve_key(fields.environment, inputs, source.environments),
        "application": _resolve_key(fields.application, inputs, source.applications),
        "version": _resolve_key(fields.version, inputs, {}),
    }


def check_keys(fields: Fields, keys: Mapping[str, str | None]) -> MappingError | None:
    """Return all invalid keys, and without an id the missing ones; None if all keys are fine."""
    invalid = [
        key
        for key, value in keys.items()
        if value and not (_DEPLOYMENT_ID.fullmatch(value) if key == "id" else is_valid_key(value))
    ]
    missing = [key for key in _REQUIRED_KEYS if not keys[key]] if not keys["id"] else []
    if not invalid and not missing:
        return None
    labels = {key: field_label(getattr(fields, key), key) for key in (*invalid, *missing)}
    problems = [
        f"{problem}: {', '.join(labels[key] for key in problem_keys)}"
        for problem, problem_keys in (("cannot be used", invalid), ("missing", missing))
        if problem_keys
    ]
    return MappingError("; ".join(problems), tuple(labels.values()))


def field_label(expression: Expression | None, key: str) -> str:
    """Return the sender's name of a field, such as ``projectKey``."""
    return expression.text.removeprefix("body.") if expression else key


def to_text(value: object) -> str | None:
    """Return a text unchanged, a whole number as its digits, and None for any other value."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def _resolve_key(
    expression: Expression | None, inputs: Mapping[str, object], aliases: Mapping[str, str]
) -> str | None:
    value = None if expression is None else expression.evaluate(inputs)
    if isinstance(value, str):
        return aliases.get(value, value) or None
    if value is None:
        return None
    text = to_text(value)
    return _INVALID_KEY if text is None else aliases.get(text, text)


def parse_time(value: object) -> int | None:
    """Return ms since 1970 for s, ms or ISO 8601 with an offset, as number or text; else None.

    GitLab sends ``2025-05-02 11:55:16 +0000``, Azure seven fractional digits, Jenkins ``+0800``,
    Buildkite ``2025-05-02 11:55:16 UTC``, Harness and CodeDeploy a number as text.
    """
    if isinstance(value, str):
        if iso_match := _ISO_8601.fullmatch(value):
            return _parse_iso(iso_match[1], iso_match[3] or "+00:00")
        value = float(value) if _NUMERIC_TIME.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, _NUMBER_TYPES):
        return None
    ms = value if value >= _MIN_MS else value * 1000
    return round(ms) if 0 < ms <= _MAX_MS else None


def _parse_iso(local_time: str, offset: str) -> int | None:
    try:
        ms = (datetime.fromisoformat(local_time + offset) - _EPOCH) // _ONE_MS
    except (ValueError, OverflowError):  # the shape of a time, but not valid: the 31st of June
        return None
    return ms if 0 < ms <= _MAX_MS else None


class DeploymentEvent(Struct, frozen=True, kw_only=True):
    """A deployment that ended, or that started, as its sender reported it.

    ``report``: it is reported, if LaunchDarkly lists no such deployment. Only then the outcome
    can be ``started``, and ``version_name`` is what people call the version.

    It has a ``deployment_id``, or all of project, environment, application and version.
    ``event_time`` is in ms since 1970. ``metadata`` is JSON of at most 8 KiB; larger metadata, or
    metadata that is not JSON, is dropped, which ``metadata_dropped`` reports. ``time_unreadable``:
    the webhook has a time that could not be parsed.
    """

    source: str
    delivery: str
    project: str | None
    environment: str | None
    application: str | None
    version: str | None
    deployment_id: str | None
    outcome: Literal["succeeded", "failed", "started"]
    event_time: int | None
    metadata: msgspec.Raw | None
    metadata_dropped: bool
    traceparent: str | None
    time_unreadable: bool = False
    report: bool = False
    version_name: str | None = None


class Ignored(Struct, frozen=True):
    """A genuine event of which no deployment ended, or one that a filter excludes."""

    reason: str
    delivery: str


class Unmappable(Struct, frozen=True):
    """A deployment ended, but the event does not identify it.

    ``missing`` has the sender's names of the missing fields. ``raw`` is the body, or one event of a
    batch. ``replay_context`` is the rest of the request that mapping ``raw`` again needs.
    """

    reason: str
    missing: tuple[str, ...]
    delivery: str
    raw: bytes
    replay_context: ReplayContext = ReplayContext()


class Queued(Struct, frozen=True):
    """The event was added to the backlog as this job."""

    job: str


class Duplicate(Struct, frozen=True):
    """The event was added before, as this job."""

    job: str


class BacklogFull(Struct, frozen=True):
    """The backlog is full, or the ticket; the sender should retry after so many seconds."""

    retry_after_s: int
    reason: str = "the backlog is full"


Event = DeploymentEvent | Ignored | Unmappable | InvalidPayload
EnqueueResult = Queued | Duplicate | BacklogFull


class Batch(Struct, frozen=True):
    """The events of one request; each is a delivery of its own."""

    events: tuple[Event, ...]


def parse_webhook(source: Source, request: SignedRequest) -> Event | Batch:
    """Map a genuine request to an event, or a batch of them, by the rules of its source."""
    match decode_request(request, fields=_find_needed_fields(source, request)):
        case InvalidPayload() as invalid_payload:
            return invalid_payload
        case Payload() as payload:
            return _map_payload(source, request, payload, batched=False)
        case payloads:
            return Batch(
                tuple(
                    _map_payload(source, request, event_payload, batched=True)
                    for event_payload in payloads
                )
            )


def _find_needed_fields(source: Source, request: SignedRequest) -> FieldTree | None:
    """Return the fields of a large body that the source uses; None for a small one: all of it."""
    if len(request.body) < LARGE_BYTES:
        return None
    tree = find_named_fields(list_expressions(source))
    return None if tree is None else tree.get("body", {})


def expression_input(request: SignedRequest, payload: Payload) -> dict[str, object]:
    """Return what the expressions of a source are evaluated over."""
    return {
        "headers": _Lookup(lambda name: request.headers.get(name.replace("_", "-"))),
        "query": _Lookup(request.query.get),
        "ce": payload.ce_attributes,
        "body": payload.body,
    }


def _map_payload(
    source: Source, request: SignedRequest, payload: Payload, *, batched: bool
) -> Event:
    event = _classify_payload(source, request, payload, batched=batched)
    if isinstance(event, Unmappable):
        return replace(event, replay_context=replay_context(source, request, batched=batched))
    return event


def _classify_payload(
    source: Source, request: SignedRequest, payload: Payload, *, batched: bool
) -> Event:
    inputs = expression_input(request, payload)
    # A header or parameter identifies the request, not one event of its batch.
    delivery_inputs = inputs | {"headers": {}, "query": {}} if batched else inputs
    delivery = _delivery_id(source, delivery_inputs, payload)
    for condition in source.when:
        if not condition.is_met(inputs):
            return Ignored(
                f"{condition.expression.text} is not what this source waits for", delivery
            )
    outcome_value = source.outcome.expression.evaluate(inputs)
    outcome = source.outcome.decide(outcome_value)
    if outcome is not None:
        return _map_deployment(source, inputs, outcome, delivery=delivery, raw=payload.raw)
    if source.report and source.outcome.is_start(outcome_value):
        return _map_started(source, inputs, delivery=delivery, raw=payload.raw)
    if outcome_value is None:
        label = field_label(source.outcome.expression, "outcome")
        return Unmappable(f"missing: {label}", (label,), delivery, payload.raw)
    return Ignored(f"{source.outcome.expression.text} says neither succeeded nor failed", delivery)


class _Lookup:
    """The headers or URL parameters, by name only: as a whole they may hold secrets.

    In an expression, a header is written in snake_case and needs no quotes:
    ``headers.x_github_event``.
    """

    __slots__ = ("get",)

    def __init__(self, get: Callable[[str], str | None]) -> None:
        self.get = get

    def __repr__(self) -> str:
        return "all of it"


def _delivery_id(source: Source, inputs: Mapping[str, object], payload: Payload) -> str:
    """Return a short printable id, equal for equal deliveries."""
    key = None if source.dedupe is None else to_text(source.dedupe.evaluate(inputs))
    if not key:
        return sha256(payload.dedup_key).hexdigest()
    if _DELIVERY_ID.fullmatch(key):
        return key
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _map_deployment(
    source: Source,
    inputs: Mapping[str, object],
    outcome: Literal["succeeded", "failed", "started"],
    *,
    delivery: str,
    raw: bytes,
) -> DeploymentEvent | Unmappable:
    fields = source.fields
    keys = resolve_keys(source, inputs)
    if mapping_error := check_keys(fields, keys):
        return Unmappable(mapping_error.reason, mapping_error.labels, delivery, raw)
    metadata, metadata_dropped = _encode_metadata(_evaluate(fields.metadata, inputs))
    has_start_time = outcome == "started" and fields.started_at is not None
    time_field = fields.started_at if has_start_time else fields.finished_at
    event_at = _evaluate(time_field, inputs)
    event_time = parse_time(event_at)
    return DeploymentEvent(
        source=source.name,
        delivery=delivery,
        project=keys["project"],
        environment=keys["environment"],
        application=keys["application"],
        version=keys["version"],
        deployment_id=keys["id"],
        outcome=outcome,
        event_time=event_time,
        metadata=metadata,
        metadata_dropped=metadata_dropped,
        traceparent=_parse_traceparent(_evaluate(fields.traceparent, inputs)),
        time_unreadable=event_time is None and event_at not in (None, ""),
        report=source.report,
        version_name=_version_name(source, inputs) if source.report else None,
    )


def _version_name(source: Source, inputs: Mapping[str, object]) -> str | None:
    name = to_text(_evaluate(source.fields.version_name, inputs))
    return name if name and len(name) <= MAX_NAME_CHARACTERS else None


def _map_started(
    source: Source, inputs: Mapping[str, object], *, delivery: str, raw: bytes
) -> DeploymentEvent | Ignored:
    """Map the start of a deployment. Its end is what counts: a start is never parked."""
    event = _map_deployment(source, inputs, "started", delivery=delivery, raw=raw)
    if isinstance(event, Unmappable):
        return Ignored(
            f"a deployment started, but its event is incomplete: {event.reason}", delivery
        )
    if event.deployment_id is not None:
        return Ignored("a deployment started that LaunchDarkly already knows by its id", delivery)
    return event


def _evaluate(expression: Expression | None, inputs: Mapping[str, object]) -> object:
    return None if expression is None else expression.evaluate(inputs)


def _encode_metadata(value: object) -> tuple[msgspec.Raw | None, bool]:
    """Return metadata as JSON, and whether it was dropped."""
    if not value:
        return None, False
    try:
        encoded = msgspec.json.encode(value)
    except (RecursionError, TypeError, ValueError):
        # Nested as deep as the decoder allows, not JSON (such as all headers), or a lone surrogate.
        return None, True
    return (msgspec.Raw(encoded), False) if len(encoded) <= MAX_METADATA_BYTES else (None, True)


def _parse_traceparent(value: object) -> str | None:
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None
