"""Settings of features."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

__all__ = ["FeatureSettings"]


class FeatureSettings(Struct, frozen=True):
    """Where Feast keeps its objects.

    Attributes:
        state: the state folder.
        feast_registry: `file` (in the state folder), or `postgresql://host:port/database`, without a password.
    """

    state: Path
    feast_registry: str = "file"
