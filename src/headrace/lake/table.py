"""One table of the lake: read at a snapshot, and written in single commits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from typing import TypeAlias

import pyarrow as pa
from msgspec import Struct
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from headrace.kernel.errors import CallError, Conflict, Unavailable
from headrace.kernel.position import Position
from headrace.kernel.time import now_micros
from headrace.lake import changes, expiry, rollback, tags
from headrace.lake.commit import BRIEF, LONG, FileChanges, commit, discard
from headrace.lake.errors import name_errors
from headrace.lake.files import APPENDED, conform, write_files
from headrace.lake.positions import move_position
from headrace.lake.reader import TableReader
from headrace.lake.refs import TRIES, too_many_tries, update_refs
from headrace.lake.snapshot import Snapshot, snapshot_of

__all__ = ["LakeTable"]

Texts: TypeAlias = Mapping[str, str] | Callable[[Mapping[str, str]], Mapping[str, str]]
"""Names and values; or a function that returns them, given the table's properties at the time of the commit."""

Expected: TypeAlias = Mapping[str, str | None]
"""Properties and the values that they must have; None: the property must not exist."""

_EPOCH = date(1970, 1, 1)


class LakeTable(TableReader):
    """A table of the lake. Safe to use from several threads and processes at once."""

    def append(
        self,
        rows: pa.Table,
        *,
        position: tuple[str, Position | None, Position] | None = None,
        facts: Texts | None = None,
        properties: Texts | None = None,
    ) -> Snapshot:
        """Adds the rows and moves a position, in one commit.

        Args:
            rows: columns of the table, by name; those they lack become null. Without rows only the
                position moves.
            position: (name, the expected position, the new position).
            facts: entries of the snapshot's summary; their names begin with `headrace.` by convention.
            properties: set on the table in the same commit.

        Returns:
            The snapshot. If the catalog's answer was lost, the table is read again to find out whether the
            snapshot was committed.

        Raises:
            Conflict: the stored position is not the expected one, for the log partitions that move (other
                writers may have moved others); nothing was written.
            CallError: the rows have a column that the table lacks.
            Unwritable: a value that the table cannot hold; nothing was written.
            Unavailable: the catalog is locked or cannot be reached. The rows may have been written. A caller
                with a position can read it again and continue from there.
        """

        def set_properties(table: Table) -> Mapping[str, str]:
            moved = {} if position is None else move_position(table, *position)
            return {**_resolve(properties, table), **moved}

        change = FileChanges([], properties=set_properties, facts=lambda table: _resolve(facts, table))
        return self._write([rows], change, prefix=APPENDED)

    def overwrite(
        self,
        rows: pa.Table | Iterable[pa.Table],
        *,
        partitions: tuple[str, Collection[date]] | None = None,
        facts: Texts | None = None,
        properties: Texts | None = None,
        expect: Expected | None = None,
    ) -> Snapshot:
        """Replaces all rows, or exactly the rows of some days, in one commit.

        Args:
            rows: as for `append`. Of several tables, each is written before the next is computed, and an
                error meanwhile leaves the lake's table unchanged. A day of `partitions` without rows is empty
                afterwards.
            partitions: (column, its UTC days); the table must be partitioned by that column's day, and
                every row must lie in one of them. Files of other days are not touched.
            facts: as for `append`.
            properties: as for `append`.
            expect: properties that must have these values (None: must not exist).

        Raises:
            CallError: as for `append`; a row is outside `partitions`; the table is not partitioned
                by that day.
            Conflict: a property is not as expected; nothing was written.
            Unavailable: the catalog is locked or cannot be reached.
        """
        scope = _Days(self.name) if partitions is None else _Days.of(self.iceberg(), *partitions)

        def set_properties(table: Table) -> Mapping[str, str]:
            _check_expected(table, expect or {})
            return _resolve(properties, table)

        change = FileChanges(
            [], removed=scope.files, properties=set_properties, facts=lambda table: _resolve(facts, table)
        )
        return self._write([rows] if isinstance(rows, pa.Table) else rows, change, check=scope.check)

    def set_properties(self, properties: Mapping[str, str], *, expect: Expected | None = None) -> None:
        """Sets properties of the table, without a snapshot; with `expect` as for `overwrite`.

        Raises:
            Conflict: a property is not as expected; or other writers kept changing the table.
        """
        for _ in range(TRIES):
            table = self.iceberg()
            with name_errors(self.where, self.name):
                _check_expected(table, expect or {})
                if update_refs(self.catalog, table, properties=properties, expect={}):
                    return
        raise too_many_tries(table)

    def create_tag(self, name: str, snapshot: int, *, move: bool = True) -> None:
        """Tags a snapshot, so that it does not expire.

        Args:
            name: the tag.
            snapshot: the snapshot's id.
            move: whether an existing tag of this name moves to the snapshot.

        Raises:
            CallError: the table has no such snapshot (it may have expired), or the tag must not move.
            Conflict: other writers kept changing the table.
        """
        with name_errors(self.where, self.name):
            exists = tags.create_tag(self.catalog, self.iceberg, name, snapshot, move=move)
        if not exists:
            self.snapshot(snapshot)  # raises CallError

    def remove_tag(self, name: str) -> None:
        """Removes a tag, if it exists. Raises Conflict as `create_tag`."""
        with name_errors(self.where, self.name):
            tags.remove_tag(self.catalog, self.iceberg, name)

    def rollback_to_snapshot(self, snapshot: int) -> Snapshot:
        """Makes a former snapshot current again: rows, columns, and the properties committed with it.

        Raises CallError as `snapshot`, and Conflict as `create_tag`.
        """
        with name_errors(self.where, self.name):
            former = rollback.rollback_to_snapshot(self.catalog, self.iceberg, snapshot)
        return self.snapshot(snapshot) if former is None else snapshot_of(former)

    def _write(
        self,
        pieces: Iterable[pa.Table],
        change: FileChanges,
        *,
        check: Callable[[list[DataFile]], None] = lambda _: None,
        prefix: str = "",
    ) -> Snapshot:
        """Writes the rows to files, then commits them with the change. `check` may refuse the files."""
        until = now_micros() + (BRIEF if prefix == APPENDED else LONG)
        table = self.iceberg()
        change.properties(table)  # raises Conflict before a file is written
        files: list[DataFile] = []
        with name_errors(self.where, self.name):
            try:
                for rows in pieces:
                    files += write_files(conform(rows, table), table, prefix=prefix)
                check(files)
                full = FileChanges(files, change.removed, change.properties, change.facts, until=until)
                snapshot = commit(self.iceberg, full, where=f"table {self.name} in {self.where}")
            except Unavailable:  # the commit may have happened, or may still happen
                raise
            except Exception:
                discard(table, files)
                raise
        expiry.expire_after_commit(self.catalog, table, self.where)
        return snapshot_of(snapshot)


