"""The contracts as documents: JSON Schema of a record, AsyncAPI and OpenAPI.

All three are generated from the types. The receiver serves them, ``schema FILE`` prints them, and
``deploy/contracts`` holds a copy.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct, json

from service import __version__
from service.accept.handler import Problem, WebhookResult
from service.enrich import models
from service.publish.record import (
    DATA_SCHEMA_ID,
    DATA_SCHEMA_PATH,
    JSON_CONTENT_TYPE,
    RECORD_TYPE,
    Attributes,
    EnrichedDeployment,
)
from service.store.keys import Keys

PROJECT_URL = "https://github.com/deployment-enricher/deployment-enricher"
_CONTACT = {
    "name": "The maintainers of deployment-enricher",
    "url": PROJECT_URL,
    "email": "deployment-enricher@users.noreply.github.com",
}
_OPENAPI_REF_TEMPLATE = "#/components/schemas/{name}"
_UNAVAILABLE = 503
_WEBHOOK_RESPONSES = {
    200: ("WebhookResult", "Duplicate, or not a finished deployment"),
    202: ("WebhookResult", "Queued; or parked for a person, since it could not be mapped"),
    400: ("Problem", "The body cannot be read"),
    401: ("Problem", "The request is not signed with a secret of this source"),
    404: ("Problem", "There is no source of this name"),
    408: ("Problem", "The body did not arrive in time"),
    413: ("Problem", "The body is larger than ENRICHER_MAX_BODY_BYTES"),
    422: ("Problem", "A field is missing; the answer names it"),
    503: ("Problem", "Redis is unavailable or the backlog is full; retry later"),
}
_UNREADABLE_REQUEST = {"4XX": {"description": "No HTTP, or too large headers"}}
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


_OPENAPI_TAGS = [
    {"name": "webhooks", "description": "What senders call"},
    {"name": "health", "description": "What probes and load balancers call"},
    {"name": "contracts", "description": "The documents that describe the receiver and the stream"},
]

_EVENTS_SCHEMA = {
    "type": "array",
    "description": "For a batch: the result of each event, in the order sent",
    "items": {
        "anyOf": [
            {"$ref": _OPENAPI_REF_TEMPLATE.format(name=name)}
            for name in ("WebhookResult", "Problem")
        ]
    },
}


def _require_fields(*names: str) -> dict[str, Any]:
    """Return a condition of a schema; linters demand that it names what it requires."""
    return {"properties": {name: {} for name in names}, "required": [*names]}


_KEY_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 256}
# LaunchDarkly's own body of deployment-events, and deploymentId. Unknown fields are allowed.
_NATIVE_EVENT_SCHEMA: dict[str, Any] = {
    "title": "NativeEvent",
    "description": "A finished deployment, as the source `native` reads it: the body that pipelines"
    " post to LaunchDarkly's deployment-events, plus an optional deploymentId",
    "type": "object",
    "properties": {
        "eventType": {
            "type": "string",
            "description": "`finished` and `failed` end a deployment; any other value is ignored",
            "examples": ["finished", "failed"],
        },
        "projectKey": _KEY_SCHEMA,
        "environmentKey": _KEY_SCHEMA,
        "applicationKey": _KEY_SCHEMA,
        "version": _KEY_SCHEMA,
        "eventTime": {
            "type": ["integer", "string"],
            "description": "When it ended: ms or s since 1970, or ISO 8601 with an offset",
        },
        "deploymentId": {
            "type": "string",
            "description": "LaunchDarkly's id of the deployment, if it is known",
            "pattern": "^[0-9A-Za-z][0-9A-Za-z_-]{0,127}$",
        },
        "eventMetadata": {"type": "object"},
        "deploymentMetadata": {"type": "object"},
    },
    "required": ["eventType"],
    # Generators of clients make no type of an object with anyOf, and leave out if and else.
    "if": _require_fields("deploymentId"),
    "else": _require_fields("projectKey", "environmentKey", "applicationKey", "version"),
    "additionalProperties": True,
}


class Health(Struct, omit_defaults=True):
    """Whether the process works; the reasons if not, and warnings."""

    status: str
    backlog: int | None = None
    reasons: list[str] | None = None
    warnings: list[str] | None = None


def build_openapi() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the receiver."""
    types = [_without_events_field(WebhookResult), _without_events_field(Problem), Health]
    _, schemas = msgspec.json.schema_components(types, ref_template=_OPENAPI_REF_TEMPLATE)
    for name in ("WebhookResult", "Problem"):
        schemas[name]["properties"]["events"] = _EVENTS_SCHEMA
    for schema in schemas.values():
        _omit_defaults(schema)
    schemas["NativeEvent"] = _NATIVE_EVENT_SCHEMA
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "deployment-enricher: the receiver",
            "version": __version__,
            "summary": "Accepts signed webhooks about finished deployments",
            "description": "The routes for senders of webhooks, for probes and for the contracts.",
            "contact": _CONTACT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The receiver that serves this document"}],
        "security": [],
        "tags": _OPENAPI_TAGS,
        "paths": {
            "/webhooks/{source}": _build_webhook_path(),
            "/healthz": {"get": _build_health_operation("alive", {200: "The process is alive"})},
            "/readyz": {
                "get": _build_health_operation(
                    "ready",
                    {
                        200: "The receiver accepts webhooks",
                        503: "The receiver cannot accept webhooks",
                    },
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


def _omit_defaults(schema: dict[str, Any]) -> None:
    """Delete the defaults: a response omits such a field, and generated types would demand it."""
    for field_schema in schema["properties"].values():
        field_schema.pop("default", None)


def _without_events_field(struct_type: type[Struct]) -> type[Struct]:
    """Return the type without its field ``events``: msgspec cannot describe an untagged union."""
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
            "tags": ["webhooks"],
            "summary": "Accept a webhook, in the form that its source sends",
            "description": "The receiver verifies the raw bytes as the source is configured: by "
            "Standard Webhooks, an HMAC, Ed25519, a token, or a bearer token.",
            "security": [{"bearer": []}, {}],
            "requestBody": {
                "description": "The native body, or that of another sender as its source says",
                "required": True,
                "content": {
                    JSON_CONTENT_TYPE: {
                        "schema": {"$ref": _OPENAPI_REF_TEMPLATE.format(name="NativeEvent")}
                    },
                    "*/*": {"schema": {}},
                },
            },
            "responses": {
                str(status): _build_response(
                    schema_name,
                    description,
                    headers=_RETRY_AFTER_HEADER if status == _UNAVAILABLE else {},
                )
                for status, (schema_name, description) in _WEBHOOK_RESPONSES.items()
            },
        },
        "options": {
            "operationId": "answerHandshake",
            "tags": ["webhooks"],
            "summary": "Answer the handshake of CloudEvents webhooks",
            "description": "A sender asks whether it may post here, before it does.",
            "responses": {
                "200": {"description": "Every origin may send"},
                "204": {"description": "No handshake; POST is allowed"},
                "404": _build_response("Problem", "There is no source of this name"),
            },
        },
    }


def _build_health_operation(name: str, descriptions: dict[int, str]) -> dict[str, Any]:
    return {
        "operationId": f"get{name.title()}",
        "tags": ["health"],
        "summary": f"Whether the receiver is {name}",
        "description": "It needs no authentication. The body names the reasons and warnings.",
        "responses": {
            str(status): _build_response("Health", description)
            for status, description in descriptions.items()
        }
        | _UNREADABLE_REQUEST,
    }


def _build_contract_operation(name: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": f"get{name.title()}",
        "tags": ["contracts"],
        "summary": description,
        "description": "Generated from the types of this version; it needs no authentication.",
        "responses": {"200": {"description": description, "content": content}}
        | _UNREADABLE_REQUEST,
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


JSON_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DIGIT_STRING = {"type": "string", "pattern": "^-?[0-9]+$"}


def build_record_schema() -> dict[str, Any]:
    """Return the JSON Schema of the data of an entry, as a complete document."""
    schemas = build_component_schemas("#/$defs/{name}")
    return {
        "$schema": JSON_SCHEMA_DIALECT,
        "$id": DATA_SCHEMA_ID,
        **schemas.pop(EnrichedDeployment.__name__),
        "$defs": schemas,
    }


def build_component_schemas(ref_template: str) -> dict[str, dict[str, Any]]:
    """Return the schemas of the record and of every type in it, by name.

    Every object allows unknown fields, and says so: LaunchDarkly's new fields are passed on, and
    new fields are added.
    """
    types = [EnrichedDeployment, models.Deployment]
    _, schemas = msgspec.json.schema_components(types, ref_template=ref_template)
    for name, schema in schemas.items():
        schema["description"] = " ".join(schema["description"].split())
        if hasattr(models, name):
            schema["properties"] = {
                field_name: _allow_digit_string(field_schema)
                for field_name, field_schema in schema["properties"].items()
            }
    record_schema = schemas[EnrichedDeployment.__name__]
    _add_deployment(record_schema, {"$ref": ref_template.format(name="Deployment")})
    record_schema["properties"]["revision"] = {"type": "integer", "minimum": 1}
    # Every record has both: the version is fixed, and the script that appends inserts the revision.
    record_schema["properties"]["schemaVersion"].pop("default", None)
    record_schema["required"] = ["schemaVersion", "revision", *record_schema["required"]]
    _allow_unknown_fields(schemas)
    return schemas


def _allow_unknown_fields(schemas: dict[str, dict[str, Any]]) -> None:
    for schema in schemas.values():
        schema["additionalProperties"] = True


def _add_deployment(record_schema: dict[str, Any], reference: dict[str, str]) -> None:
    """Describe ``deployment``: typed, unless ``completeness`` names fields of another type."""
    record_schema["properties"]["deployment"] = {
        "anyOf": [
            reference,
            {
                "title": "PartialDeployment",
                "description": "A deployment of which `completeness.unreadableFields` names the "
                "fields of another type",
                "type": "object",
                "properties": {"id": {"type": "string"}},
                "required": ["id"],
                "additionalProperties": True,
            },
        ]
    }
    named = {"type": "object", **_require_fields("unreadableFields"), "additionalProperties": True}
    record_schema["if"] = {"properties": {"completeness": named}}
    record_schema["else"] = {"properties": {"deployment": reference}}


def _allow_digit_string(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow the digits of a number in a string: LaunchDarkly's JSON is passed on as sent."""
    variants = schema.get("anyOf", [schema])
    if not any(variant.get("type") == "integer" for variant in variants):
        return schema
    default = {key: value for key, value in schema.items() if key == "default"}
    bare_variants = [
        {name: setting for name, setting in variant.items() if name != "default"}
        for variant in variants
    ]
    return {"anyOf": [*bare_variants, _DIGIT_STRING], **default}


_ASYNCAPI_SERVER = {
    "host": "{host}",
    "protocol": "redis",
    "description": "The Redis of the service, whose URL is ENRICHER_REDIS_URL",
    "variables": {
        "host": {"description": "Host and port of Redis", "default": "localhost:6379"},
    },
}
_ASYNCAPI_REF_TEMPLATE = "#/components/schemas/{name}"


def build_asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3.1 document of the stream."""
    _, attribute_schemas = msgspec.json.schema_components(
        [Attributes], ref_template=_ASYNCAPI_REF_TEMPLATE
    )
    _allow_unknown_fields(attribute_schemas)
    record_schemas = build_component_schemas(_ASYNCAPI_REF_TEMPLATE)
    for field_schema in record_schemas[EnrichedDeployment.__name__]["properties"].values():
        if "$ref" in field_schema:
            field_schema.pop("default", None)  # readers of AsyncAPI ignore it beside a reference
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "deployment-enricher: enriched deployments",
            "version": __version__,
            "description": "One entry for each revision of a deployment, on a Redis stream.",
            "contact": _CONTACT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": "deployments", "description": "Enriched deployments"}],
        },
        "servers": {"redis": _ASYNCAPI_SERVER},
        "defaultContentType": JSON_CONTENT_TYPE,
        "channels": {"enriched": _build_channel()},
        "operations": {
            "readEnriched": {
                "action": "send",
                "channel": {"$ref": "#/channels/enriched"},
                "summary": "Append records; consumers read them with XREADGROUP or XREAD",
                "description": "A consumer group gets each record at least once, in the order of "
                "the stream.",
                "security": [{"$ref": "#/components/securitySchemes/redisUser"}],
            }
        },
        "components": {
            "messages": {"enrichedDeployment": _build_message()},
            "schemas": {**attribute_schemas, **record_schemas},
            "securitySchemes": {
                "redisUser": {
                    "type": "userPassword",
                    "description": "A user of Redis, such as `reader` of deploy/redis/enricher.acl",
                }
            },
        },
    }


def _build_channel() -> dict[str, Any]:
    return {
        "address": "{stream}",
        "title": "The output stream",
        "description": "The key of a Redis stream; its name ends in :enriched.",
        "parameters": {
            "stream": {
                "description": "The key; the braces around the namespace are part of it",
                "default": Keys("deployments").enriched,
            }
        },
        "messages": {"enrichedDeployment": {"$ref": "#/components/messages/enrichedDeployment"}},
    }


def _build_message() -> dict[str, Any]:
    return {
        "name": RECORD_TYPE,
        "title": "One revision of one deployment",
        "summary": "The fields of an entry are the headers; its field `data` is the payload.",
        "contentType": JSON_CONTENT_TYPE,
        "headers": {"$ref": _ASYNCAPI_REF_TEMPLATE.format(name="Attributes")},
        "payload": {"$ref": _ASYNCAPI_REF_TEMPLATE.format(name="EnrichedDeployment")},
    }


CONTRACTS: Mapping[str, Callable[[], object]] = {
    DATA_SCHEMA_PATH.rpartition("/")[2]: build_record_schema,
    "asyncapi.json": build_asyncapi,
    "openapi.json": build_openapi,
}
"""The function that builds each contract, by the name of its file."""


def render_contract(name: str) -> str:
    """Return one contract as indented JSON."""
    return json.format(json.encode(CONTRACTS[name]()), indent=2).decode() + "\n"


def add_contract_routes(app: web.Application) -> None:
    """Serve each contract; it is generated on the first request and cached."""
    for name in CONTRACTS:
        path = DATA_SCHEMA_PATH if DATA_SCHEMA_PATH.endswith(name) else f"/{name}"
        app.router.add_get(path, _build_contract_handler(cache(partial(render_contract, name))))


def _build_contract_handler(
    render: Callable[[], str],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=render(), content_type="application/json")

    return handle
