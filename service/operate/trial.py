"""What would become of this webhook? Judged as the door would judge it, and nothing is queued."""

import json
from collections.abc import Iterator, Mapping
from typing import assert_never

from msgspec import Struct

from service.accept.checks import is_genuine
from service.accept.choice import Only
from service.accept.decode import Message, Unreadable, decode_request
from service.accept.events import (
    Batch,
    DeploymentCompleted,
    Event,
    Ignored,
    Unmappable,
    make_view,
    read_webhook,
)
from service.accept.expressions import Expression
from service.accept.names import find_names
from service.accept.rules import Condition
from service.accept.signature import SignedRequest, Token
from service.accept.sources import Fields, Source
from service.accept.times import read_time
from service.backlog.ticket import name_job
from service.log import make_printable
from service.operate.sources import describe_scheme, name_preset

_LONGEST = 160  # of a value that is shown
_LABEL = 13

View = Mapping[str, object]


class Trial(Struct, frozen=True):
    """Whether the request was genuine, and what each of its events says."""

    genuine: bool
    events: tuple[Event, ...]
    report: str

    @property
    def is_welcome(self) -> bool:
        """Tell whether the door would answer 2xx, and a person would have nothing to do."""
        fine = (DeploymentCompleted, Ignored)
        return self.genuine and all(isinstance(event, fine) for event in self.events)


def try_webhook(
    source: Source, request: SignedRequest, *, now_s: float, only: Only | None = None
) -> Trial:
    """Judge a request as the door would at ``now_s``, and tell how every value was found.

    ``only`` says what is wanted downstream; None: all of it.
    """
    wanted = only or Only()
    genuine = is_genuine(source.checks, request, now_s=now_s)
    read = read_webhook(source, request)
    events = tuple(map(wanted.sift, read.events if isinstance(read, Batch) else (read,)))
    decoded = decode_request(request)
    messages = decoded if isinstance(decoded, tuple) else (decoded,)
    lines = [_row("source", f"{source.name}, {name_preset(source)}")]
    lines += _tell_verified(source, request, genuine=genuine)
    for message, event in zip(messages, events, strict=True):
        lines.append("")
        if isinstance(message, Message):
            lines += _tell_found(source, make_view(request, message))
        lines.append(_row("answer", _tell_fate(source, event, genuine=genuine)))
    return Trial(genuine, events, "".join(f"{make_printable(line)}\n" for line in lines))


def _tell_verified(source: Source, request: SignedRequest, *, genuine: bool) -> Iterator[str]:
    if genuine:
        yield _row("verified", "yes")
        return
    for nth, scheme in enumerate(source.schemes):
        wanted = describe_scheme(scheme)
        if isinstance(scheme, Token) and scheme.query is not None:
            there = scheme.query in request.query
        else:
            there = str(getattr(scheme, "header", "")).lower() in request.headers
        fault = "none of the secrets made it, or it is too old" if there else "it is not there"
        yield _row("" if nth else "verified", f"{'nor' if nth else 'no'}: {wanted}: {fault}")


def _tell_found(source: Source, view: View) -> Iterator[str]:
    for condition in source.when:
        holds = "as wanted" if condition.holds(view) else f"wanted: {_show_wanted(condition)}"
        yield _row("when", f"{_show_found(condition.expression, view)}, {holds}")
    outcome = source.outcome.judge(source.outcome.expression.find(view))
    ended = outcome or "neither succeeded nor failed"
    yield _row("outcome", f"{ended}, as {_show_found(source.outcome.expression, view)}")
    names = find_names(source, view)
    for field in Fields.__struct_fields__:
        expression: Expression | None = getattr(source.fields, field)
        if expression is not None or names.get(field):
            yield _row(field, _tell_field(field, expression, names, view))


def _tell_field(
    field: str, expression: Expression | None, names: Mapping[str, str | None], view: View
) -> str:
    """Say what a field comes to, and how."""
    name = names.get(field)
    found = None if expression is None else expression.find(view)
    if expression is None or (found is None and name):
        return f"{_show(name)}, as the source says"
    told = _show_found(expression, view)
    if isinstance(found, str) and name and name != found:
        return f"{_show(name)}, for {told}"
    if field == "finished_at" and found is not None and read_time(found) is None:
        return f"{told}, which is no time: that of its arrival will do"
    return told


def _tell_fate(source: Source, event: Event, *, genuine: bool) -> str:
    """Say what the door would answer; of what is not genuine, what it would be if it were."""
    match event:
        case DeploymentCompleted():
            fate = f"queued as {name_job(event)} (202), delivery {event.delivery}"
        case Ignored(reason):
            fate = f"ignored (200): {reason}"
        case Unmappable(reason) if source.strict:
            fate = f"rejected (422): {reason}"
        case Unmappable(reason):
            fate = f"set aside for a person (202): {reason}"
        case Unreadable(reason):
            fate = f"rejected (400): {reason}"
        case never:
            assert_never(never)
    return fate if genuine else f"rejected (401); were it genuine: {fate}"


def _show_wanted(condition: Condition) -> str:
    patterns = [f"/{pattern.pattern}/" for pattern in condition.patterns]
    return " or ".join([*map(_show, condition.values), *patterns])


def _show_found(expression: Expression, view: View) -> str:
    return f"{_show(expression.find(view))} <- {expression.text}"


def _show(value: object) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}.."


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}"
