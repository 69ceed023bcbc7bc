"""An explanation of a webhook: its verification, each value with its expression, the answer."""

import json
from collections.abc import Iterator, Mapping
from typing import assert_never

from msgspec import Struct

from service.accept.expressions import Expression
from service.accept.filters import DeploymentFilter
from service.accept.mapping import (
    Batch,
    DeploymentEvent,
    Event,
    Ignored,
    Unmappable,
    expression_input,
    parse_time,
    parse_webhook,
    resolve_keys,
)
from service.accept.payload import InvalidPayload, Payload, decode_request
from service.accept.signatures import SignedRequest, Token, is_genuine
from service.accept.sources import Condition, Fields, Source
from service.backlog.ticket import job_key
from service.cli.source_text import describe_scheme, preset_label
from service.log import escape_unprintable

_MAX_VALUE_CHARACTERS = 160  # of a shown value
_LABEL_WIDTH = 13
_REPORT_FIELDS = frozenset({"version_name", "started_at"})

ExpressionInput = Mapping[str, object]


class Explanation(Struct, frozen=True):
    """Whether a request was genuine, its events, and a report on both."""

    genuine: bool
    events: tuple[Event, ...]
    report: str

    @property
    def accepted(self) -> bool:
        """Return whether the receiver would answer 2xx and park nothing for a person."""
        accepted_types = (DeploymentEvent, Ignored)
        return self.genuine and all(isinstance(event, accepted_types) for event in self.events)


def explain_webhook(
    source: Source,
    request: SignedRequest,
    *,
    now_s: float,
    deployment_filter: DeploymentFilter | None = None,
) -> Explanation:
    """Process a request as the receiver would at ``now_s``, and report where each value came from.

    Without ``deployment_filter`` every deployment is wanted.
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
        reason = "no secret matches, or it is too old" if is_present else "it is missing"
        yield _format_labelled_line(
            "" if index else "verified", f"{'nor' if index else 'no'}: {expected}: {reason}"
        )


def _format_mapping(source: Source, input_data: ExpressionInput) -> Iterator[str]:
    for condition in source.when:
        result = (
            "as required"
            if condition.is_met(input_data)
            else f"required: {_format_condition(condition)}"
        )
        yield _format_labelled_line(
            "when", f"{_format_evaluation(condition.expression, input_data)}, {result}"
        )
    outcome_text = _describe_outcome(source, input_data)
    yield _format_labelled_line(
        "outcome", f"{outcome_text}, as {_format_evaluation(source.outcome.expression, input_data)}"
    )
    keys = resolve_keys(source, input_data)
    for field in Fields.__struct_fields__:
        if field in _REPORT_FIELDS and not source.report:
            continue
        expression: Expression | None = getattr(source.fields, field)
        if expression is not None or keys.get(field):
            yield _format_labelled_line(field, _format_field(field, expression, keys, input_data))


def _describe_outcome(source: Source, input_data: ExpressionInput) -> str:
    value = source.outcome.expression.evaluate(input_data)
    if (outcome := source.outcome.decide(value)) is not None:
        return outcome
    if not source.outcome.is_start(value):
        return "neither succeeded nor failed"
    return "started" if source.report else "started, which counts only with report = true"


def _format_field(
    field: str,
    expression: Expression | None,
    keys: Mapping[str, str | None],
    input_data: ExpressionInput,
) -> str:
    """Return the value of a field and where it came from."""
    key = keys.get(field)
    value = None if expression is None else expression.evaluate(input_data)
    if expression is None or (value is None and key):
        return f"{_format_value(key)}, set by the source"
    text = _format_evaluation(expression, input_data)
    if isinstance(value, str) and key and key != value:
        return f"{_format_value(key)}, for {text}"
    if field in {"started_at", "finished_at"} and value is not None and parse_time(value) is None:
        return f"{text}, which is not a time: the arrival is used"
    return text


def _format_response(source: Source, event: Event, *, genuine: bool) -> str:
    """Return the receiver's answer; for a forged request also that to a genuine one."""
    match event:
        case DeploymentEvent():
            response = f"queued as {job_key(event)} (202), delivery {event.delivery}"
            if event.report and event.deployment_id is None:
                response += "; it is reported to LaunchDarkly, unless it is listed"
        case Ignored(reason):
            response = f"ignored (200): {reason}"
        case Unmappable(reason) if source.strict:
            response = f"rejected (422): {reason}"
        case Unmappable(reason):
            response = f"parked (202): {reason}"
        case InvalidPayload(reason):
            response = f"rejected (400): {reason}"
        case never:
            assert_never(never)
    return response if genuine else f"rejected (401); if genuine: {response}"


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
