"""How is the door described to machines? An OpenAPI document, from the types of its answers."""

from typing import Any

import msgspec
from msgspec import Struct

from service import __version__
from service.accept.answers import Problem, WebhookResult

_OPENAPI_REF_TEMPLATE = "#/components/schemas/{name}"
_WEBHOOK_RESPONSES = {
    200: ("WebhookResult", "Known already, or no deployment that ended"),
    202: ("WebhookResult", "Kept; or set aside for a person"),
    400: ("Problem", "Unreadable"),
    401: ("Problem", "Not signed with a secret of this source"),
    404: ("Problem", "There is no source of this name"),
    408: ("Problem", "The body came too slowly"),
    413: ("Problem", "Larger than ENRICHER_MAX_BODY_BYTES"),
    422: ("Problem", "A field is missing, which is named"),
    503: ("Problem", "Redis is away, or the backlog is full: come again"),
}
_RETRY_AFTER_HEADER = {
    "Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}
}
_SOURCE_PARAMETER = {
    "name": "source",
    "in": "path",
    "required": True,
    "description": "The name of a source, such as native",
    "schema": {"type": "string"},
}
_CONTRACT_PATHS = {
    "/schemas/enriched-deployment.v1.json": ("schema", "The JSON Schema of a record"),
    "/asyncapi.json": ("asyncapi", "The AsyncAPI document of the stream"),
    "/openapi.json": ("openapi", "This document"),
}


_EVENTS_SCHEMA = {
    "type": "array",
    "description": "Of a batch: what became of each event, in the order sent",
    "items": {
        "anyOf": [
            {"$ref": _OPENAPI_REF_TEMPLATE.format(name=name)}
            for name in ("WebhookResult", "Problem")
        ]
    },
}


class Health(Struct, omit_defaults=True):
    """Whether the process is well; why not, and what should be mended."""

    status: str
    backlog: int | None = None
    reasons: list[str] | None = None
    warnings: list[str] | None = None


def build_openapi() -> dict[str, Any]:
    """Give the OpenAPI 3.1 document of the door."""
    types = [_without_events_field(WebhookResult), _without_events_field(Problem), Health]
    _, schemas = msgspec.json.schema_components(types, ref_template=_OPENAPI_REF_TEMPLATE)
    for name in ("WebhookResult", "Problem"):
        schemas[name]["properties"]["events"] = _EVENTS_SCHEMA
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
            "/webhooks/{source}": _build_webhook_path(),
            "/healthz": {"get": _build_health_operation("alive", {200: "The process answers"})},
            "/readyz": {
                "get": _build_health_operation(
                    "ready", {200: "It takes webhooks", 503: "It cannot"}
                )
            },
            **{
                path: {"get": _build_contract_operation(*contract)}
                for path, contract in _CONTRACT_PATHS.items()
            },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _without_events_field(struct_type: type[Struct]) -> type[Struct]:
    """Leave out the events of a batch: msgspec describes no untagged union."""
    fields = [
        (field.name, field.type, field.default)
        for field in msgspec.structs.fields(struct_type)
        if field.name != "events"
    ]
    return msgspec.defstruct(
        struct_type.__name__, fields, namespace={"__doc__": struct_type.__doc__}
    )


def _build_webhook_path() -> dict[str, Any]:
    return {
        "parameters": [_SOURCE_PARAMETER],
        "post": {
            "operationId": "receiveWebhook",
            "summary": "Take a webhook, in whatever form its source sends it",
            "description": "Verified on the raw bytes, as its source is configured: by Standard "
            "Webhooks, an HMAC, Ed25519, a token, or a bearer token.",
            "security": [{"bearer": []}, {}],
            "requestBody": {"required": True, "content": {"*/*": {"schema": {}}}},
            "responses": {
                str(status): _build_response(
                    schema_name, description, headers=_RETRY_AFTER_HEADER if status == 503 else {}
                )  # noqa: PLR2004 - HTTP's own
                for status, (schema_name, description) in _WEBHOOK_RESPONSES.items()
            },
        },
        "options": {
            "operationId": "shakeHands",
            "summary": "The handshake of CloudEvents' HTTP webhooks",
            "responses": {
                "200": {"description": "Anybody may send"},
                "204": {"description": "Post here"},
                "404": _build_response("Problem", "There is no source of this name"),
            },
        },
    }


def _build_health_operation(name: str, descriptions: dict[int, str]) -> dict[str, Any]:
    return {
        "operationId": f"tell{name.title()}",
        "summary": f"Is it {name}?",
        "responses": {
            str(status): _build_response("Health", description)
            for status, description in descriptions.items()
        },
    }


def _build_contract_operation(name: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": f"show{name.title()}",
        "summary": description,
        "responses": {"200": {"description": description, "content": content}},
    }


def _build_response(
    schema_name: str, description: str, *, headers: dict[str, Any] | None = None
) -> dict[str, Any]:
    content_type = "application/problem+json" if schema_name == "Problem" else "application/json"
    schema = {"$ref": _OPENAPI_REF_TEMPLATE.format(name=schema_name)}
    response: dict[str, Any] = {
        "description": description,
        "content": {content_type: {"schema": schema}},
    }
    return {**response, "headers": headers} if headers else response
