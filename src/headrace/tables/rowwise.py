"""Calls a rowwise function. A row that it fails on makes no rows, and stops no other row.

The same holds wherever the function runs: when a build makes its table, when the online store is filled and
follows the stream, and when features are recomputed. f(a + b) = f(a) + f(b), so bisection finds such rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import polars as pl
from msgspec import Struct

from headrace.declare.event import Contract
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError
from headrace.tables.call import call_function, collect_frames, concat_results

__all__ = ["FailedRow", "RowwiseCalls", "describe_failures", "merge_failures", "read_failures"]

_FEW = 100  # rows that a function may fail on, however few rows there are
_SHARE = 10  # otherwise, one row in so many
_EXAMPLES = 3
_MAX_TEXT = 300  # characters


class FailedRow(Struct, frozen=True):
    """A row of the input that a rowwise function failed on.

    Attributes:
        row: the event's `TOPIC@PARTITION:OFFSET`, or the values of the row.
        error: the function's error.
        where: the line that raised it.
        day: the UTC day of the input, if the table is made by days.
    """

    row: str
    error: str
    where: str | None
    day: date | None = None


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
        self._limit = max(_FEW, rows // _SHARE)
        self._options = options or {}
        self.failed: list[FailedRow] = []

    def call(self, rows: pl.DataFrame, day: date | None = None) -> pl.DataFrame:
        """The rows that the function makes of a part of the input.

        Raises:
            ProjectError: the function fails without any rows, or on more rows than single events can explain.
        """
        try:
            return self._call(rows)
        except ProjectError:
            empty = self._call(rows[:0])  # if it fails again, the function is wrong, not a row
            return concat_results(self._table, list(self._call_halves(rows, day)) or [empty])

    def _call(self, rows: pl.DataFrame) -> pl.DataFrame:
        return collect_frames(self._table, [call_function(self._table, [rows.lazy()], self._options)])[0]

    def _call_halves(self, rows: pl.DataFrame, day: date | None) -> Iterator[pl.DataFrame]:
        middle = (len(rows) + 1) // 2
        for half in (rows[:middle], rows[middle:]):
            if half.is_empty():
                continue
            try:
                yield self._call(half)
            except ProjectError as error:
                if len(half) == 1:
                    self._note(half, error, day)
                else:
                    yield from self._call_halves(half, day)

    def _note(self, row: pl.DataFrame, error: ProjectError, day: date | None) -> None:
        place = self._describe(row.row(0, named=True))
        what = error.what.partition("\n")[0]
        self.failed.append(FailedRow(place, _cut(what), error.where, day))
        if len(self.failed) > self._limit:
            raise ProjectError(
                f"{what}. It fails on more than {self._limit:,} rows, for example {self.failed[0].row}",
                where=error.where,
            ) from error

    def _describe(self, row: Mapping[str, Any]) -> str:
        if self._topic is not None and {"_log_partition", "_log_offset"} <= row.keys():
            return f"{self._topic}@{row['_log_partition']}:{row['_log_offset']}"
        return _cut(", ".join(f"{name}={value!r}" for name, value in row.items()))


def describe_failures(table: str, failed: Sequence[FailedRow]) -> str:
    """The rows that were left out, in a sentence without a period."""
    count = len(failed)
    rows = "1 row that" if count == 1 else f"{count:,} rows that"
    return f"left out {rows} {table}() fails on: {failed[0].row}: {failed[0].error}"


def merge_failures(stored: str | None, days: Collection[date], failed: Sequence[FailedRow]) -> str:
    """The property FAILED_ROWS after a build.

    Args:
        stored: the property before; None if all of the input was read.
        days: the input days that the build has read.
        failed: the rows that the function failed on.
    """
    read = {day.isoformat() for day in days}
    entries = {day: entry for day, entry in json.loads(stored or "{}").items() if day not in read}
    for failure in failed:
        entry = entries.setdefault("" if failure.day is None else failure.day.isoformat(), [0])
        entry[0] += 1
        if len(entry) <= _EXAMPLES:
            entry.append(f"{failure.row}: {failure.error}")
    return json.dumps(dict(sorted(entries.items())))


def read_failures(stored: str | None) -> tuple[int, list[str]]:
    """How many rows of a table's input were left out, and the newest examples of them, by FAILED_ROWS."""
    entries = list(json.loads(stored or "{}").values())
    return sum(entry[0] for entry in entries), [text for entry in reversed(entries) for text in entry[1:]]


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
