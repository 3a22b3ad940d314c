"""Settings of lineage."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

__all__ = ["LineageSettings"]


class LineageSettings(Struct, frozen=True):
    """Further receivers of lineage events.

    Attributes:
        state: the state folder.
        endpoints: setting `lineage`: addresses of OpenLineage endpoints that receive every event.
    """

    state: Path
    endpoints: tuple[str, ...] = field(default=(), name="lineage")
