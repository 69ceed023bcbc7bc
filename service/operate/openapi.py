"""How is the door described to machines? An OpenAPI document, from the types of its answers."""

from typing import Any

import msgspec
from msgspec import Struct

from service import __version__
from service.accept.answers import Answer, Problem

_TEMPLATE = "#/components/schemas/{name}"
_WEBHOOK = {
    200: ("Answer", "Known already, or no deployment that ended"),
    202: ("Answer", "Kept; or set aside for a person"),
    400: ("Problem", "Unreadable"),
    401: ("Problem", "Not signed with a secret of this source"),
    404: ("Problem", "There is no source of this name"),
    408: ("Problem", "The body came too slowly"),
    413: ("Problem", "Larger than ENRICHER_MAX_BODY_BYTES"),
    422: ("Problem", "A field is missing, which is named"),
    503: ("Problem", "Redis is away, or the backlog is full: come again"),
}
_RETRY = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}}
_SOURCE = {
    "name": "source",
    "in": "path",
    "required": True,
    "description": "The name of a source, such as native",
    "schema": {"type": "string"},
}
_CONTRACTS = {
    "/schemas/enriched-deployment.v1.json": ("schema", "The JSON Schema of a record"),
    "/asyncapi.json": ("asyncapi", "The AsyncAPI document of the stream"),
    "/openapi.json": ("openapi", "This document"),
}


_EVENTS = {
    "type": "array",
    "description": "Of a batch: what became of each event, in the order sent",
    "items": {"anyOf": [{"$ref": _TEMPLATE.format(name=name)} for name in ("Answer", "Problem")]},
}


class Health(Struct, omit_defaults=True):
    """Whether the process is well; why not, and what should be mended."""

    status: str
    waiting: int | None = None
    reasons: list[str] | None = None
    warnings: list[str] | None = None


def describe_door() -> dict[str, Any]:
    """Give the OpenAPI 3.1 document of the door."""
    types = [_without_events(Answer), _without_events(Problem), Health]
    _, schemas = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    for name in ("Answer", "Problem"):
        schemas[name]["properties"]["events"] = _EVENTS
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "deployment-enricher: the door",
            "version": __version__,
            "summary": "Takes signed webhooks of deployments that ended",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [],
        "paths": {
            "/webhooks/{source}": _describe_webhooks(),
            "/healthz": {"get": _describe_health("alive", {200: "The process answers"})},
            "/readyz": {
                "get": _describe_health("ready", {200: "It takes webhooks", 503: "It cannot"})
            },
            **{path: {"get": _describe_contract(*told)} for path, told in _CONTRACTS.items()},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _without_events(answer: type[Struct]) -> type[Struct]:
    """Leave out the events of a batch: msgspec describes no untagged union."""
    fields = [
        (field.name, field.type, field.default)
        for field in msgspec.structs.fields(answer)
        if field.name != "events"
    ]
    return msgspec.defstruct(answer.__name__, fields, namespace={"__doc__": answer.__doc__})


def _describe_webhooks() -> dict[str, Any]:
    return {
        "parameters": [_SOURCE],
        "post": {
            "operationId": "receiveWebhook",
            "summary": "Take a webhook, in whatever form its source sends it",
            "description": "Verified on the raw bytes, as its source is configured: by Standard "
            "Webhooks, an HMAC, Ed25519, a token, or a bearer token.",
            "security": [{"bearer": []}, {}],
            "requestBody": {"required": True, "content": {"*/*": {"schema": {}}}},
            "responses": {
                str(status): _answer(name, meaning, headers=_RETRY if status == 503 else {})  # noqa: PLR2004 - HTTP's own
                for status, (name, meaning) in _WEBHOOK.items()
            },
        },
        "options": {
            "operationId": "shakeHands",
            "summary": "The handshake of CloudEvents' HTTP webhooks",
            "responses": {
                "200": {"description": "Anybody may send"},
                "204": {"description": "Post here"},
                "404": _answer("Problem", "There is no source of this name"),
            },
        },
    }


def _describe_health(name: str, meanings: dict[int, str]) -> dict[str, Any]:
    return {
        "operationId": f"tell{name.title()}",
        "summary": f"Is it {name}?",
        "responses": {str(each): _answer("Health", told) for each, told in meanings.items()},
    }


def _describe_contract(name: str, meaning: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": f"show{name.title()}",
        "summary": meaning,
        "responses": {"200": {"description": meaning, "content": content}},
    }


def _answer(name: str, meaning: str, *, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    kind = "application/problem+json" if name == "Problem" else "application/json"
    schema = {"$ref": _TEMPLATE.format(name=name)}
    told: dict[str, Any] = {"description": meaning, "content": {kind: {"schema": schema}}}
    return {**told, "headers": headers} if headers else told
