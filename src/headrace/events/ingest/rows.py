"""The good rows of a topic's table, as its contract is now."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.events.contracts.shape import META, shape_of
from headrace.lake import LakeTable

__all__ = ["good_rows", "recent_rows"]


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
) -> pl.DataFrame | None:
    """The identities and times of the good rows in which a duplicate would be found, in the order of their
    times; None where the contract has no such rule, or the table no good row.

    Args:
        table: the topic's.
        contract: the topic's.
        partitions: only what came from these log partitions; None: from any.
    """
    if contract.within is None:
        return None
    time = pl.col(contract.time)
    good = good_rows(table, pa.schema([*shape_of(contract).schema, META.field("_log_partition")]))
    if partitions is not None:
        good = good.filter(pl.col("_log_partition").is_in(sorted(partitions)))
    latest = good.select(time.max()).collect().item()
    if latest is None:
        return None
    recent = good.filter(time >= latest - contract.within)
    return recent.select({*contract.identity, contract.time}).sort(time).collect()
