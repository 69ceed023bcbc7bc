"""What may a reader in any language rely on? The JSON Schema of a record, from its own types."""

from typing import Any

import msgspec

from service.enrich import deployment as upstream
from service.publish.record import EnrichedDeployment

JSON_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
RECORD_SCHEMA_ID = "urn:deployment-enricher:enriched-deployment.v1"
_DIGIT_STRING = {"type": "string", "pattern": "^-?[0-9]+$"}


def build_record_schema() -> dict[str, Any]:
    """Give the JSON Schema of the data of an entry, as a document of its own."""
    schemas = build_component_schemas("#/$defs/{name}")
    return {
        "$schema": JSON_SCHEMA_DIALECT,
        "$id": RECORD_SCHEMA_ID,
        **schemas.pop(EnrichedDeployment.__name__),
        "$defs": schemas,
    }


def build_component_schemas(ref_template: str) -> dict[str, dict[str, Any]]:
    """Give the schemas of the record and of all it is made of, by name.

    They allow what they do not name: LaunchDarkly's new fields are passed on, and ours only grow.
    """
    types = [EnrichedDeployment, upstream.Deployment]
    _, schemas = msgspec.json.schema_components(types, ref_template=ref_template)
    for name, schema in schemas.items():
        schema["description"] = " ".join(schema["description"].split())
        if hasattr(upstream, name):
            schema["properties"] = {
                field_name: _allow_digit_string(field_schema)
                for field_name, field_schema in schema["properties"].items()
            }
    record_schema = schemas[EnrichedDeployment.__name__]
    record_schema["properties"]["deployment"] = {"$ref": ref_template.format(name="Deployment")}
    record_schema["properties"]["revision"] = {"type": "integer", "minimum": 1}
    # Their defaults are never sent: the one is what it is, the other is written in on appending.
    record_schema["properties"]["schemaVersion"].pop("default", None)
    record_schema["required"] = ["schemaVersion", "revision", *record_schema["required"]]
    return schemas


def _allow_digit_string(schema: dict[str, Any]) -> dict[str, Any]:
    """Let a number be its digits in a string: LaunchDarkly's JSON is passed on as it came."""
    variants = schema.get("anyOf", [schema])
    if not any(variant.get("type") == "integer" for variant in variants):
        return schema
    default = {key: value for key, value in schema.items() if key == "default"}
    bare_variants = [
        {name: setting for name, setting in variant.items() if name != "default"}
        for variant in variants
    ]
    return {"anyOf": [*bare_variants, _DIGIT_STRING], **default}
