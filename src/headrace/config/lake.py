"""Settings of the lake."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from headrace.kernel.addresses import sqlite_address

__all__ = ["LakeSettings"]


class LakeSettings(Struct, frozen=True):
    """Where tables live.

    Attributes:
        state: the state folder.
        catalog: the Iceberg catalog: `sqlite` (a file in the state folder) or the address of a REST catalog.
        warehouse: where tables' files lie: `file` (the state folder) or `s3://bucket/path`.
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
        """The full address of the tables' files. A local folder's is its path, not a `file://` URL: in such
        a URL PyIceberg ends the path at `#` and `?`."""
        return str(self.state / "lake" / "warehouse") if self.warehouse == "file" else self.warehouse
