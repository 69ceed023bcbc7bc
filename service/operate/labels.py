"""Which values may a label have? A closed set each, whatever was said: else ``other``."""

from http import HTTPStatus
from typing import Literal, get_args

from service.enrich.verdict import Answer, Silence

Fate = Literal["queued", "duplicate", "ignored", "rejected", "set_aside", "refused"]
Closing = Literal["rate_limited", "token_refused", "upstream_failing", "other"]
Reply = Literal[
    "ok",
    "not_found",
    "rate_limited",
    "refused",
    "client_error",
    "server_error",
    "too_large",
    "silent",
    "other",
]

ROUTES = ("get", "list", "pull-requests")
ROUNDS = ("ended", "failed", "taken_over")
FAILED = (
    "internal_error",
    "not_found",
    "poison",
    "record_not_packable",
    "record_too_large",
    "rejected",
    "too_large",
    "undecodable",
    "unmappable",
    "unreadable_ticket",
    "upstream_failing",
    "other",
)
POSTPONED = (
    "garbled",
    "http_error",
    "internal_error",
    "newer_event",
    "no_answer",
    "not_finished_yet",
    "not_found_yet",
    "rate_limited",
    "token_refused",
    "other",
)
_STATUSES: dict[int, Reply] = {
    HTTPStatus.OK: "ok",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
    HTTPStatus.UNAUTHORIZED: "refused",
    HTTPStatus.FORBIDDEN: "refused",
}
_BEGINNINGS = (
    ("HTTP ", "http_error"),
    ("no answer", "no_answer"),
    ("token_refused", "token_refused"),
)
_CLOSINGS: dict[str, Closing] = {
    name.replace("_", " "): name for name in get_args(Closing) if name != "other"
}


def name_failure(reason: str) -> str:
    """Name why a ticket was given up."""
    return reason if reason in FAILED else "other"


def name_delay(reason: str) -> str:
    """Name why a ticket was put back: whatever the status or the fault of the network was."""
    if reason in POSTPONED:
        return reason
    for beginning, name in _BEGINNINGS:
        if reason.startswith(beginning):
            return name
    return "newer_event" if reason in FAILED else "other"  # what would have failed, had none come


def name_reply(answer: Answer | Silence) -> Reply:
    """Name what a call came to."""
    if isinstance(answer, Silence):
        return "silent"
    if answer.oversized:
        return "too_large"
    known = _STATUSES.get(answer.status)
    if known is not None:
        return known
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return "client_error" if answer.status >= HTTPStatus.BAD_REQUEST else "other"


def name_closing(why: str) -> Closing:
    """Name why nobody may call."""
    return _CLOSINGS.get(why, "other")
