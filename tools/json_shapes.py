"""Words in which the shapes of JSON are written: each is a JSON Schema."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def obj(**keys: Schema) -> Schema:
    """An object with these keys, all of them there, and no others."""
    return {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}


def with_optional(schema: Schema, **keys: Schema) -> Schema:
    return {**schema, "properties": {**schema["properties"], **keys}}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def const(*values: Any) -> Schema:
    return {"enum": list(values)}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PID: Schema = {"type": "integer", "minimum": 1}
BYTES: Schema = {**COUNT, "description": "Bytes."}
SECONDS: Schema = {"type": "number", "description": "Seconds."}
TIME: Schema = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$",
    "description": "UTC.",
}
ANY: Schema = {}
FREE: Schema = {"type": "object"}
