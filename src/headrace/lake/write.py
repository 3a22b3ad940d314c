"""Writes a table of the lake, in single commits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
from msgspec import Struct
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from headrace.kernel.errors import CallError, Conflict, Unavailable
from headrace.kernel.position import Position
from headrace.kernel.time import now_micros
from headrace.lake import changes, expiry, rollback, tags
from headrace.lake.commit import BRIEF, LONG, FileChanges, commit, discard
from headrace.lake.entries import live_files
from headrace.lake.errors import name_errors
from headrace.lake.files import APPENDED, conform, write_files
from headrace.lake.metadata import decode_snapshot, metadata_of
from headrace.lake.positions import move_position
from headrace.lake.refs import TRIES, too_many_tries, update_refs
from headrace.lake.snapshot import Snapshot, snapshot_of

if TYPE_CHECKING:
    from headrace.lake.table import Expected, LakeTable, Texts

__all__ = ["append", "create_tag", "overwrite", "remove_tag", "rollback_to_snapshot", "set_properties"]

_EPOCH = date(1970, 1, 1)


def append(
    table: LakeTable,
    rows: pa.Table,
    *,
    position: tuple[str, Position | None, Position] | None,
    facts: Texts | None,
    properties: Texts | None,
) -> Snapshot:
    """See LakeTable.append."""

    def change_properties(iceberg: Table) -> Mapping[str, str]:
        resolved = _resolve(properties, iceberg)
        if position is None:
            return resolved
        return {**resolved, **move_position(iceberg.properties, *position, table=table.name)}

    change = FileChanges([], properties=change_properties, facts=lambda iceberg: _resolve(facts, iceberg))
    return _write(table, [rows], change, prefix=APPENDED)


def overwrite(
    table: LakeTable,
    rows: pa.Table | Iterable[pa.Table],
    *,
    partitions: tuple[str, Collection[date]] | None,
    facts: Texts | None,
    properties: Texts | None,
    expect: Expected | None,
    snapshot_id: Callable[[], int | None],
) -> Snapshot:
    """See LakeTable.overwrite."""
    scope = _Days(table.name) if partitions is None else _Days.of(table.iceberg(), *partitions)

    def change_properties(iceberg: Table) -> Mapping[str, str]:
        _check_expected(iceberg, expect or {})
        return _resolve(properties, iceberg)

    change = FileChanges(
        [],
        removed=scope.files,
        properties=change_properties,
        facts=lambda iceberg: _resolve(facts, iceberg),
        snapshot_id=snapshot_id,
    )
    return _write(table, [rows] if isinstance(rows, pa.Table) else rows, change, check=scope.check)


def set_properties(table: LakeTable, properties: Mapping[str, str], expect: Expected | None) -> None:
    """See LakeTable.set_properties."""
    for _ in range(TRIES):
        iceberg = table.iceberg()
        with name_errors(table.where, table.name):
            _check_expected(iceberg, expect or {})
            if update_refs(table.catalog, iceberg, properties=properties, expect={}):
                return
    raise too_many_tries(iceberg)


def create_tag(table: LakeTable, name: str, snapshot: int, *, move: bool) -> None:
    """See LakeTable.create_tag."""
    with name_errors(table.where, table.name):
        exists = tags.create_tag(table.catalog, table.iceberg, name, snapshot, move=move)
    if not exists:
        table.snapshot(snapshot)  # raises CallError


def remove_tag(table: LakeTable, name: str) -> None:
    """See LakeTable.remove_tag."""
    with name_errors(table.where, table.name):
        tags.remove_tag(table.catalog, table.iceberg, name)


def rollback_to_snapshot(table: LakeTable, snapshot: int) -> Snapshot:
    """See LakeTable.rollback_to_snapshot."""
    with name_errors(table.where, table.name):
        former = rollback.rollback_to_snapshot(table.catalog, table.iceberg, snapshot)
    return table.snapshot(snapshot) if former is None else _convert(former)


def _write(
    table: LakeTable,
    pieces: Iterable[pa.Table],
    change: FileChanges,
    *,
    check: Callable[[list[DataFile]], None] = lambda _: None,
    prefix: str = "",
) -> Snapshot:
    """Writes the rows to files, then commits them with the change. `check` may refuse the files."""
    until = now_micros() + (BRIEF if prefix == APPENDED else LONG)
    iceberg = table.iceberg()
    change.properties(iceberg)  # raises Conflict before a file is written
    files: list[DataFile] = []
    with name_errors(table.where, table.name):
        try:
            for rows in pieces:
                files += write_files(conform(rows, iceberg), iceberg, prefix=prefix)
            check(files)
            full = msgspec.structs.replace(change, added=files, until=until)
            snapshot = commit(table.iceberg, full, where=f"table {table.name} in {table.where}")
        except Unavailable:  # the commit may have happened, or may still happen
            raise
        except Exception:
            discard(iceberg, files)
            raise
    expiry.expire_after_commit(table.catalog, iceberg, table.where)
    return _convert(snapshot)


def _convert(snapshot: IcebergSnapshot) -> Snapshot:
    return snapshot_of(decode_snapshot(snapshot.model_dump_json()))


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
        name = table.name()[-1]
        field = changes.day_field(metadata_of(table), column, name)
        return cls(name, field, frozenset((day - _EPOCH).days for day in days))

    def files(self, table: Table) -> Iterable[DataFile]:
        """The table's files in these partitions."""
        current = table.current_snapshot()
        return [] if current is None else [f for f in live_files(table, current) if self._holds(f)]

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
