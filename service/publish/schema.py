"""What may a reader in any language rely on? The JSON Schema of a record, from its own types."""

from typing import Any

import msgspec

from service.enrich import deployment as upstream
from service.publish.record import EnrichedDeployment

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = "urn:deployment-enricher:enriched-deployment.v1"
_DIGITS = {"type": "string", "pattern": "^-?[0-9]+$"}


def describe_record() -> dict[str, Any]:
    """Give the JSON Schema of the data of an entry, as a document of its own."""
    schemas = list_schemas("#/$defs/{name}")
    return {
        "$schema": DIALECT,
        "$id": SCHEMA_ID,
        **schemas.pop(EnrichedDeployment.__name__),
        "$defs": schemas,
    }


def list_schemas(template: str) -> dict[str, dict[str, Any]]:
    """Give the schemas of the record and of all it is made of, by name.

    They allow what they do not name: LaunchDarkly's new fields are passed on, and ours only grow.
    """
    types = [EnrichedDeployment, upstream.Deployment]
    _, schemas = msgspec.json.schema_components(types, ref_template=template)
    for name, schema in schemas.items():
        schema["description"] = " ".join(schema["description"].split())
        if hasattr(upstream, name):
            schema["properties"] = {
                field: _admit_digits(told) for field, told in schema["properties"].items()
            }
    record = schemas[EnrichedDeployment.__name__]
    record["properties"]["deployment"] = {"$ref": template.format(name="Deployment")}
    record["properties"]["revision"] = {"type": "integer", "minimum": 1}
    # Their defaults are never sent: the one is what it is, the other is written in on appending.
    record["properties"]["schemaVersion"].pop("default", None)
    record["required"] = ["schemaVersion", "revision", *record["required"]]
    return schemas


def _admit_digits(schema: dict[str, Any]) -> dict[str, Any]:
    """Let a number be its digits in a string: LaunchDarkly's JSON is passed on as it came."""
    kinds = schema.get("anyOf", [schema])
    if not any(kind.get("type") == "integer" for kind in kinds):
        return schema
    rest = {key: value for key, value in schema.items() if key == "default"}
    bare = [{k: v for k, v in kind.items() if k != "default"} for kind in kinds]
    return {"anyOf": [*bare, _DIGITS], **rest}
