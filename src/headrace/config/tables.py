"""Settings of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

__all__ = ["TableSettings"]


class TableSettings(Struct, frozen=True):
    """Where the rows of tables are computed.

    Attributes:
        state: the state folder.
        compute: `local` (the process of the build), or `ray`: tasks of the Ray that the setting `ray` names,
            which also join training sets that do not fit into memory.
    """

    state: Path
    compute: Literal["local", "ray"] = "local"