class _Days(Struct, frozen=True):
    """The partitions that an overwrite replaces: all, or those of some days.

    Attributes:
        table: the table's name.
        field: the index of the day among a partition's values; None: all partitions.
        days: in days since 1970.
    """

    table: str
    field: int | None = None
    days: frozenset[int] = frozenset()

    @classmethod
    def of(cls, table: Table, column: str, days: Collection[date]) -> _Days:
        """The partitions of these UTC days of `column`. Raises CallError as `changes.day_field`."""
        field = changes.day_field(table, column)
        return cls(table.name()[-1], field, frozenset((day - _EPOCH).days for day in days))

    def files(self, table: Table) -> Iterable[DataFile]:
        """The table's files in these partitions."""
        current = table.current_snapshot()
        return [] if current is None else [f for f in changes.live_files(table, current) if self._holds(f)]

    def check(self, files: Iterable[DataFile]) -> None:
        """Raises CallError if a file holds rows of another day."""
        for data_file in files:
            if not self._holds(data_file):
                raise CallError(
                    "a row is outside the days that are replaced",
                    where=f"table {self.table}: day {data_file.partition[self.field or 0]} since 1970",
                )

    def _holds(self, data_file: DataFile) -> bool:
        return self.field is None or data_file.partition[self.field] in self.days


def _check_expected(table: Table, properties: Expected) -> None:
    """Raises Conflict if a property does not have the expected value."""
    for name, value in properties.items():
        if table.properties.get(name) != value:
            raise Conflict(
                f"another writer changed property {name!r}",
                where=f"table {table.name()[-1]}",
                remedy="Read the table again, and repeat the operation.",
            )


def _resolve(texts: Texts | None, table: Table) -> Mapping[str, str]:
    return texts(table.properties) if callable(texts) else texts or {}
