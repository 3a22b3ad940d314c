"""The good rows of a topic's table, as its contract is now."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from headrace.lake import LakeTable

__all__ = ["good_rows"]


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
