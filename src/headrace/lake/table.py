"""One table of the lake: reading it at a snapshot, and committing to it with a position."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.transforms import DayTransform

from headrace.kernel.errors import CallError, Conflict, Unavailable
from headrace.kernel.position import LogPosition, Position, decode_position, encode_position
from headrace.kernel.properties import POSITION
from headrace.kernel.time import now_micros
from headrace.lake import changes, expiry
from headrace.lake.commit import BRIEF, LONG, Change, commit, discard
from headrace.lake.failures import failures
from headrace.lake.files import APPENDED, conform, write_files
from headrace.lake.pins import pins_of, set_pin, take_pin
from headrace.lake.refs import update_refs
from headrace.lake.rollback import roll_back
from headrace.lake.snapshot import Snapshot, snapshot_of

__all__ = ["LakeTable"]

Said = Mapping[str, str] | Callable[[Mapping[str, str]], Mapping[str, str]]
"""Names and values; or what makes them of the table's properties as the commit finds them."""

Expected = Mapping[str, str | None]
"""Properties and the values that they should have; None: not be there."""

_EPOCH = date(1970, 1, 1)
_TRIES = 50

# Polars plans scans by an extra package where that is there; without it, it warns at every scan.
os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")


class LakeTable:
    """A table. Every read asks the catalog anew; nothing is held between calls.

    Attributes:
        name: its name within the project.
        where: the catalog's address, for errors.
        catalog: PyIceberg's catalog.
        folder: where this machine keeps what it knows of the lake.
    """

    def __init__(self, catalog: Any, iceberg: Any, where: str, folder: Path) -> None:
        self.catalog = catalog
        self._identifier = iceberg.name()
        self.where = where
        self.folder = folder
        self.name: str = self._identifier[-1]

    def iceberg(self) -> Any:
        """PyIceberg's own object for this table, fresh from the catalog: the way out to plain code.

        Raises:
            CallError: the table is gone.
        """
        with failures(self.where, self.name):
            return self.catalog.load_table(self._identifier)

    def schema(self) -> pa.Schema:
        """The columns as they now are; instants are timestamp[us, UTC]."""
        schema: pa.Schema = schema_to_pyarrow(self.iceberg().schema(), include_field_ids=False)
        return schema

    def partition_by(self) -> tuple[tuple[str, str], ...]:
        """(column, `identity` or `day`) pairs, as `ensure` takes them."""
        table = self.iceberg()
        return tuple(
            (
                table.schema().find_column_name(f.source_id),
                "day" if isinstance(f.transform, DayTransform) else "identity",
            )
            for f in table.spec().fields
        )

    def current_snapshot(self) -> Snapshot | None:
        """The newest snapshot, or None where nothing was ever written."""
        current = self.iceberg().current_snapshot()
        return None if current is None else snapshot_of(current)

    def snapshot(self, ref: int | str) -> Snapshot:
        """The snapshot of this id, or under the pin of this name.

        Raises:
            CallError: there is none (it may have expired).
        """
        table = self.iceberg()
        found = table.snapshot_by_id(ref) if isinstance(ref, int) else table.snapshot_by_name(ref)
        if found is None:
            raise CallError(
                f"there is no snapshot {ref!r}" if isinstance(ref, int) else f"there is no pin {ref!r}",
                where=f"table {self.name}",
                remedy="Snapshots expire unless they are pinned. Pins here: "
                + (", ".join(sorted(pins_of(table))) or "none"),
            )
        return snapshot_of(found)

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that are kept, oldest first."""
        return [snapshot_of(s) for s in sorted(self.iceberg().snapshots(), key=lambda s: s.sequence_number)]

    def scan(self, snapshot: int | None = None) -> pl.LazyFrame:
        """The rows of a snapshot (default: the newest as of this call), not yet read.

        Filters and column choices reach the files: whole files are skipped by their statistics.
        The columns are the snapshot's; instants are Datetime("us", "UTC").

        Raises:
            CallError: the snapshot is not there.
        """
        table = self.iceberg()
        if snapshot is None:
            current = table.current_snapshot()
            if current is None:
                empty = schema_to_pyarrow(table.schema(), include_field_ids=False).empty_table()
                return pl.LazyFrame(pl.from_arrow(empty))
            snapshot = current.snapshot_id
        elif table.snapshot_by_id(snapshot) is None:
            self.snapshot(snapshot)
        return pl.scan_iceberg(table, snapshot_id=snapshot, reader_override="native")

    def days_changed(
        self, column: str, since: int | None, until: int, where: Mapping[str, object] | None = None
    ) -> set[date] | None:
        """The UTC days of `column` to which rows were added, or from which they were taken.

        Upkeep's rewrites do not count. Rows without a value in `column` belong to no day.

        Args:
            column: the table must be partitioned by its day.
            since: the snapshot last seen.
            until: the snapshot to compare it with.
            where: values of identity partition columns; others are not looked at.

        Returns:
            None where everything must be taken as changed: `since` is None, has expired, or is no
            ancestor of `until`.

        Raises:
            CallError: no partition by that day, or `until` is not there.
        """
        self.snapshot(until)
        return changes.days_changed(self.iceberg(), column, since, until, where or {})

    def rows_per_day(
        self, column: str, snapshot: int, where: Mapping[str, object] | None = None
    ) -> dict[date, int]:
        """The UTC days of `column` that a snapshot has rows for → how many, in order; from metadata alone.

        Args:
            column: the table must be partitioned by its day.
            snapshot: which.
            where: values of identity partition columns; others are not counted.

        Raises:
            CallError: no partition by that day, or no such snapshot.
        """
        self.snapshot(snapshot)
        return changes.rows_per_day(self.iceberg(), column, snapshot, where or {})

    def property(self, name: str) -> str | None:
        """A property of the table."""
        value = self.iceberg().properties.get(name)
        return None if value is None else str(value)

    def position(self, name: str) -> Position | None:
        """The position stored under this name by `append`."""
        return _stored_position(self.iceberg(), name)

    def append(
        self,
        rows: pa.Table,
        *,
        position: tuple[str, Position | None, Position] | None = None,
        facts: Said | None = None,
        properties: Said | None = None,
    ) -> Snapshot:
        """Adds the rows and moves a position, in one commit.

        Args:
            rows: columns of the table, by name; those they lack become null. There may be none: then
                only the position moves.
            position: (name, where it was believed to be, where it goes).
            facts: for the snapshot's summary, `headrace.*` by convention.
            properties: set on the table in the same commit.

        Returns:
            The snapshot. It is committed even where the catalog's answer was lost: the table is
            looked at before an unknown outcome is reported.

        Raises:
            Conflict: the position is not where it was believed to be, for the log partitions that
                move (those of other writers may have moved); nothing was written.
            CallError: a column the table lacks.
            Unwritable: a value that the table cannot hold; nothing was written.
            Unavailable: the catalog is locked or away. With a position it is safe to read that again
                and go on; without one the rows may be in.
        """

        def set_properties(table: Any) -> Mapping[str, str]:
            return {**_said(properties, table), **(_moved(table, *position, self.name) if position else {})}

        return self._commit([rows], facts, set_properties, prefix=APPENDED)

    def overwrite(
        self,
        rows: pa.Table | Iterable[pa.Table],
        *,
        partitions: tuple[str, Collection[date]] | None = None,
        facts: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        expect: Expected | None = None,
    ) -> Snapshot:
        """Puts the rows in the place of all there are, or of exactly those of some days, at once.

        Args:
            rows: as for `append`; of several tables each is written before the next is asked for, and
                an error in making one leaves all as it was. A day of `partitions` without rows is
                empty afterwards.
            partitions: (column, its UTC days); the table must be partitioned by that column's day, and
                every row must lie in one of them. Files of other days are not touched.
            facts, properties: as for `append`.
            expect: properties that must still have these values (None: not be there).

        Raises:
            CallError: as for `append`; a row outside `partitions`; no partition by that day.
            Conflict: a property is not as expected; nothing was written.
            Unavailable: the catalog is locked or away.
        """
        wanted = set() if partitions is None else {(day - _EPOCH).days for day in partitions[1]}
        where = None if partitions is None else changes.day_field(self.iceberg(), partitions[0])

        def removed(table: Any) -> list[DataFile]:
            current = table.current_snapshot()
            if current is None:
                return []
            files = changes.live_files(table, current)
            return [f for f in files if where is None or f.partition[where] in wanted]

        def check(files: list[DataFile]) -> None:
            for data_file in files:
                if where is not None and data_file.partition[where] not in wanted:
                    raise CallError(
                        "a row lies outside the days that are replaced",
                        where=f"table {self.name}: day {data_file.partition[where]} since 1970",
                    )

        def set_properties(table: Any) -> Mapping[str, str]:
            _expected(table, expect or {}, self.name)
            return properties or {}

        pieces = [rows] if isinstance(rows, pa.Table) else rows
        return self._commit(pieces, facts, set_properties, removed, check)

    def rollback_to_snapshot(self, snapshot: int) -> Snapshot:
        """Makes a kept snapshot current again: rows, columns, and the properties committed with it.

        Raises CallError as `snapshot`, and Conflict as `pin`.
        """
        with failures(self.where, self.name):
            former = roll_back(self.catalog, self.iceberg, snapshot)
        return self.snapshot(snapshot) if former is None else snapshot_of(former)  # it says what is there

    def set_properties(self, properties: Mapping[str, str], *, expect: Expected | None = None) -> None:
        """Sets properties of the table, without a snapshot; with `expect` as for `replace`.

        Raises:
            Conflict: a property is not as expected; or other writers kept changing the table.
        """
        for _ in range(_TRIES):
            with failures(self.where, self.name):
                table = self.iceberg()
                _expected(table, expect or {}, self.name)
                if update_refs(self.catalog, table, properties=properties, expect={}):
                    return
        raise Conflict("other writers kept changing the table", where=f"table {self.name}", remedy="Try again.")

    def _commit(
        self,
        pieces: Iterable[pa.Table],
        facts: Said | None,
        properties: Callable[[Any], Mapping[str, str]],
        removed: Callable[[Any], list[DataFile]] | None = None,
        check: Callable[[list[DataFile]], None] | None = None,
        prefix: str = "",
    ) -> Snapshot:
        until = now_micros() + (BRIEF if prefix == APPENDED else LONG)
        table = self.iceberg()
        properties(table)  # a position that has moved is found before anything is written
        with failures(self.where, self.name):
            files: list[DataFile] = []
            try:
                for rows in pieces:
                    files += write_files(conform(rows, table), table, prefix=prefix)
                if check is not None:
                    check(files)
                made = commit(
                    self.iceberg,
                    Change(files, removed, properties, lambda table: _said(facts, table), until=until),
                    where=f"table {self.name} in {self.where}",
                )
            except Unavailable:  # the commit may have happened, or happen yet
                raise
            except Exception:
                discard(table, files)
                raise
        expiry.as_it_goes(self.catalog, table, self.where)
        return snapshot_of(made)

    def tags(self) -> dict[str, int]:
        """Pin → snapshot id."""
        return pins_of(self.iceberg())

    def create_tag(self, name: str, snapshot: int) -> None:
        """Keeps a snapshot from expiring, under a name. A pin of that name moves.

        Raises:
            CallError: the snapshot is not there (any more).
            Conflict: other writers kept changing the table.
        """
        with failures(self.where, self.name):
            there = set_pin(self.catalog, self.iceberg, name, snapshot)
        if not there:
            self.snapshot(snapshot)  # says what is there instead

    def remove_tag(self, name: str) -> None:
        """Takes a pin away; nothing happens where there is none. Raises Conflict as `pin`."""
        with failures(self.where, self.name):
            take_pin(self.catalog, self.iceberg, name)


def _expected(table: Any, properties: Expected, label: str) -> None:
    """Raises Conflict where a property has not the value it should have."""
    for name, value in properties.items():
        if table.properties.get(name) != value:
            raise Conflict(
                f"another writer changed property {name!r}",
                where=f"table {label}",
                remedy="Look at the table again and start over.",
            )


def _said(given: Said | None, table: Any) -> Mapping[str, str]:
    return given(table.properties) if callable(given) else given or {}


def _stored_position(table: Any, name: str) -> Position | None:
    text = table.properties.get(POSITION + name)
    return None if text is None else decode_position(text)


def _moved(table: Any, name: str, expected: Position | None, new: Position, label: str) -> dict[str, str]:
    """The property that moves the position. Raises Conflict where it is not as expected."""
    stored = _stored_position(table, name)
    where = f"table {label}: position {name!r}"
    remedy = "Read the position again and go on from there."
    if not isinstance(new, LogPosition):
        if stored != expected:
            raise Conflict("another writer moved the position", where=where, remedy=remedy)
        return {POSITION + name: encode_position(new)}
    if stored is None:
        stored = LogPosition(new.topic, new.log_id)
    if not isinstance(stored, LogPosition) or (stored.topic, stored.log_id) != (new.topic, new.log_id):
        raise Conflict(
            f"the position belongs to another log than {new.topic} ({new.log_id})",
            where=where,
            remedy="The topic was made again under its name; give the new one another table.",
        )
    before = expected if isinstance(expected, LogPosition) else LogPosition(new.topic, new.log_id)
    moves = {p: o for p, o in new.offsets.items() if o != before.next_offset(p)}
    for partition in moves:
        if stored.next_offset(partition) != before.next_offset(partition):
            raise Conflict(
                f"another writer moved log partition {partition} to {stored.next_offset(partition)}; "
                f"it was believed to be at {before.next_offset(partition)}",
                where=where,
                remedy=remedy,
            )
    return {POSITION + name: encode_position(stored.with_offsets(moves))}
