"""What goes in and what comes out: a call, an answer, and the documented errors.

Error bodies are LaunchDarkly's own words (OpenAPI examples and answers quoted in public issues).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

JSON_TYPE = "application/json"


def _write_json_type() -> Mapping[str, str]:
    return {"Content-Type": JSON_TYPE}


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call as it came in: `path` without, `query` as the part after the question mark."""

    method: str
    path: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as it goes out."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = msgspec.field(default_factory=_write_json_type)


class Planted(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that a test wrote word by word."""

    status: int = 200
    headers: Mapping[str, str] = msgspec.field(default_factory=_write_json_type)
    body: bytes = b""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one attribute of a call."""

    attribute: str
    reason: str


def answer_json(body: object, *, status: int = 200) -> Answer:
    """Answer with JSON."""
    return Answer(status=status, body=msgspec.json.encode(body))


def answer_invalid(reasons: Sequence[Reason]) -> Answer:
    """400 with one entry for each attribute that is wrong."""
    errors = [msgspec.to_builtins(reason) for reason in reasons]
    return _refuse(400, "invalid_request", "validation failed", errors=errors)


def answer_unreadable() -> Answer:
    """400 for a body that is not the expected JSON."""
    return _refuse(400, "invalid_request", "Unable to parse JSON")


def answer_unauthorized() -> Answer:
    """401 for a token that is missing, wrong, or dressed up as `Bearer`."""
    return _refuse(401, "unauthorized", "Invalid access token")


def answer_not_beta() -> Answer:
    """403 without a `code`, as observed when the beta header is missing."""
    message = (
        "This API is in beta. To use it, your request must include the header "
        "`LD-API-Version: beta`."
    )
    return answer_json({"message": message}, status=403)


def answer_not_found() -> Answer:
    """404 for an id or a path that does not exist, or is not visible yet."""
    return _refuse(404, "not_found", "Invalid resource identifier")


def answer_wrong_method() -> Answer:
    """405 for a verb that the path does not know."""
    return _refuse(405, "method_not_allowed", "Method not allowed")


def answer_rate_limited(headers: Mapping[str, str]) -> Answer:
    """429, with the headers that say when to come back."""
    message = "You've exceeded the API rate limit. Try again later."
    answer = _refuse(429, "rate_limited", message)
    return add_headers(answer, headers)


def add_headers(answer: Answer, headers: Mapping[str, str]) -> Answer:
    """Give the same answer with more headers."""
    return msgspec.structs.replace(answer, headers={**answer.headers, **headers})


def _refuse(status: int, code: str, message: str, **more: Any) -> Answer:
    return answer_json({"code": code, "message": message, **more}, status=status)
