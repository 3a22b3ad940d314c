"""Data files: rows written as Parquet, one file a partition, with the statistics that prune reads.

Written with pyarrow directly rather than by PyIceberg's own append: that needs a second native
library for a day partition, and splits and encodes at twice the cost (bench/lake.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.transforms import DayTransform
from pyiceberg.typedef import Record

from headrace.kernel.errors import CallError, HeadraceError
from headrace.kernel.faults import reach
from headrace.kernel.ids import new_id

__all__ = ["APPENDED", "DAY", "ROW_GROUP", "Unwritable", "check_rows", "conform", "write_file", "write_files"]

APPENDED = "appended-"
DAY = 86_400_000_000  # microseconds
ROW_GROUP = 262_144  # rows
# Arrow's bytes that are gathered for a row group, at most: reading is as fast as with more of them.
_GROUP_BYTES = 16 * 1024 * 1024
_FEW = 8  # partitions up to which a filter for each is cheaper than one sort
_FILE_BYTES = 512 * 1024 * 1024  # Arrow's bytes; about a tenth of it on disk


class Unwritable(CallError):
    """Rows hold a value that no data file of their table can hold."""


def conform(rows: pa.Table, table: Any) -> pa.Table:
    """The rows with the table's columns in its order and types; a column they lack is null.

    Raises:
        CallError: the rows have a column that the table lacks.
        Unwritable: a value does not fit its column's type.
    """
    schema = schema_to_pyarrow(table.schema(), include_field_ids=True)
    unknown = sorted(set(rows.column_names) - set(schema.names))
    if unknown:
        raise CallError(f"there is no column {', '.join(unknown)}", where=f"table {table.name()[-1]}")
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
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def write_files(rows: pa.Table, table: Any, *, prefix: str = "") -> list[DataFile]:
    """Writes the rows (as `conform` gives them) and returns what a commit needs to know of the files.

    Args:
        rows: no rows give no files.
        table: the pyiceberg table.
        prefix: put before each file's name: it tells the sweep how long the write may take.

    Raises:
        Unwritable: a value that no data file can hold.
    """
    if rows.num_rows == 0:
        return []
    layout = _layout(rows, table, prefix)
    reach("lake.before_data_file")
    files = [
        _write([piece], partition, layout) for partition, part in _parts(rows, table) for piece in _pieces(part)
    ]
    reach("lake.after_data_file")
    return files


def check_rows(rows: pa.Table, table: Any) -> None:
    """Makes the data files of the rows in memory alone: nothing is written.

    Args:
        rows: as for `conform`.
        table: the pyiceberg table.

    Raises:
        CallError: as `conform`.
        Unwritable: a value that no data file can hold.
    """
    rows = conform(rows, table)
    layout = _layout(rows, table, "")
    for _, part in _parts(rows, table) if rows.num_rows else ():
        _encode([part], pa.BufferOutputStream(), layout)


def write_file(pieces: Iterator[pa.Table], partition: Any, table: Any, *, prefix: str = "") -> DataFile:
    """Writes rows of one partition to one file, without holding more of them than a row group and a piece.

    Args:
        pieces: rows as `conform` gives them; at least one piece.
        partition: the values of the table's partition fields.
        table, prefix: as for `write_files`.
    """
    groups = _groups(pieces)
    first = next(groups)
    reach("lake.before_data_file")
    file = _write(chain([first], groups), tuple(partition), _layout(first, table, prefix))
    reach("lake.after_data_file")
    return file


def _groups(pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, gathered so that each makes a row group."""
    held: list[pa.Table] = []
    rows = size = 0
    for piece in pieces:
        held.append(piece)
        rows, size = rows + piece.num_rows, size + piece.nbytes
        if rows >= ROW_GROUP or size >= _GROUP_BYTES:
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)


