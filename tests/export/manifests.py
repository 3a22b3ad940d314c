"""A check of Kubernetes manifests against the published schemas of their resources."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

__all__ = ["find_faults"]

_SCHEMAS = Path(__file__).parent / "kubernetes" / "schemas.json.gz"


def find_faults(manifest: Mapping[str, Any]) -> list[str]:
    """What an API server with strict validation would refuse in the manifest: path and fault of each."""
    schemas = json.loads(gzip.decompress(_SCHEMAS.read_bytes()))
    schema = schemas[f"{manifest['apiVersion']}/{manifest['kind']}"]
    errors = Draft202012Validator(schema).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]
