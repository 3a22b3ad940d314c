"""The port of reading: a catalog, and a table of it as it was at one moment."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from headrace.lake.metadata import TableMetadata

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

__all__ = ["CatalogReader", "StoredFile", "StoredTable"]


class StoredFile(Struct, frozen=True):
    """A data file of a snapshot.

    Attributes:
        path: its path or address.
        partition: the values of the partition's fields, in their order; an hour, day, month or date as their
            number since 1970, an instant in microseconds since 1970.
        rows: how many rows it has.
        sequence: the sequence number of the commit that added it.
        spec: the id of the partition spec by which it is partitioned.
    """

    path: str
    partition: tuple[Any, ...]
    rows: int
    sequence: int
    spec: int


class StoredTable(Protocol):
    """A table as its catalog named it at one moment. Later commits do not change it.

    Attributes:
        file: the path or address of its metadata file. Each commit writes a new one.
        metadata: what that file says.
    """

    file: str
    metadata: TableMetadata

    def schema(self) -> pa.Schema:
        """The current columns; instants are timestamp[us, UTC]."""
        ...

    def files(self, snapshot: int, *, unless_in: int | None = None) -> list[StoredFile]:
        """The data files of a snapshot of the table.

        Args:
            snapshot: the snapshot's id.
            unless_in: leaves out the files in manifests that this snapshot has too. So the answer has all files
                of the one that the other lacks, at the cost of the commits between them.

        Raises:
            FileNotFoundError: maintenance has removed files of the snapshot meanwhile.
        """
        ...

    def scan(self, snapshot: int, *, only: Collection[str] | None = None) -> pl.LazyFrame:
        """The rows of a snapshot of the table, with the columns that it had, not yet read.

        Args:
            snapshot: the snapshot's id.
            only: the paths of the files to read; None: all of them.

        Raises:
            FileNotFoundError: as `files`, unless the files are read later.
        """
        ...


class CatalogReader(Protocol):
    """The tables of one namespace in a catalog. Safe to use from several threads at once."""

    def list_tables(self) -> list[str]:
        """The names of the tables, sorted."""
        ...

    def find(self, name: str) -> StoredTable | None:
        """The table of this name as it is now; None if it does not exist."""
        ...
