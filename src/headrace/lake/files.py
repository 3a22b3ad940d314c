"""Data files: writes rows as Parquet, one file per partition, with the statistics that let reads skip files.

PyArrow writes the files. PyIceberg's append needs a second native library for a day partition, and takes twice
the time to split and encode (bench/lake.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Struct
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.faults import reach
from headrace.kernel.ids import new_id
from headrace.lake.partitions import partition_numbers
from headrace.lake.pyiceberg_internals import StatisticsPlan

__all__ = [
    "APPENDED",
    "ROW_GROUP",
    "Unwritable",
    "WrittenFile",
    "adopt_file",
    "check_rows",
    "conform",
    "write_file",
    "write_files",
]

APPENDED = "appended-"
ROW_GROUP = 262_144  # rows
_GROUP_BYTES = 16 * 1024 * 1024  # the most Arrow bytes of a row group: more do not make reading faster
_FEW = 8  # up to this many partitions, a filter for each is cheaper than one sort
_FILE_BYTES = 512 * 1024 * 1024  # the most Arrow bytes of a file; about a tenth of this on disk


class Unwritable(CallError):
    """Rows hold a value that no data file of their table can hold."""


class WrittenFile(Struct, frozen=True):
    """A data file that is written, and belongs to no snapshot yet.

    Attributes:
        path: its path or address.
        partition: the values of the table's partition fields.
        rows: how many rows it has.
    """

    path: str
    partition: tuple[Any, ...]
    rows: int


_Part: TypeAlias = tuple[tuple[Any, ...], pa.Table]
"""The values of a partition, and its rows in their order."""


def conform(rows: pa.Table, table: Table) -> pa.Table:
    """Returns the rows with the table's columns in its order and types; a column they lack is null.

    Raises:
        CallError: the rows have a column that the table lacks.
        Unwritable: a value does not fit its column's type.
    """
    schema = schema_to_pyarrow(table.schema(), include_field_ids=True)
    unknown = sorted(set(rows.column_names) - set(schema.names))
    if unknown:
        raise CallError(f"unknown column {', '.join(unknown)}", where=f"table {table.name()[-1]}")
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.chunked_array([pa.nulls(rows.num_rows, field.type)]))
            continue
        try:
            columns.append(rows.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise Unwritable(
                f"column {field.name!r} does not fit type {field.type}: {error}",
                where=f"table {table.name()[-1]}",
                remedy="Cast the column where its rows are made, such as .dt.truncate('1us') for nanoseconds.",
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def write_files(rows: pa.Table, table: Table, *, prefix: str = "") -> list[DataFile]:
    """Writes the rows to data files, and returns the files' entries for a commit.

    Args:
        rows: as `conform` returns them; without rows no file is written.
        table: the table.
        prefix: begins each file's name. The removal of orphan files reads from it how long the write may take.

    Raises:
        Unwritable: a value that no data file can hold.
    """
    if rows.num_rows == 0:
        return []
    layout, parts = _prepare(rows, table, prefix)
    reach("lake.before_data_file")
    pieces = [(piece, partition) for partition, part in parts for piece in _split_by_size(part)]
    with ThreadPoolExecutor(pl.thread_pool_size()) as threads:  # encoding needs no lock of Python
        files = list(threads.map(lambda piece: _write([piece[0]], piece[1], layout), pieces))
    reach("lake.after_data_file")
    return files


def adopt_file(file: WrittenFile, table: Table) -> DataFile:
    """The entry for a commit of a file that `write_files` has written, perhaps in another process.

    Raises:
        FileNotFoundError: the file does not exist.
        pa.ArrowInvalid: it is not a whole Parquet file.
    """
    source = table.io.new_input(file.path)
    with source.open() as stream:
        footer = pq.read_metadata(stream)  # type: ignore[arg-type]
        statistics = StatisticsPlan.of(table).statistics(footer)
    return _entry(table, file.path, len(source), file.partition, statistics)


def check_rows(rows: pa.Table, table: Table) -> None:
    """Encodes the rows in memory, without writing a file, to find values that no data file can hold.

    Args:
        rows: as for `conform`.
        table: the table.

    Raises:
        CallError: as `conform`.
        Unwritable: a value that no data file can hold.
    """
    layout, parts = _prepare(conform(rows, table), table, "")
    for _, part in parts if rows.num_rows else ():
        _encode([part], pa.BufferOutputStream(), layout)


def _prepare(
    rows: pa.Table, table: Table, prefix: str
) -> tuple[_Layout, list[tuple[tuple[Any, ...], pa.Table]]]:
    """The layout of the files, and the rows of each partition. Raises Unwritable as `write_files`."""
    with _name_unwritable(table):
        return _Layout.of(rows, table, prefix), list(_split_by_partition(rows, table))


def write_file(pieces: Iterator[pa.Table], partition: Record, table: Table, *, prefix: str = "") -> DataFile:
    """Writes rows of one partition to one file, with at most a row group and a piece in memory.

    Args:
        pieces: rows as `conform` returns them; at least one piece.
        partition: the values of the table's partition fields.
        table: the table.
        prefix: as for `write_files`.
    """
    groups = _gather_groups(pieces)
    first = next(groups)
    values = tuple(partition[i] for i in range(len(partition)))
    reach("lake.before_data_file")
    file = _write(chain([first], groups), values, _Layout.of(first, table, prefix))
    reach("lake.after_data_file")
    return file


def _gather_groups(pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Gathers the rows into tables of a row group each."""
    gathered: list[pa.Table] = []
    rows = size = 0
    for piece in pieces:
        gathered.append(piece)
        rows, size = rows + piece.num_rows, size + piece.nbytes
        if rows >= ROW_GROUP or size >= _GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered, rows, size = [], 0, 0
    if gathered:
        yield pa.concat_tables(gathered)


