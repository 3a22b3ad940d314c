"""The digest that names a plan or a view by its content."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from headrace.kernel.digest import short_digest

__all__ = ["digest_of"]


def digest_of(value: Struct) -> str:
    """32 hex digits over the value's JSON."""
    return short_digest(msgspec.json.encode(value, order="sorted"))
