"""JSON schemas of bodies and answers, as the protocols describe them in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from headrace.serving.protocols.counting import MAX_INSTANCES

__all__ = ["PARALLEL_ANSWER", "TEXT", "array_schema", "list_schema", "object_schema", "schema_of"]

TEXT: dict[str, Any] = {"type": "string"}


def object_schema(*, optional: Collection[str] = (), **members: dict[str, Any]) -> dict[str, Any]:
    """An object with these members and no others.

    Args:
        optional: the members that may be left out.
        members: the schema of each member.
    """
    required = [name for name in members if name not in optional]
    return {"type": "object", "properties": members, "additionalProperties": False, "required": required}


def list_schema(item: dict[str, Any]) -> dict[str, Any]:
    """A list of any length."""
    return {"type": "array", "items": item}


def array_schema(instance: dict[str, Any]) -> dict[str, Any]:
    """An array of instances."""
    return {**list_schema(instance), "minItems": 1, "maxItems": MAX_INSTANCES}


def schema_of(type_: Any) -> dict[str, Any]:
    """The schema of what msgspec decodes to the type, or encodes from it."""
    schema = msgspec.json.schema(type_)
    inlined: dict[str, Any] = _inline_types(schema, schema.get("$defs", {}))
    return inlined


def _inline_types(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with its named types in their places. They refer to no type that contains them."""
    if isinstance(schema, list):
        return [_inline_types(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline_types(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inline_types(value, definitions) for key, value in schema.items() if key != "$defs"}


PARALLEL_ANSWER = object_schema(
    predictions=list_schema({}),
    ids=list_schema(TEXT),
    versions=list_schema({"type": "integer"}),
    missing=list_schema(list_schema(TEXT)),
)
"""What port.encode_parallel encodes."""
