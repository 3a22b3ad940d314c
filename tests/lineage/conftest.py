"""A lineage store, and the published schemas as one validator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from headrace.lineage import Store
from headrace.lineage.names import Names

SPEC = Path(__file__).parent / "spec"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "lineage.db", Names("shop"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def conforming() -> Callable[[dict[str, Any]], None]:
    """Fails unless the event satisfies OpenLineage's schema and every facet satisfies the schema that
    its own _schemaURL names."""
    documents = [json.loads(path.read_text()) for path in sorted(SPEC.glob("*.json"))]
    documents.append(json.loads(files("headrace.lineage").joinpath("facets.json").read_text()))
    registry: Registry[Any] = Registry().with_resources(
        [(d["$id"], Resource.from_contents(d)) for d in documents]
    )

    def validate(value: Any, url: str) -> None:
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": url}
        Draft202012Validator(schema, registry=registry, format_checker=FormatChecker()).validate(value)

    def facets(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if "_schemaURL" in value:
                yield value
            for inner in value.values():
                yield from facets(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from facets(inner)

    def check(event: dict[str, Any]) -> None:
        validate(event, event["schemaURL"])
        for facet in facets(event):
            validate(facet, facet["_schemaURL"])

    return check
