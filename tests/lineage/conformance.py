"""A check of events against OpenLineage's published schemas and the schemas of Headrace's facets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

__all__ = ["make_event_check"]

_SPEC = Path(__file__).parent / "spec"


def make_event_check() -> Callable[[dict[str, Any]], None]:
    """A function that raises unless an event satisfies OpenLineage's schema, and each of its facets the schema
    that the _schemaURL of the facet names."""
    documents = [json.loads(path.read_text()) for path in sorted(_SPEC.glob("*.json"))]
    documents.append(json.loads(files("headrace.lineage").joinpath("facets.json").read_text()))
    registry: Registry[Any] = Registry().with_resources(
        [(document["$id"], Resource.from_contents(document)) for document in documents]
    )

    def validate(value: Any, url: str) -> None:
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": url}
        Draft202012Validator(schema, registry=registry, format_checker=FormatChecker()).validate(value)

    def check(event: dict[str, Any]) -> None:
        validate(event, event["schemaURL"])
        for facet in _facets(event):
            validate(facet, facet["_schemaURL"])

    return check


def _facets(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "_schemaURL" in value:
            yield value
        for inner in value.values():
            yield from _facets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _facets(inner)
