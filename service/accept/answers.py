"""What does a sender hear? A small JSON object, whatever happened."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from msgspec import Struct


class Answer(Struct, frozen=True, omit_defaults=True):
    """What a sender hears when all is well."""

    status: str
    job: str | None = None
    delivery: str | None = None
    reason: str | None = None
    events: tuple["Answer | Problem", ...] | None = None


class Problem(Struct, frozen=True, omit_defaults=True):
    """What a sender hears when it is not (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    missing: tuple[str, ...] = ()
    events: tuple["Answer | Problem", ...] | None = None


class Reply(Struct, frozen=True):
    """A whole answer: its status, its body, and the headers that it needs."""

    status: int
    body: Answer | Problem
    headers: Mapping[str, str]


def agree(status: int, answer: Answer) -> Reply:
    """Answer that all is well."""
    return Reply(status, answer, {"Content-Type": "application/json"})


def object_to(
    status: int,
    detail: str,
    *,
    missing: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Answer that something is wrong."""
    problem = Problem("about:blank", HTTPStatus(status).phrase, status, detail, missing)
    kind = {"Content-Type": "application/problem+json"}
    return Reply(status, problem, kind | dict(headers or {}))


def gather(replies: Sequence[Reply]) -> Reply:
    """Answer for a batch: each event's own answer in the order sent, under one status.

    The highest status speaks for all: what must come again (503) goes before what its sender must
    mend (422), and that before what was kept (202) or passed over (200). A batch that comes again
    does no harm: what was kept of it is a duplicate then.
    """
    events = tuple(reply.body for reply in replies)
    if not replies:
        return agree(200, Answer("batch", events=events))
    worst = max(replies, key=lambda reply: reply.status)
    if worst.status < HTTPStatus.BAD_REQUEST:
        return agree(worst.status, Answer("batch", events=events))
    phrase = HTTPStatus(worst.status).phrase
    problem = Problem(
        "about:blank", phrase, worst.status, "not every event could be kept", events=events
    )
    return Reply(worst.status, problem, worst.headers)