def _pieces(rows: pa.Table) -> Iterator[pa.Table]:
    count = max(1, -(-rows.nbytes // _FILE_BYTES))
    size = -(-rows.num_rows // count)
    for start in range(0, rows.num_rows, size):
        yield rows.slice(start, size)


def _parts(rows: pa.Table, table: Any) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """(partition values, its rows in their order)."""
    schema, spec = table.schema(), table.spec()
    if spec.is_unpartitioned():
        yield (), rows
        return
    codes = np.zeros(rows.num_rows, np.int64)
    values: list[list[Any]] = []
    for field in spec.fields:
        column = rows.column(schema.find_column_name(field.source_id))
        keys: Any = _days(column) if isinstance(field.transform, DayTransform) else _whole(column)
        encoded: Any = pc.dictionary_encode(keys, null_encoding="encode")
        values.append(encoded.dictionary.to_pylist())
        codes = codes * len(values[-1]) + np.asarray(encoded.indices)
    found, counts = np.unique(codes, return_counts=True)
    if len(found) <= _FEW:
        for code in found:
            yield _decoded(int(code), values), _where(rows, codes, code)
        return
    rows = rows.take(np.argsort(codes, kind="stable"))
    for code, start, count in zip(found, np.cumsum(counts) - counts, counts, strict=True):
        yield _decoded(int(code), values), rows.slice(start, count)


def _days(column: Any) -> Any:
    """Whole days since 1970 of a date or timestamp column, floored, as int32."""
    whole = _whole(column)
    if pa.types.is_date(whole.type):
        return whole.cast(pa.int32())
    instants = np.asarray(pc.fill_null(whole.cast(pa.int64()), 0))
    return pa.array((instants // DAY).astype(np.int32), mask=np.asarray(whole.is_null()))


def _whole(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _decoded(code: int, values: list[list[Any]]) -> tuple[Any, ...]:
    found: list[Any] = []
    for column in reversed(values):
        code, index = divmod(code, len(column))
        found.append(column[index])
    return tuple(reversed(found))


def _where(rows: pa.Table, codes: npt.NDArray[np.int64], code: np.int64) -> pa.Table:
    mask = codes == code
    return rows if mask.all() else rows.filter(pa.array(mask))


@dataclass(frozen=True)
class _Layout:
    """What the files of one write have in common."""

    table: Any
    prefix: str
    schema: Any
    repeating: Any
    statistics: Any
    columns: Any


def _layout(rows: pa.Table, table: Any, prefix: str) -> _Layout:
    return _Layout(
        table=table,
        prefix=prefix,
        schema=rows.schema,
        repeating=_repeating(rows),
        statistics=compute_statistics_plan(table.schema(), table.properties),
        columns=parquet_path_to_id_mapping(table.schema()),
    )


def _write(pieces: Iterable[pa.Table], partition: tuple[Any, ...], layout: _Layout) -> DataFile:
    table = layout.table
    path = table.location_provider().new_data_location(f"{layout.prefix}{new_id()}.parquet")
    output = table.io.new_output(path)
    with output.create(overwrite=False) as stream:
        statistics = _encode(pieces, stream, layout)
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(*partition),
        file_size_in_bytes=len(output),
        sort_order_id=None,
        spec_id=table.spec().spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics,
    )


def _encode(pieces: Iterable[pa.Table], stream: Any, layout: _Layout) -> dict[str, Any]:
    """Writes a Parquet file to the stream, and gives what PyIceberg's DataFile says of its values."""
    with pq.ParquetWriter(
        stream, layout.schema, compression="zstd", compression_level=1, use_dictionary=layout.repeating,
        store_decimal_as_integer=True,
    ) as writer:  # fmt: skip
        for rows in pieces:
            with _naming_values(layout.table):
                writer.write(rows, row_group_size=ROW_GROUP)
    with _naming_values(layout.table):
        statistics = data_file_statistics_from_parquet_metadata(
            parquet_metadata=writer.writer.metadata,
            stats_columns=layout.statistics,
            parquet_column_mapping=layout.columns,
        )
        bound_texts(statistics)
        return dict(statistics.to_serialized_dict())


@contextmanager
def _naming_values(table: Any) -> Iterator[None]:
    """For the block, what is neither a disk's fault nor memory's is said of the rows."""
    try:
        yield
    except (HeadraceError, OSError, MemoryError):
        raise
    except Exception as error:
        raise Unwritable(
            f"rows hold a value that no data file can hold: {type(error).__name__}: {error}",
            where=f"table {table.name()[-1]}",
        ) from error


def bound_texts(statistics: Any) -> None:
    """Sets the upper bound of each text column whose greatest value is longer than what is kept of it.

    PyIceberg makes it greater by one code point, and fails where that is none (a surrogate, U+D800 to U+DFFF).
    """
    for column in statistics.column_aggregates.values():
        greatest, width = column.current_max, column.trunc_length
        if isinstance(greatest, str) and width is not None and len(greatest) > width:
            column.current_max = _above(greatest[:width])


def _above(text: str) -> str | None:
    """A text of at most this length that is greater than all that begin with it; None: there is none."""
    kept = text.rstrip(chr(sys.maxunicode))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)


def _repeating(rows: pa.Table) -> list[str]:
    """Columns whose values repeat: for the others a dictionary costs time and saves nothing."""
    sample = rows.slice(0, 2000)
    return [
        name
        for name, column in zip(sample.column_names, sample.columns, strict=True)
        if not pa.types.is_nested(column.type)
        and not pa.types.is_boolean(column.type)
        and pc.count_distinct(column).as_py() * 4 <= sample.num_rows + 3
    ]
