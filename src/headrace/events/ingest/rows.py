"""The good rows of a topic's table, as its contract is now."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, time

import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.events.contracts.shape import META, shape_of
from headrace.lake import LakeTable

__all__ = ["good_rows", "recent_rows"]

_ROWS = 100_000


def good_rows(table: LakeTable, schema: pa.Schema) -> pl.LazyFrame:
    """The good rows, with these columns of the table.

    A column that the table has got since its newest snapshot is null in it.
    """
    rows = table.scan()
    there = rows.collect_schema().names()
    wanted = pl.DataFrame(pl.from_arrow(schema.empty_table())).schema
    columns = [
        pl.col(name) if name in there else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in wanted.items()
    ]
    return rows.filter(pl.col("_valid")).select(columns)


def recent_rows(
    table: LakeTable, contract: Contract, partitions: Collection[int] | None = None
) -> Iterator[pl.DataFrame]:
    """The identities and times of the good rows in which a duplicate would be found, some at a time and in
    no order; none where the contract has no such rule.

    Args:
        table: the topic's.
        contract: the topic's.
        partitions: only what came from these log partitions; None: from any.
    """
    head = table.head()
    if contract.within is None or head is None:
        return
    days = table.days(contract.time, head.id, {"_valid": True})
    if not days:
        return
    at = pl.col(contract.time)
    good = good_rows(table, pa.schema([*shape_of(contract).schema, META.field("_log_partition")]))
    if partitions is not None:
        good = good.filter(pl.col("_log_partition").is_in(sorted(partitions)))
    newest = datetime.combine(max(days), time.min, UTC)
    latest = _latest(good.filter(at >= newest), at) or _latest(good, at)
    if latest is not None:
        recent = good.filter(at >= latest - contract.within).select({*contract.identity, contract.time})
        yield from recent.collect_batches(chunk_size=_ROWS, maintain_order=False)


def _latest(rows: pl.LazyFrame, at: pl.Expr) -> datetime | None:
    latest: datetime | None = rows.select(at.max()).collect(engine="streaming").item()
    return latest
