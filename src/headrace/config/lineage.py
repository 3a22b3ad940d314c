"""Settings of lineage."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

__all__ = ["LineageSettings"]


class LineageSettings(Struct, frozen=True):
    """Who else gets lineage events.

    Attributes:
        state: the state folder.
        endpoints: setting `lineage`: addresses of OpenLineage endpoints that get every event as well.
    """

    state: Path
    endpoints: tuple[str, ...] = field(default=(), name="lineage")
