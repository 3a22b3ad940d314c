"""The digest that names a plan or a view by its content."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from headrace.kernel.digest import short_digest

__all__ = ["digest_of"]


def digest_of(value: Struct | tuple[int, Struct]) -> str:
    """The digest of the value's JSON, 32 hex digits."""
    return short_digest(msgspec.json.encode(value, order="sorted"))
