"""What goes in and what comes out: a call, an answer, and the documented errors.

Error bodies are LaunchDarkly's own words (OpenAPI examples and answers quoted in public issues).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

JSON_TYPE = "application/json"


def _json_headers() -> Mapping[str, str]:
    return {"Content-Type": JSON_TYPE}


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call as it came in: `path` without, `query` as the part after the question mark."""

    method: str
    path: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes = b""


class SimulatedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as it goes out."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = msgspec.field(default_factory=_json_headers)


class Canned(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that a test wrote word by word."""

    status: int = 200
    headers: Mapping[str, str] = msgspec.field(default_factory=_json_headers)
    body: bytes = b""


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one attribute of a call."""

    attribute: str
    reason: str


def json_response(body: object, *, status: int = 200) -> SimulatedResponse:
    """Answer with JSON."""
    return SimulatedResponse(status=status, body=msgspec.json.encode(body))


def invalid_request(field_errors: Sequence[FieldError]) -> SimulatedResponse:
    """400 with one entry for each attribute that is wrong."""
    errors = [msgspec.to_builtins(reason) for reason in field_errors]
    return _error_response(400, "invalid_request", "validation failed", errors=errors)


def malformed_json() -> SimulatedResponse:
    """400 for a body that is not the expected JSON."""
    return _error_response(400, "invalid_request", "Unable to parse JSON")


def unauthorized() -> SimulatedResponse:
    """401 for a token that is missing, wrong, or dressed up as `Bearer`."""
    return _error_response(401, "unauthorized", "Invalid access token")


def beta_header_missing() -> SimulatedResponse:
    """403 without a `code`, as observed when the beta header is missing."""
    message = (
        "This API is in beta. To use it, your request must include the header "
        "`LD-API-Version: beta`."
    )
    return json_response({"message": message}, status=403)


def not_found() -> SimulatedResponse:
    """404 for an id or a path that does not exist, or is not visible yet."""
    return _error_response(404, "not_found", "Invalid resource identifier")


def method_not_allowed() -> SimulatedResponse:
    """405 for a verb that the path does not know."""
    return _error_response(405, "method_not_allowed", "Method not allowed")


def rate_limited(headers: Mapping[str, str]) -> SimulatedResponse:
    """429, with the headers that say when to come back."""
    message = "You've exceeded the API rate limit. Try again later."
    response = _error_response(429, "rate_limited", message)
    return with_headers(response, headers)


def with_headers(response: SimulatedResponse, headers: Mapping[str, str]) -> SimulatedResponse:
    """Give the same answer with more headers."""
    return msgspec.structs.replace(response, headers={**response.headers, **headers})


def _error_response(status: int, code: str, message: str, **extra_fields: Any) -> SimulatedResponse:
    return json_response({"code": code, "message": message, **extra_fields}, status=status)
