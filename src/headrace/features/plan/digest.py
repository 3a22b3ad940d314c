"""The digest that names a plan or a view by its content."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

__all__ = ["digest_of"]


def digest_of(value: Struct) -> str:
    """32 hex digits over the value's JSON."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:32]
