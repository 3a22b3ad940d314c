"""Calls a rowwise function. A row that it fails on makes no rows, and stops no other row.

The same holds wherever the function runs: when a build makes its table, when the online store is filled and
follows the stream, and when features are recomputed. f(a + b) = f(a) + f(b), so bisection finds such rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import polars as pl

from headrace.declare.event import Contract
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError
from headrace.tables.call import call_function, collect_frames, concat_results
from headrace.tables.failures import FailedRow, cut, describe_row, failure_limit

__all__ = ["RowwiseCalls"]


class RowwiseCalls:
    """Calls a rowwise function for the parts of one input.

    Args:
        table: the rowwise table.
        reads: what the table reads.
        rows: how many rows the input has.
        options: `now`, if the function takes it.

    Attributes:
        failed: the rows that the function failed on so far.
    """

    def __init__(
        self, table: Table, reads: object, rows: int, options: Mapping[str, datetime] | None = None
    ) -> None:
        self._table = table
        self._topic = reads.topic if isinstance(reads, Contract) else None
        self._limit = failure_limit(rows)
        self._options = options or {}
        self.failed: list[FailedRow] = []

    def call(self, rows: pl.DataFrame, partition: str | None = None) -> pl.DataFrame:
        """The rows that the function makes of a part of the input.

        Raises:
            ProjectError: the function fails without any rows, or on more rows than single events can explain.
        """
        try:
            return self._call(rows)
        except ProjectError:
            empty = self._call(rows[:0])  # if it fails again, the function is wrong, not a row
            return concat_results(self._table, list(self._call_halves(rows, partition)) or [empty])

    def _call(self, rows: pl.DataFrame) -> pl.DataFrame:
        return collect_frames(self._table, [call_function(self._table, [rows.lazy()], self._options)])[0]

    def _call_halves(self, rows: pl.DataFrame, partition: str | None) -> Iterator[pl.DataFrame]:
        middle = (len(rows) + 1) // 2
        for half in (rows[:middle], rows[middle:]):
            if half.is_empty():
                continue
            try:
                yield self._call(half)
            except ProjectError as error:
                if len(half) == 1:
                    self._note(half, error, partition)
                else:
                    yield from self._call_halves(half, partition)

    def _note(self, row: pl.DataFrame, error: ProjectError, partition: str | None) -> None:
        place = self._describe(row.row(0, named=True))
        what = error.what.partition("\n")[0]
        self.failed.append(FailedRow(place, cut(what), error.where, partition))
        if len(self.failed) > self._limit:
            raise ProjectError(
                f"{what}. It fails on more than {self._limit:,} rows, for example {self.failed[0].row}",
                where=error.where,
            ) from error

    def _describe(self, row: Mapping[str, Any]) -> str:
        if self._topic is not None and {"_log_partition", "_log_offset"} <= row.keys():
            return f"{self._topic}@{row['_log_partition']}:{row['_log_offset']}"
        return describe_row(row)
