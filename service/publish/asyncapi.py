"""How is the stream described to machines? An AsyncAPI document, from the types of a record."""

from typing import Any

import msgspec

from service import __version__
from service.publish.record import JSON_CONTENT_TYPE, RECORD_TYPE, Attributes
from service.publish.schema import build_component_schemas
from service.store.keys import Keys

_ASYNCAPI_REF_TEMPLATE = "#/components/schemas/{name}"


def build_asyncapi() -> dict[str, Any]:
    """Give the AsyncAPI 3.0 document of the stream."""
    _, attribute_schemas = msgspec.json.schema_components(
        [Attributes], ref_template=_ASYNCAPI_REF_TEMPLATE
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "deployment-enricher: enriched deployments",
            "version": __version__,
            "description": "One entry for each revision of a deployment, on a Redis stream.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": JSON_CONTENT_TYPE,
        "channels": {"enriched": _build_channel()},
        "operations": {
            "readEnriched": {
                "action": "send",
                "channel": {"$ref": "#/channels/enriched"},
                "summary": "Records are appended for others to read, by XREADGROUP or XREAD",
            }
        },
        "components": {
            "messages": {"enrichedDeployment": _build_message()},
            "schemas": {**attribute_schemas, **build_component_schemas(_ASYNCAPI_REF_TEMPLATE)},
        },
    }


def _build_channel() -> dict[str, Any]:
    return {
        "address": "{stream}",
        "title": "The output stream",
        "description": "The key of a Redis stream; its name ends in :enriched.",
        "parameters": {
            "stream": {
                "description": "The namespace in braces, which are part of the key",
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
