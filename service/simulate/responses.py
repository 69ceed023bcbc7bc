"""One call, one response, and LaunchDarkly's documented errors.

Error bodies are LaunchDarkly's own texts, from its OpenAPI examples and from responses quoted in
public issues.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

JSON_TYPE = "application/json"


def _json_headers() -> Mapping[str, str]:
    return {"Content-Type": JSON_TYPE}


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `path` excludes the query; `query` holds its parameters."""

    method: str
    path: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes = b""


class SimulatedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One response of the simulator."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = msgspec.field(default_factory=_json_headers)


class Canned(msgspec.Struct, frozen=True, kw_only=True):
    """A response that a test has set, with its exact status, headers and body."""

    status: int = 200
    headers: Mapping[str, str] = msgspec.field(default_factory=_json_headers)
    body: bytes = b""


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why one attribute of a call is invalid."""

    attribute: str
    reason: str


def json_response(body: object, *, status: int = 200) -> SimulatedResponse:
    """Return a response with a JSON body."""
    return SimulatedResponse(status=status, body=msgspec.json.encode(body))


def invalid_request(field_errors: Sequence[FieldError]) -> SimulatedResponse:
    """Return 400 with one entry for each invalid attribute."""
    errors = [msgspec.to_builtins(error) for error in field_errors]
    return _error_response(400, "invalid_request", "validation failed", errors=errors)


def malformed_json() -> SimulatedResponse:
    """Return 400 for a body that is not a JSON object."""
    return _error_response(400, "invalid_request", "Unable to parse JSON")


def unauthorized() -> SimulatedResponse:
    """Return 401 for a token that is missing, wrong or prefixed with `Bearer`."""
    return _error_response(401, "unauthorized", "Invalid access token")


def beta_header_missing() -> SimulatedResponse:
    """Return 403 without a `code`, as LaunchDarkly does without the beta header."""
    message = (
        "This API is in beta. To use it, your request must include the header "
        "`LD-API-Version: beta`."
    )
    return json_response({"message": message}, status=403)


def forbidden() -> SimulatedResponse:
    """Return 403 for a project that the role of the token does not include."""
    message = "Forbidden. Access to the requested resource was denied."
    return _error_response(403, "forbidden", message)


def not_found() -> SimulatedResponse:
    """Return 404 for an id or a path that does not exist or is not visible yet."""
    return _error_response(404, "not_found", "Invalid resource identifier")


def method_not_allowed() -> SimulatedResponse:
    """Return 405 for a verb that the path does not support."""
    return _error_response(405, "method_not_allowed", "Method not allowed")


def rate_limited(headers: Mapping[str, str]) -> SimulatedResponse:
    """Return 429 with the rate-limit headers."""
    message = "You've exceeded the API rate limit. Try again later."
    response = _error_response(429, "rate_limited", message)
    return with_headers(response, headers)


def with_headers(response: SimulatedResponse, headers: Mapping[str, str]) -> SimulatedResponse:
    """Return the response with more headers."""
    return msgspec.structs.replace(response, headers={**response.headers, **headers})


def _error_response(status: int, code: str, message: str, **extra_fields: Any) -> SimulatedResponse:
    return json_response({"code": code, "message": message, **extra_fields}, status=status)
