"""Reads one table of the lake at a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from headrace.kernel.errors import CallError
from headrace.kernel.position import Position
from headrace.lake import changes
from headrace.lake.file_errors import missing_table, name_file_errors
from headrace.lake.history import snapshot_at
from headrace.lake.metadata import StoredSnapshot, TableMetadata
from headrace.lake.positions import find_position
from headrace.lake.snapshot import Snapshot, snapshot_of
from headrace.lake.tag_names import tags_of

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

    from headrace.lake.changes import PartitionColumn
    from headrace.lake.lake import Lake
    from headrace.lake.reading.port import StoredFile, StoredTable

__all__ = ["TableReader"]

_Answer = TypeVar("_Answer")


class TableReader:
    """Reads a table. Every call loads the table from the catalog; nothing is cached between calls.

    Attributes:
        name: its name within the project.
        where: the catalog's address, for errors.
        folder: this machine's folder for local state of the lake.
    """

    def __init__(self, lake: Lake, name: str) -> None:
        self._lake = lake
        self.name = name
        self.where = lake.where
        self.folder: Path = lake.folder

    @property
    def catalog(self) -> Catalog:
        """PyIceberg's catalog."""
        return self._lake.catalog

    def iceberg(self) -> Table:
        """Loads PyIceberg's table from the catalog, for operations that this class lacks.

        Raises:
            CallError: the table does not exist any more.
        """
        from headrace.lake.errors import name_errors

        with name_errors(self.where, self.name):
            return self.catalog.load_table((self._lake.namespace, self.name))

    def schema(self) -> pa.Schema:
        """The current columns; instants are timestamp[us, UTC]."""
        return self._read(lambda table: table.schema())

    def columns(self, snapshot: int | None = None) -> dict[str, str] | None:
        """Column → its type in Iceberg's words, of a snapshot (default: the newest), in its order.

        Returns:
            None if the table has no such snapshot, or the snapshot does not say which columns it has.
        """
        metadata = self._metadata()
        number = metadata.current_snapshot_id if snapshot is None else snapshot
        stored = metadata.snapshot(number)
        schema = None if stored is None else metadata.find_schema(stored.schema_id)
        return None if schema is None else {field.name: str(field.type) for field in schema.fields}

    def uuid(self) -> str:
        """The id that the table keeps for as long as it exists. Another table of this name has another id."""
        return self._metadata().table_uuid

    def partition_by(self) -> tuple[tuple[str, str], ...]:
        """(column, transform) pairs, as `ensure` takes them."""
        return self._metadata().partition_by()

    def current_snapshot(self) -> Snapshot | None:
        """The newest snapshot; None if nothing was ever written."""
        current = self._metadata().current_snapshot()
        return None if current is None else snapshot_of(current)

    def snapshot(self, ref: int | str | datetime) -> Snapshot:
        """The snapshot with this id or tag, or the one that was current at this moment (an aware datetime).

        Raises:
            CallError: the table has no such snapshot (it may have expired), no such tag, or no rows yet at that
                moment.
        """
        return snapshot_of(self._find_snapshot(self._metadata(), ref))

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that have not expired, oldest first."""
        return [snapshot_of(snapshot) for snapshot in self._metadata().ordered_snapshots()]

    def type_conflicts(self, schema: pa.Schema) -> dict[str, tuple[str, str]]:
        """Column → its type here and in `schema`, where the first can neither hold nor become the second."""
        from headrace.lake.schema import conflicts, iceberg_schema

        return conflicts(self.iceberg().schema(), iceberg_schema(schema, self.name))

    def tags(self) -> dict[str, int]:
        """Tag → snapshot id."""
        return tags_of(self._metadata())

    def files(self, snapshot: int) -> list[StoredFile]:
        """The data files of a snapshot. Raises as `scan`."""
        return self._read(lambda table: table.files(self._find_snapshot(table.metadata, snapshot).snapshot_id))

    def scan(self, snapshot: int | None = None, *, only: Collection[str] | None = None) -> pl.LazyFrame:
        """The rows of a snapshot (default: the newest at this call), not yet read.

        Filters and column choices reach the files: whole files are skipped by their statistics.
        The columns are the snapshot's; instants are Datetime("us", "UTC").

        Args:
            snapshot: the snapshot's id.
            only: the paths of the files to read; None: all of them.

        Raises:
            CallError: the table has no such snapshot.
            Unavailable: the files that list the snapshot's files cannot be read.
        """
        import polars as pl

        def scan_table(table: StoredTable) -> pl.LazyFrame:
            current = table.metadata.current_snapshot()
            if snapshot is None and current is None:
                return pl.LazyFrame(schema=pl.Schema(table.schema()))
            version = current if snapshot is None else self._find_snapshot(table.metadata, snapshot)
            assert version is not None
            return table.scan(version.snapshot_id, only=only)

        return self._read(scan_table)

    def partitions_changed(
        self, by: PartitionColumn, since: int | None, until: int, where: Mapping[str, object] | None = None
    ) -> set[int] | None:
        """The partitions to which rows were added, or from which rows were removed, by their numbers.

        Maintenance does not count as a change. Rows without a value in the column belong to no partition.

        Args:
            by: the column and Iceberg's transform of it, by which the table must be partitioned.
            since: the snapshot last seen.
            until: the snapshot to compare it with.
            where: values of identity partition columns; other partitions are not compared.

        Returns:
            None if every partition must count as changed: `since` is None, has expired, is partitioned
            otherwise, or is not an ancestor of `until`.

        Raises:
            CallError: the table is not partitioned so, or `until` does not exist.
        """

        def compare(table: StoredTable) -> set[int] | None:
            self._find_snapshot(table.metadata, until)
            return changes.partitions_changed(table, self.name, by, since, until, where or {})

        return self._read(compare)

    def scan_changes(
        self, since: int | None, until: int, *, limit: int
    ) -> tuple[pl.LazyFrame, pl.LazyFrame] | None:
        """The rows of the files that `until` no longer has, and of those that it has more; not yet read.

        A row that both frames have did not change. Each frame has the columns of its snapshot.

        Args:
            since, until: as for `partitions_changed`.
            limit: how many rows the files may have.

        Returns:
            None as `partitions_changed`, or if the files have more rows.

        Raises:
            CallError: `until` does not exist.
        """

        def scan_files(table: StoredTable) -> tuple[pl.LazyFrame, pl.LazyFrame] | None:
            self._find_snapshot(table.metadata, until)
            changed = changes.files_changed(table, since, until)
            if (
                changed is None
                or since is None
                or sum(file.rows for files in changed for file in files) > limit
            ):
                return None
            removed, added = ([file.path for file in files] for files in changed)
            return table.scan(since, only=removed), table.scan(until, only=added)

        return self._read(scan_files)

    def rows_per_partition(
        self, by: PartitionColumn, snapshot: int, where: Mapping[str, object] | None = None
    ) -> dict[int, int]:
        """Partition → the number of a snapshot's rows in it, in order; from metadata alone.

        Args:
            by: as for `partitions_changed`.
            snapshot: the snapshot's id.
            where: values of identity partition columns; other partitions are not counted.

        Raises:
            CallError: the table is not partitioned so, or the snapshot does not exist.
        """

        def count(table: StoredTable) -> dict[int, int]:
            self._find_snapshot(table.metadata, snapshot)
            return changes.rows_per_partition(table, self.name, by, snapshot, where or {})

        return self._read(count)

    def property(self, name: str) -> str | None:
        """A property of the table, or None."""
        return self._metadata().properties.get(name)

    def position(self, name: str) -> Position | None:
        """The position that `append` stored under this name, or None."""
        return find_position(self._metadata().properties, name)

    def _metadata(self) -> TableMetadata:
        return self._read(lambda table: table.metadata)

    def _read(self, use: Callable[[StoredTable], _Answer]) -> _Answer:
        """Calls `use` with the table as it is now; again if maintenance removed a file meanwhile.

        Raises:
            CallError: the table does not exist.
            Unavailable: the catalog or a file cannot be read.
        """
        with name_file_errors(self.where, self.name):
            table = self._load()
            while True:
                try:
                    return use(table)
                except FileNotFoundError:
                    newer = self._load()
                    if newer.file == table.file:
                        raise
                    table = newer

    def _load(self) -> StoredTable:
        table = self._lake.reader.find(self.name)
        if table is None:
            raise missing_table(self.name, self.where)
        return table

    def _find_snapshot(self, metadata: TableMetadata, ref: int | str | datetime) -> StoredSnapshot:
        """The snapshot in the metadata. Raises CallError as `snapshot`."""
        if isinstance(ref, datetime):
            return snapshot_at(metadata, ref, self.name)
        if isinstance(ref, int):
            snapshot = metadata.snapshot(ref)
        else:
            snapshot = metadata.snapshot(metadata.refs[ref].snapshot_id) if ref in metadata.refs else None
        if snapshot is None:
            raise CallError(
                f"{'snapshot' if isinstance(ref, int) else 'tag'} {ref!r} does not exist",
                where=f"table {self.name}",
                remedy="Snapshots expire unless they are tagged. The table's tags are: "
                + (", ".join(sorted(tags_of(metadata))) or "none")
                + f". headrace table-versions {self.name} lists its snapshots.",
            )
        return snapshot
