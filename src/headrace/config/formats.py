"""Settings of event formats."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

__all__ = ["FormatSettings"]


class FormatSettings(Struct, frozen=True):
    """Services that event formats need.

    Attributes:
        state: the state folder.
        schema_registry: the address of a schema registry, for contracts whose format needs one; none by
            default.
    """

    state: Path
    schema_registry: str = ""
