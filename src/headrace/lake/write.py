"""Writes a table of the lake, in single commits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import polars as pl
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
from headrace.lake.files import APPENDED, WrittenFile, adopt_file, conform, write_files
from headrace.lake.metadata import decode_snapshot, metadata_of
from headrace.lake.positions import move_position
from headrace.lake.pyiceberg_internals import read_files
from headrace.lake.reading.parquet import scan_parquet
from headrace.lake.refs import TRIES, too_many_tries, update_refs
from headrace.lake.snapshot import Snapshot, snapshot_of

if TYPE_CHECKING:
    from headrace.lake.changes import PartitionColumn
    from headrace.lake.table import Expected, LakeTable, Texts

__all__ = [
    "append",
    "create_tag",
    "has_files",
    "overwrite",
    "remove_tag",
    "rollback_to_snapshot",
    "scan_files",
    "set_properties",
    "write",
]


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

    change = FileChanges(
        [],
        properties=change_properties,
        facts=lambda iceberg: _resolve(facts, iceberg),
        until=now_micros() + BRIEF,
    )
    return _write(table, rows, change, prefix=APPENDED)


def overwrite(
    table: LakeTable,
    rows: pa.Table | Sequence[WrittenFile],
    *,
    partitions: tuple[PartitionColumn, Collection[int]] | None,
    facts: Texts | None,
    properties: Texts | None,
    expect: Expected | None,
    written_at: int | None,
    snapshot_id: int | None,
) -> Snapshot:
    """See LakeTable.overwrite."""
    scope = _Scope(table.name) if partitions is None else _Scope.of(table.iceberg(), *partitions)

    def change_properties(iceberg: Table) -> Mapping[str, str]:
        _check_expected(iceberg, expect or {})
        return _resolve(properties, iceberg)

    change = FileChanges(
        [],
        removed=scope.files,
        properties=change_properties,
        facts=lambda iceberg: _resolve(facts, iceberg),
        until=(now_micros() if written_at is None else written_at) + LONG,
        snapshot_id=snapshot_id,
    )
    return _write(table, rows, change, check=scope.check)


def write(table: LakeTable, pieces: Iterable[pa.Table]) -> list[WrittenFile]:
    """See LakeTable.write."""
    iceberg = table.iceberg()
    files: list[DataFile] = []
    with name_errors(table.where, table.name):
        try:
            for rows in pieces:
                files += write_files(conform(rows, iceberg), iceberg)
        except Exception:
            discard(iceberg, [file.file_path for file in files])
            raise
    return [
        WrittenFile(
            file.file_path, tuple(file.partition[i] for i in range(len(file.partition))), file.record_count
        )
        for file in files
    ]


def has_files(table: LakeTable, files: Iterable[WrittenFile]) -> bool:
    """See LakeTable.has_files."""
    io = table.iceberg().io
    with name_errors(table.where, table.name), ThreadPoolExecutor(8) as threads:
        return all(threads.map(lambda file: io.new_input(file.path).exists(), files))


def scan_files(table: LakeTable, files: Sequence[WrittenFile]) -> pl.LazyFrame:
    """See LakeTable.scan_files."""
    iceberg = table.iceberg()
    paths = [file.path.removeprefix("file://") for file in files]
    if paths and all(path.startswith("/") for path in paths):
        return scan_parquet(paths)
    with name_errors(table.where, table.name):
        return pl.LazyFrame(read_files(iceberg, [adopt_file(file, iceberg) for file in files]))


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
    rows: pa.Table | Sequence[WrittenFile],
    change: FileChanges,
    *,
    check: Callable[[list[DataFile]], None] = lambda _: None,
    prefix: str = "",
) -> Snapshot:
    """Writes the rows to files, unless they are files, and commits them. `check` may refuse the files."""
    iceberg = table.iceberg()
    paths = [] if isinstance(rows, pa.Table) else [file.path for file in rows]
    with name_errors(table.where, table.name):
        try:
            change.properties(iceberg)  # raises Conflict before a file is written
            if isinstance(rows, pa.Table):
                files = write_files(conform(rows, iceberg), iceberg, prefix=prefix)
            else:
                files = _adopt_files(table, rows, iceberg)
            paths = [file.file_path for file in files]
            check(files)
            full = msgspec.structs.replace(change, added=files)
            snapshot = commit(table.iceberg, full, where=f"table {table.name} in {table.where}")
        except Unavailable:  # the commit may have happened, or may still happen
            raise
        except Exception:
            discard(iceberg, paths)
            raise
    expiry.expire_after_commit(table.catalog, iceberg, table.where)
    return _convert(snapshot)


def _adopt_files(table: LakeTable, files: Iterable[WrittenFile], iceberg: Table) -> list[DataFile]:
    try:
        return [adopt_file(file, iceberg) for file in files]
    except FileNotFoundError as error:
        raise Conflict(
            "a file that was written for it was deleted before its commit",
            where=f"table {table.name} in {table.where}",
            remedy="Build again. If it happens again, compare the clocks of the machines that run headrace up:"
            " one that is ahead removes files too early.",
        ) from error


def _convert(snapshot: IcebergSnapshot) -> Snapshot:
    return snapshot_of(decode_snapshot(snapshot.model_dump_json()))


class _Scope(Struct, frozen=True):
    """The partitions that an overwrite replaces: all, or some.

    Attributes:
        table: the table's name.
        field: the index of their number among a partition's values; None: all partitions.
        numbers: the numbers.
        spec: the id of the table's partition spec.
    """

    table: str
    field: int | None = None
    numbers: frozenset[int] = frozenset()
    spec: int = 0

    @classmethod
    def of(cls, table: Table, by: PartitionColumn, numbers: Collection[int]) -> _Scope:
        """Some partitions of the table. Raises CallError as `changes.partition_index`."""
        name = table.name()[-1]
        field = changes.partition_index(metadata_of(table), by, name)
        return cls(name, field, frozenset(numbers), table.spec().spec_id)

    def files(self, table: Table) -> Iterable[DataFile]:
        """The table's files in these partitions."""
        current = table.current_snapshot()
        return [] if current is None else [f for f in live_files(table, current) if self._holds(f)]

    def check(self, files: Iterable[DataFile]) -> None:
        """Raises CallError if a file holds rows of another partition."""
        for data_file in files:
            if not self._holds(data_file):
                raise CallError(
                    "a row is outside the partitions that are replaced",
                    where=f"table {self.table}: partition {data_file.partition[self.field or 0]}",
                )

    def _holds(self, data_file: DataFile) -> bool:
        if self.field is None:
            return True
        if data_file.spec_id != self.spec:
            raise CallError("its rows are partitioned otherwise than the table", where=f"table {self.table}")
        return data_file.partition[self.field] in self.numbers


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
