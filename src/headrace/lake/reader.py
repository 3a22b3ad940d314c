"""Reads one table of the lake at a snapshot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform

from headrace.kernel.errors import CallError
from headrace.kernel.position import Position
from headrace.lake import changes
from headrace.lake.errors import name_errors
from headrace.lake.history import snapshot_at
from headrace.lake.positions import find_position
from headrace.lake.schema import conflicts, iceberg_schema
from headrace.lake.snapshot import Snapshot, sequence_of, snapshot_of
from headrace.lake.tags import tags_of

__all__ = ["TableReader"]

# Without this, Polars warns at every scan that an optional package for planning scans is missing.
os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")


class TableReader:
    """Reads a table. Every call loads the table from the catalog; nothing is cached between calls.

    Attributes:
        name: its name within the project.
        where: the catalog's address, for errors.
        catalog: PyIceberg's catalog.
        folder: this machine's folder for local state of the lake.
    """

    def __init__(self, catalog: Catalog, iceberg: Table, where: str, folder: Path) -> None:
        self.catalog = catalog
        self.where = where
        self.folder = folder
        self._identifier = iceberg.name()
        self.name: str = self._identifier[-1]

    def iceberg(self) -> Table:
        """Loads PyIceberg's table from the catalog, for operations that this class lacks.

        Raises:
            CallError: the table does not exist any more.
        """
        with name_errors(self.where, self.name):
            return self.catalog.load_table(self._identifier)

    def schema(self) -> pa.Schema:
        """The current columns; instants are timestamp[us, UTC]."""
        return schema_to_pyarrow(self.iceberg().schema(), include_field_ids=False)

    def partition_by(self) -> tuple[tuple[str, str], ...]:
        """(column, `identity` or `day`) pairs, as `ensure` takes them."""
        table = self.iceberg()
        return tuple(
            (
                table.schema().find_field(field.source_id).name,
                "day" if isinstance(field.transform, DayTransform) else "identity",
            )
            for field in table.spec().fields
        )

    def current_snapshot(self) -> Snapshot | None:
        """The newest snapshot; None if nothing was ever written."""
        current = self.iceberg().current_snapshot()
        return None if current is None else snapshot_of(current)

    def snapshot(self, ref: int | str | datetime) -> Snapshot:
        """The snapshot with this id or tag, or the one that was current at this moment (an aware datetime).

        Raises:
            CallError: the table has no such snapshot (it may have expired), no such tag, or no rows yet at that
                moment.
        """
        table = self.iceberg()
        if isinstance(ref, datetime):
            return snapshot_of(snapshot_at(table, ref))
        snapshot = table.snapshot_by_id(ref) if isinstance(ref, int) else table.snapshot_by_name(ref)
        if snapshot is None:
            raise CallError(
                f"{'snapshot' if isinstance(ref, int) else 'tag'} {ref!r} does not exist",
                where=f"table {self.name}",
                remedy="Snapshots expire unless they are tagged. The table's tags are: "
                + (", ".join(sorted(tags_of(table))) or "none"),
            )
        return snapshot_of(snapshot)

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that have not expired, oldest first."""
        return [snapshot_of(snapshot) for snapshot in sorted(self.iceberg().snapshots(), key=sequence_of)]

    def type_conflicts(self, schema: pa.Schema) -> dict[str, tuple[str, str]]:
        """Column → its type here and in `schema`, where the first can neither hold nor become the second."""
        return conflicts(self.iceberg().schema(), iceberg_schema(schema, self.name))

    def tags(self) -> dict[str, int]:
        """Tag → snapshot id."""
        return tags_of(self.iceberg())

    def scan(self, snapshot: int | None = None) -> pl.LazyFrame:
        """The rows of a snapshot (default: the newest at this call), not yet read.

        Filters and column choices reach the files: whole files are skipped by their statistics.
        The columns are the snapshot's; instants are Datetime("us", "UTC").

        Raises:
            CallError: the table has no such snapshot.
        """
        table = self.iceberg()
        if snapshot is None:
            current = table.current_snapshot()
            if current is None:
                empty = schema_to_pyarrow(table.schema(), include_field_ids=False).empty_table()
                return pl.DataFrame(pl.from_arrow(empty)).lazy()
            snapshot = current.snapshot_id
        elif table.snapshot_by_id(snapshot) is None:
            self.snapshot(snapshot)  # raises CallError
        return pl.scan_iceberg(table, snapshot_id=snapshot, reader_override="native")

    def days_changed(
        self, column: str, since: int | None, until: int, where: Mapping[str, object] | None = None
    ) -> set[date] | None:
        """The UTC days of `column` to which rows were added, or from which rows were removed.

        Maintenance does not count as a change. Rows without a value in `column` belong to no day.

        Args:
            column: the table must be partitioned by its day.
            since: the snapshot last seen.
            until: the snapshot to compare it with.
            where: values of identity partition columns; other partitions are not compared.

        Returns:
            None if every day must count as changed: `since` is None, has expired, or is not an ancestor of
            `until`.

        Raises:
            CallError: the table is not partitioned by that day, or `until` does not exist.
        """
        self.snapshot(until)
        return changes.days_changed(self.iceberg(), column, since, until, where or {})

    def rows_per_day(
        self, column: str, snapshot: int, where: Mapping[str, object] | None = None
    ) -> dict[date, int]:
        """UTC day of `column` → the number of a snapshot's rows on it, in order of days; from metadata alone.

        Args:
            column: the table must be partitioned by its day.
            snapshot: the snapshot's id.
            where: values of identity partition columns; other partitions are not counted.

        Raises:
            CallError: the table is not partitioned by that day, or the snapshot does not exist.
        """
        self.snapshot(snapshot)
        return changes.rows_per_day(self.iceberg(), column, snapshot, where or {})

    def property(self, name: str) -> str | None:
        """A property of the table, or None."""
        return self.iceberg().properties.get(name)

    def position(self, name: str) -> Position | None:
        """The position that `append` stored under this name, or None."""
        return find_position(self.iceberg(), name)
