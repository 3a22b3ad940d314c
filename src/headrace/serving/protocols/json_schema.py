"""JSON schemas of bodies, as the protocols describe them in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from headrace.serving.protocols.counting import MAX_INSTANCES

__all__ = ["array_schema", "object_schema"]


def object_schema(*, required: bool = True, **members: dict[str, Any]) -> dict[str, Any]:
    """An object with these members and no others.

    Args:
        required: whether every member must be there.
    """
    schema = {"type": "object", "properties": members, "additionalProperties": False}
    return {**schema, "required": list(members)} if required else schema


def array_schema(instance: dict[str, Any]) -> dict[str, Any]:
    """An array of instances."""
    return {"type": "array", "items": instance, "minItems": 1, "maxItems": MAX_INSTANCES}