def _split_by_size(rows: pa.Table) -> Iterator[pa.Table]:
    count = max(1, -(-rows.nbytes // _FILE_BYTES))
    size = -(-rows.num_rows // count)
    for start in range(0, rows.num_rows, size):
        yield rows.slice(start, size)


def _split_by_partition(rows: pa.Table, table: Table) -> Iterator[_Part]:
    """Splits rows by partition."""
    spec = table.spec()
    if spec.is_unpartitioned():
        yield (), rows
        return
    codes = np.zeros(rows.num_rows, np.int64)
    values: list[list[Any]] = []
    for field in spec.fields:
        column = rows.column(table.schema().find_field(field.source_id).name)
        transform, keys = str(field.transform), _combine(column)
        if transform != "identity":
            keys = partition_numbers(keys, transform)
        encoded: Any = pc.dictionary_encode(keys, null_encoding="encode")
        values.append(encoded.dictionary.to_pylist())
        codes = codes * len(values[-1]) + np.asarray(encoded.indices)
    distinct, counts = np.unique(codes, return_counts=True)
    if len(distinct) <= _FEW:
        for code in distinct:
            yield _decode(int(code), values), _select(rows, codes, code)
        return
    rows = rows.take(np.argsort(codes, kind="stable"))
    for code, start, count in zip(distinct, np.cumsum(counts) - counts, counts, strict=True):
        yield _decode(int(code), values), rows.slice(start, count)


def _combine(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _decode(code: int, values: list[list[Any]]) -> tuple[Any, ...]:
    """Decodes a code to its partition values."""
    decoded: list[Any] = []
    for column in reversed(values):
        code, index = divmod(code, len(column))
        decoded.append(column[index])
    return tuple(reversed(decoded))


def _select(rows: pa.Table, codes: npt.NDArray[np.int64], code: np.int64) -> pa.Table:
    mask = codes == code
    return rows if mask.all() else rows.filter(pa.array(mask))


class _Layout(Struct, frozen=True):
    """The properties that the files of one write share."""

    table: Table
    prefix: str
    schema: pa.Schema
    repeating: list[str]
    statistics: StatisticsPlan

    @classmethod
    def of(cls, rows: pa.Table, table: Table, prefix: str) -> _Layout:
        return cls(table, prefix, rows.schema, _repeating(rows), StatisticsPlan.of(table))


def _write(pieces: Iterable[pa.Table], partition: tuple[Any, ...], layout: _Layout) -> DataFile:
    table = layout.table
    path = table.location_provider().new_data_location(f"{layout.prefix}{new_id()}.parquet")
    output = table.io.new_output(path)
    with output.create(overwrite=False) as stream:
        statistics = _encode(pieces, stream, layout)
    return _entry(table, path, len(output), partition, statistics)


def _entry(
    table: Table, path: str, size: int, partition: tuple[Any, ...], statistics: dict[str, Any]
) -> DataFile:
    data_file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(*partition),
        file_size_in_bytes=size,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **statistics,
    )
    data_file.spec_id = table.spec().spec_id
    return data_file


def _encode(pieces: Iterable[pa.Table], stream: Any, layout: _Layout) -> dict[str, Any]:
    """Writes a Parquet file to the stream, and returns the statistics for PyIceberg's DataFile."""
    with pq.ParquetWriter(
        stream,
        layout.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=layout.repeating,  # type: ignore[arg-type]  # the stubs know only a bool
        store_decimal_as_integer=True,
    ) as writer:
        for rows in pieces:
            with _name_unwritable(layout.table):
                writer.write(rows, row_group_size=ROW_GROUP)
    with _name_unwritable(layout.table):
        return layout.statistics.statistics(writer.writer.metadata)


@contextmanager
def _name_unwritable(table: Table) -> Iterator[None]:
    """Turns errors in the block that come neither from the disk nor from memory into Unwritable."""
    try:
        yield
    except (HeadraceError, OSError, MemoryError):
        raise
    except Exception as error:
        raise Unwritable(
            f"rows hold a value that no data file can hold: {type(error).__name__}: {error}",
            where=f"table {table.name()[-1]}",
        ) from error


def _repeating(rows: pa.Table) -> list[str]:
    """The columns whose values repeat: for the others a dictionary costs time and saves nothing."""
    sample = rows.slice(0, 2000)
    return [
        name
        for name, column in zip(sample.column_names, sample.columns, strict=True)
        if not pa.types.is_nested(column.type)
        and not pa.types.is_boolean(column.type)
        and pc.count_distinct(column).as_py() * 4 <= sample.num_rows + 3
    ]
