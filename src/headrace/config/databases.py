"""Settings of the databases that queries read."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

__all__ = ["DatabaseSettings"]


class DatabaseSettings(Struct, frozen=True):
    """Where the databases are.

    Attributes:
        state: the state folder.
        addresses: setting `databases`: name → address, without a password: `postgresql://host:port/database`,
            `sqlite:///path/to/file.db`, or `NAME+ADDRESS` for the ADBC driver `adbc_driver_NAME`. A path that
            does not begin with / is relative to the project.
    """

    state: Path
    addresses: dict[str, str] = field(default_factory=dict, name="databases")
