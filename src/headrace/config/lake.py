"""Settings of the lake."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from headrace.kernel.addresses import sqlite_address

__all__ = ["LakeSettings"]


class LakeSettings(Struct, frozen=True):
    """Where tables are stored.

    Attributes:
        state: the state folder.
        catalog: the Iceberg catalog: `sqlite` (a file in the state folder) or the address of a REST catalog.
        warehouse: where the tables' files are stored: `file` (the state folder) or `s3://bucket/path`.
    """

    state: Path
    catalog: str = "sqlite"
    warehouse: str = "file"

    @property
    def catalog_url(self) -> str:
        """The full address of the catalog: `sqlite:///file` or a REST catalog's."""
        return sqlite_address(self.state / "lake" / "catalog.db") if self.catalog == "sqlite" else self.catalog

    @property
    def warehouse_url(self) -> str:
        """The full address of the tables' files. For a local folder it is the path, not a `file://` URL, in
        which PyIceberg would end the path at `#` or `?`."""
        return str(self.state / "lake" / "warehouse") if self.warehouse == "file" else self.warehouse
