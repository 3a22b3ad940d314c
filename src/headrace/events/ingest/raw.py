"""Raw events: every event of a topic, good or refused, with its bytes and its verdict; for sinks that forward
events.

A topic's table stores the bytes of refused events only: those of good events are on the log. If the log has
deleted a good event, its bytes are written again as JSON from the fields in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
from msgspec import Raw

from headrace.declare.event import Contract
from headrace.events.contracts.fields import ContractField, FieldKind, fields_of
from headrace.events.contracts.shape import META
from headrace.events.formats import numbers
from headrace.events.verdicts.keys import key_of
from headrace.lake import LakeTable
from headrace.log import Batch, Log

__all__ = ["RAW", "join_records", "read_events"]

_RAW: list[tuple[str, pa.DataType]] = [
    ("_log_partition", pa.int32()),
    ("_log_offset", pa.int64()),
    ("_arrived_at", META.field("_arrived_at").type),
    ("_valid", pa.bool_()),
    ("_raw", pa.large_binary()),
    ("_key", pa.large_binary()),
    ("_rewritten", pa.bool_()),
    ("_code", pa.string()),
    ("_field", pa.string()),
    ("_reason", pa.string()),
    ("_first_partition", pa.int32()),
    ("_first_offset", pa.int64()),
]
RAW = pa.schema(_RAW)
"""Every event: its position, its bytes and key as on the log, and its verdict (shape.META). `_rewritten`:
whether the bytes were written again from the table."""

_AT = ["_log_partition", "_log_offset"]


def join_records(rows: pl.DataFrame, batch: Batch) -> pa.Table:
    """Joins rows of a topic's table to the bytes of their records.

    Args:
        rows: the rows of the batch, with META's columns.
        batch: the record of each row.

    Returns:
        RAW, in the order of the offsets within each log partition.
    """
    records = pl.DataFrame(
        {
            "_log_partition": batch.partitions,
            "_log_offset": batch.offsets,
            "_raw": pl.Series(batch.values, dtype=pl.Binary),
            "_key": pl.Series(list(batch.keys), dtype=pl.Binary),
        }
    )
    joined = rows.drop("_raw").join(records, on=_AT, how="inner")
    return _cast(joined.with_columns(_rewritten=pl.lit(value=False)))


def read_events(
    contract: Contract, table: LakeTable, log: Log, partition: int, low: int, high: int, most: int
) -> tuple[pa.Table, int]:
    """Reads the events of a log partition between two offsets.

    Args:
        contract, table, log: the topic's contract, table and log.
        partition: the log partition.
        low, high: the first offset, and the offset after the last.
        most: the most events to read.

    Returns:
        The events (RAW), and the offset after them, at most `high`.
    """
    rows = table.scan().filter(pl.col("_log_partition") == partition)
    start = log.start(contract.topic)[partition]
    if start > low:
        end = min(start, high, low + most)
        trimmed = rows.filter(pl.col("_log_offset").is_between(low, end, closed="left")).collect()
        return _rewrite(contract, trimmed), end
    batch = log.read(contract.topic, {partition: low}, most)
    if not len(batch):
        return RAW.empty_table(), high
    end = min(high, batch.next[partition])
    columns = (
        rows.select(list(META.names))
        .filter(pl.col("_log_offset").is_between(low, end, closed="left"))
        .collect()
    )
    return join_records(columns, batch), end


def _rewrite(contract: Contract, rows: pl.DataFrame) -> pa.Table:
    """Writes the events of rows again that the log has deleted; RAW."""
    fields = fields_of(contract.struct)
    raw: list[bytes] = []
    keys: list[bytes | None] = []
    for row in rows.iter_rows(named=True):
        raw.append(row["_raw"] if row["_raw"] is not None else numbers.encode(_object(row, fields)))
        keys.append(None if contract.key is None else key_of(row.get(contract.key)))
    columns: dict[str, Any] = {
        "_raw": pl.Series(raw, dtype=pl.Binary),
        "_key": pl.Series(keys, dtype=pl.Binary),
        "_rewritten": rows["_valid"],
    }
    return _cast(rows.with_columns(**columns))


def _object(row: Mapping[str, Any], fields: Sequence[ContractField]) -> dict[str, Any]:
    """The values of a struct's columns, by the names of the fields in an event."""
    return {
        field.key: _value(row[field.name], field.kind) for field in fields if row.get(field.name) is not None
    }


def _value(value: Any, kind: FieldKind) -> Any:
    if value is None:
        return None
    if kind.category == "json":
        return Raw(value)
    if kind.category == "struct":
        return _object(value, kind.fields)
    return value if kind.item is None else [_value(item, kind.item.kind) for item in value]


def _cast(rows: pl.DataFrame) -> pa.Table:
    return rows.sort(_AT).select(RAW.names).to_arrow().cast(RAW)
