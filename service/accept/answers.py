"""What does a sender hear? A small JSON object, whatever happened."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from msgspec import Struct


class WebhookResult(Struct, frozen=True, omit_defaults=True):
    """What a sender hears when all is well."""

    status: str
    job: str | None = None
    delivery: str | None = None
    reason: str | None = None
    events: tuple["WebhookResult | Problem", ...] | None = None


class Problem(Struct, frozen=True, omit_defaults=True):
    """What a sender hears when it is not (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    missing: tuple[str, ...] = ()
    events: tuple["WebhookResult | Problem", ...] | None = None


class Response(Struct, frozen=True):
    """A whole answer: its status, its body, and the headers that it needs."""

    status: int
    body: WebhookResult | Problem
    headers: Mapping[str, str]


def ok(status: int, result: WebhookResult) -> Response:
    """Answer that all is well."""
    return Response(status, result, {"Content-Type": "application/json"})


def problem(
    status: int,
    detail: str,
    *,
    missing: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer that something is wrong."""
    body = Problem("about:blank", HTTPStatus(status).phrase, status, detail, missing)
    content_type_header = {"Content-Type": "application/problem+json"}
    return Response(status, body, content_type_header | dict(headers or {}))


def batch_response(responses: Sequence[Response]) -> Response:
    """Answer for a batch: each event's own answer in the order sent, under one status.

    The highest status speaks for all: what must come again (503) goes before what its sender must
    mend (422), and that before what was kept (202) or passed over (200). A batch that comes again
    does no harm: what was kept of it is a duplicate then.
    """
    event_bodies = tuple(response.body for response in responses)
    if not responses:
        return ok(200, WebhookResult("batch", events=event_bodies))
    worst = max(responses, key=lambda response: response.status)
    if worst.status < HTTPStatus.BAD_REQUEST:
        return ok(worst.status, WebhookResult("batch", events=event_bodies))
    title = HTTPStatus(worst.status).phrase
    body = Problem(
        "about:blank", title, worst.status, "not every event could be kept", events=event_bodies
    )
    return Response(worst.status, body, worst.headers)
