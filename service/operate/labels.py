"""Which values may a label have? A closed set each, whatever was said: else ``other``."""

from http import HTTPStatus
from typing import Literal, get_args

from service.enrich.verdict import ApiResponse, NoResponse

WebhookOutcome = Literal["queued", "duplicate", "ignored", "rejected", "set_aside", "refused"]
ClosedReason = Literal["rate_limited", "token_refused", "upstream_failing", "other"]
CallOutcome = Literal[
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

CALL_ROUTES = ("get", "list", "pull-requests")
RECONCILE_OUTCOMES = ("ended", "failed", "taken_over")
FAILURE_REASONS = (
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
POSTPONE_REASONS = (
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
_OUTCOME_BY_STATUS: dict[int, CallOutcome] = {
    HTTPStatus.OK: "ok",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
    HTTPStatus.UNAUTHORIZED: "refused",
    HTTPStatus.FORBIDDEN: "refused",
}
_REASON_PREFIXES = (
    ("HTTP ", "http_error"),
    ("no answer", "no_answer"),
    ("token_refused", "token_refused"),
)
_CLOSED_REASONS: dict[str, ClosedReason] = {
    name.replace("_", " "): name for name in get_args(ClosedReason) if name != "other"
}


def failure_label(reason: str) -> str:
    """Name why a ticket was given up."""
    return reason if reason in FAILURE_REASONS else "other"


def postpone_label(reason: str) -> str:
    """Name why a ticket was put back: whatever the status or the fault of the network was."""
    if reason in POSTPONE_REASONS:
        return reason
    for prefix, label in _REASON_PREFIXES:
        if reason.startswith(prefix):
            return label
    return (
        "newer_event" if reason in FAILURE_REASONS else "other"
    )  # what would have failed, had none come


def call_outcome_label(response: ApiResponse | NoResponse) -> CallOutcome:
    """Name what a call came to."""
    if isinstance(response, NoResponse):
        return "silent"
    if response.oversized:
        return "too_large"
    outcome = _OUTCOME_BY_STATUS.get(response.status)
    if outcome is not None:
        return outcome
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return "client_error" if response.status >= HTTPStatus.BAD_REQUEST else "other"


def closed_reason_label(reason: str) -> ClosedReason:
    """Name why nobody may call."""
    return _CLOSED_REASONS.get(reason, "other")
