"""Converts CustomResourceDefinitions to closed JSON schemas: python convert.py FILE.yaml ... > schemas.json.gz

Closed means that a field that the resource does not have is an error, as it is for an API server with strict
validation. SOURCE.md says where the files come from.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": _NAME, "maxLength": 253},
        "namespace": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
    "additionalProperties": False,
}
_KEPT = (
    "type", "required", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "minProperties", "maxProperties",
)  # fmt: skip


def convert(paths: list[Path]) -> dict[str, Any]:
    """`apiVersion/kind` → the JSON schema of the resource, for each version that is served."""
    schemas = {}
    for path in paths:
        spec = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            if not version["served"]:
                continue
            schema = _close(version["schema"]["openAPIV3Schema"])
            name, kind = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            schema["properties"] |= {
                "apiVersion": {"const": name},
                "kind": {"const": kind},
                "metadata": _METADATA,
            }
            schema["required"] = sorted({"apiVersion", "kind", "metadata", "spec"})
            schemas[f"{name}/{kind}"] = schema
    return schemas


def _close(node: dict[str, Any]) -> dict[str, Any]:
    closed: dict[str, Any] = {name: node[name] for name in _KEPT if name in node}
    if node.get("x-kubernetes-int-or-string"):
        closed = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
        if "pattern" in node:
            closed["anyOf"][1]["pattern"] = node["pattern"]
    if node.get("nullable") and "type" in closed:
        closed["type"] = [closed["type"], "null"]
    if node.get("x-kubernetes-list-type") == "set":
        closed["uniqueItems"] = True
    if "items" in node:
        closed["items"] = _close(node["items"])
    if "properties" in node:
        closed["properties"] = {name: _close(child) for name, child in node["properties"].items()}
        is_open = node.get("x-kubernetes-preserve-unknown-fields") or node.get("x-kubernetes-embedded-resource")
        if not is_open:
            closed["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), dict):
        closed["additionalProperties"] = _close(node["additionalProperties"])
    return closed


if __name__ == "__main__":
    text = json.dumps(convert([Path(name) for name in sys.argv[1:]]), sort_keys=True, separators=(",", ":"))
    sys.stdout.buffer.write(gzip.compress(text.encode(), mtime=0))
