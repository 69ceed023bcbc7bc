"""What would become of this webhook? Judged as the door would judge it, and nothing is queued."""

import json
from collections.abc import Iterator, Mapping
from typing import assert_never

from msgspec import Struct

from service.accept.checks import is_genuine
from service.accept.choice import DeploymentFilter
from service.accept.decode import InvalidPayload, Payload, decode_request
from service.accept.events import (
    Batch,
    DeploymentCompleted,
    Event,
    Ignored,
    Unmappable,
    expression_input,
    parse_webhook,
)
from service.accept.expressions import Expression
from service.accept.names import resolve_keys
from service.accept.rules import Condition
from service.accept.signature import SignedRequest, Token
from service.accept.sources import Fields, Source
from service.accept.times import parse_time
from service.backlog.ticket import job_key
from service.log import escape_unprintable
from service.operate.sources import describe_scheme, preset_label

_MAX_VALUE_CHARACTERS = 160  # of a value that is shown
_LABEL_WIDTH = 13

ExpressionInput = Mapping[str, object]


class Explanation(Struct, frozen=True):
    """Whether the request was genuine, and what each of its events says."""

    genuine: bool
    events: tuple[Event, ...]
    report: str

    @property
    def accepted(self) -> bool:
        """Tell whether the door would answer 2xx, and a person would have nothing to do."""
        accepted_types = (DeploymentCompleted, Ignored)
        return self.genuine and all(isinstance(event, accepted_types) for event in self.events)


def explain_webhook(
    source: Source,
    request: SignedRequest,
    *,
    now_s: float,
    deployment_filter: DeploymentFilter | None = None,
) -> Explanation:
    """Judge a request as the door would at ``now_s``, and tell how every value was found.

    ``only`` says what is wanted downstream; None: all of it.
    """
    active_filter = deployment_filter or DeploymentFilter()
    genuine = is_genuine(source.checks, request, now_s=now_s)
    parsed = parse_webhook(source, request)
    events = tuple(
        map(active_filter.apply, parsed.events if isinstance(parsed, Batch) else (parsed,))
    )
    decoded = decode_request(request)
    payloads = decoded if isinstance(decoded, tuple) else (decoded,)
    lines = [_format_labelled_line("source", f"{source.name}, {preset_label(source)}")]
    lines += _format_verification(source, request, genuine=genuine)
    for payload, event in zip(payloads, events, strict=True):
        lines.append("")
        if isinstance(payload, Payload):
            lines += _format_mapping(source, expression_input(request, payload))
        lines.append(
            _format_labelled_line("answer", _format_response(source, event, genuine=genuine))
        )
    return Explanation(genuine, events, "".join(f"{escape_unprintable(line)}\n" for line in lines))


def _format_verification(source: Source, request: SignedRequest, *, genuine: bool) -> Iterator[str]:
    if genuine:
        yield _format_labelled_line("verified", "yes")
        return
    for index, scheme in enumerate(source.schemes):
        expected = describe_scheme(scheme)
        if isinstance(scheme, Token) and scheme.query is not None:
            is_present = scheme.query in request.query
        else:
            is_present = str(getattr(scheme, "header", "")).lower() in request.headers
        reason = (
            "none of the secrets made it, or it is too old" if is_present else "it is not there"
        )
        yield _format_labelled_line(
            "" if index else "verified", f"{'nor' if index else 'no'}: {expected}: {reason}"
        )


def _format_mapping(source: Source, input_data: ExpressionInput) -> Iterator[str]:
    for condition in source.when:
        result = (
            "as wanted"
            if condition.is_met(input_data)
            else f"wanted: {_format_condition(condition)}"
        )
        yield _format_labelled_line(
            "when", f"{_format_evaluation(condition.expression, input_data)}, {result}"
        )
    outcome = source.outcome.decide(source.outcome.expression.evaluate(input_data))
    outcome_text = outcome or "neither succeeded nor failed"
    yield _format_labelled_line(
        "outcome", f"{outcome_text}, as {_format_evaluation(source.outcome.expression, input_data)}"
    )
    keys = resolve_keys(source, input_data)
    for field in Fields.__struct_fields__:
        expression: Expression | None = getattr(source.fields, field)
        if expression is not None or keys.get(field):
            yield _format_labelled_line(field, _format_field(field, expression, keys, input_data))


def _format_field(
    field: str,
    expression: Expression | None,
    keys: Mapping[str, str | None],
    input_data: ExpressionInput,
) -> str:
    """Say what a field comes to, and how."""
    key = keys.get(field)
    value = None if expression is None else expression.evaluate(input_data)
    if expression is None or (value is None and key):
        return f"{_format_value(key)}, as the source says"
    text = _format_evaluation(expression, input_data)
    if isinstance(value, str) and key and key != value:
        return f"{_format_value(key)}, for {text}"
    if field == "finished_at" and value is not None and parse_time(value) is None:
        return f"{text}, which is no time: that of its arrival will do"
    return text


def _format_response(source: Source, event: Event, *, genuine: bool) -> str:
    """Say what the door would answer; of what is not genuine, what it would be if it were."""
    match event:
        case DeploymentCompleted():
            response = f"queued as {job_key(event)} (202), delivery {event.delivery}"
        case Ignored(reason):
            response = f"ignored (200): {reason}"
        case Unmappable(reason) if source.strict:
            response = f"rejected (422): {reason}"
        case Unmappable(reason):
            response = f"set aside for a person (202): {reason}"
        case InvalidPayload(reason):
            response = f"rejected (400): {reason}"
        case never:
            assert_never(never)
    return response if genuine else f"rejected (401); were it genuine: {response}"


def _format_condition(condition: Condition) -> str:
    patterns = [f"/{pattern.pattern}/" for pattern in condition.patterns]
    return " or ".join([*map(_format_value, condition.values), *patterns])


def _format_evaluation(expression: Expression, input_data: ExpressionInput) -> str:
    return f"{_format_value(expression.evaluate(input_data))} <- {expression.text}"


def _format_value(value: object) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}.."


def _format_labelled_line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{text}"
