"""The good rows of a topic's table, with the columns of its current contract."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta

import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.events.contracts.shape import META, shape_of
from headrace.events.contracts.times import EARLIEST, LATEST
from headrace.events.verdicts.watermarks import Watermarks
from headrace.kernel.time import from_micros
from headrace.lake import LakeTable

__all__ = ["good_rows", "recent_rows"]

_ROWS = 100_000
_MICROSECOND = timedelta(microseconds=1)


def good_rows(table: LakeTable, schema: pa.Schema) -> pl.LazyFrame:
    """The good rows, with these columns of the table.

    A column that was added after the newest snapshot is null.
    """
    rows = table.scan()
    present = rows.collect_schema().names()
    wanted = pl.Schema(schema)
    columns = [
        pl.col(name) if name in present else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in wanted.items()
    ]
    return rows.filter(pl.col("_valid")).select(columns)


def recent_rows(
    table: LakeTable, contract: Contract, partitions: Collection[int], watermarks: Watermarks
) -> Iterator[pl.DataFrame]:
    """The good rows of the time in which duplicates are refused; none if the contract refuses no duplicates.

    Args:
        table, contract, watermarks: the topic's table, contract and watermarks.
        partitions: only rows from these log partitions.

    Yields:
        Frames with the columns of the identity, the time and the log partition, in no order.
    """
    if contract.dedup_within is None or table.current_snapshot() is None:
        return
    at, partition = pl.col(contract.time), pl.col("_log_partition")
    good = good_rows(table, pa.schema([*shape_of(contract).schema, META.field("_log_partition")]))
    columns = {*contract.identity, contract.time, "_log_partition"}
    for latest, oldest in _spans(contract, contract.dedup_within, partitions, watermarks):
        span = at.is_between(from_micros(min(oldest.values())), from_micros(latest))
        rows = good.filter(span, partition.is_in(sorted(oldest)))
        floor = partition.replace_strict(oldest, return_dtype=pl.Int64)
        recent = rows.filter(at.to_physical() >= floor).select(columns)
        yield from recent.collect_batches(chunk_size=_ROWS, maintain_order=False)


def _spans(
    contract: Contract, within: timedelta, partitions: Collection[int], watermarks: Watermarks
) -> list[tuple[int, dict[int, int]]]:
    """The spans of time to read, in microseconds since 1970: each span's end, and log partition → its oldest
    time. A log partition without recent events has its own span."""
    before = within // _MICROSECOND
    # An older contract with a longer `max_ahead` may have admitted later events.
    ahead = max(contract.max_ahead // _MICROSECOND, watermarks.lead)
    spans: list[tuple[int, dict[int, int]]] = []
    admitted = [partition for partition in partitions if partition in watermarks.marks]
    for mark, partition in sorted((watermarks.mark(partition), partition) for partition in admitted):
        oldest = max(EARLIEST, mark - before)
        # A row's time is after the watermark by at most as much as it is after the row's arrival.
        latest = LATEST if watermarks.shared else min(LATEST, mark + ahead)
        if spans and oldest <= spans[-1][0]:
            spans[-1][1][partition] = oldest
            spans[-1] = (max(latest, spans[-1][0]), spans[-1][1])
        else:
            spans.append((latest, {partition: oldest}))
    return spans
