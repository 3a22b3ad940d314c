"""What a table reads: a topic's good rows, another table, or files; and which version of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import msgspec
import polars as pl

from headrace.declare.event import Contract
from headrace.declare.source import Source
from headrace.declare.table import ONE_DAY, Table
from headrace.kernel.errors import CallError
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.kernel.time import add_days
from headrace.lake import Lake, LakeTable, Snapshot
from headrace.projects.project import Project
from headrace.tables.files import digest_of, read_files

__all__ = [
    "Readable",
    "TableInput",
    "good_rows",
    "input_name",
    "read_input",
    "resolve_input",
    "select_days",
]

_LOG_COLUMNS = ("_log_partition", "_log_offset", "_arrived_at")
_FIRST_COLUMNS = ("_first_partition", "_first_offset")  # of a changelog: a replay stands where it first stood

Readable = Contract | Source | Table


class TableInput(msgspec.Struct, frozen=True):
    """One thing that a table reads, at one version.

    Attributes:
        name: the table in the lake, or the source.
        version: the snapshot, or the digest of the files (`sha256:...`).
        day_column: the column by whose UTC day it is partitioned, or None.
        clock: the latest arrival it knows of, in microseconds since 1970, or None.
    """

    name: str
    version: SnapshotPosition | str
    day_column: str | None = None
    clock: int | None = None

    @property
    def snapshot(self) -> int | None:
        """The snapshot's id, or None for files."""
        return self.version.snapshot_id if isinstance(self.version, SnapshotPosition) else None


def input_name(one: Readable) -> str:
    """The name of the input's table in the lake, or of the source."""
    return one.table if isinstance(one, Contract) else one.name


def good_rows(one: Readable) -> dict[str, object]:
    """The partition values that a table's function may see of this input."""
    return {"_valid": True} if isinstance(one, Contract) else {}


def resolve_input(project: Project, lake: Lake, one: Readable, snapshot: int | None = None) -> TableInput:
    """The input as it now is, or at a snapshot.

    Raises:
        CallError: its table is not there, or holds no snapshot yet.
        ProjectError: a source's files are not there.
    """
    if isinstance(one, Source):
        return TableInput(one.name, digest_of(project, one))
    table = lake.table(input_name(one))
    found = table.current_snapshot() if snapshot is None else table.snapshot(snapshot)
    if found is None:
        raise CallError(
            f"table {table.name!r} has no rows yet",
            remedy="headrace ingest fills a topic's table, headrace build the others.",
        )
    if isinstance(one, Contract):
        column: str | None = one.time
    else:
        column = None if one.partition_by is None else one.partition_by.column
    return TableInput(table.name, SnapshotPosition(table.name, found.id), column, _clock(table, found))


def _clock(table: LakeTable, snapshot: Snapshot) -> int | None:
    if LATEST_ARRIVAL in snapshot.summary:
        return int(snapshot.summary[LATEST_ARRIVAL])
    # Another engine's commit does not carry it on: the last one before it that had it tells.
    known = [s for s in table.snapshots() if LATEST_ARRIVAL in s.summary and s.at <= snapshot.at]
    return int(known[-1].summary[LATEST_ARRIVAL]) if known else None


def read_input(project: Project, lake: Lake, one: Readable, snapshot: int | None = None) -> pl.LazyFrame:
    """The rows of an input, not yet read.

    A topic gives its good rows: the contract's fields in their order, then `_log_partition` (Int32),
    `_log_offset` (Int64) and `_arrived_at` (Datetime us, UTC); under @changes also `_first_partition` and
    `_first_offset`, which only a replay has. The order of rows is not fixed.

    Args:
        project: whose files a source means.
        lake: where tables are.
        one: a contract, a source or a table.
        snapshot: of a table or topic; default the newest.

    Raises:
        CallError: there is no such table or snapshot.
        ProjectError: a source's files are not there.
    """
    if isinstance(one, Source):
        return read_files(project, one)
    table = lake.table(input_name(one))
    frame = table.scan(snapshot)
    if isinstance(one, Table):
        return frame
    stored = frame.collect_schema()
    now = pl.LazyFrame(pl.from_arrow(table.schema().empty_table())).collect_schema()
    columns = [*(f.name for f in msgspec.structs.fields(one.struct)), *_LOG_COLUMNS]
    columns += _FIRST_COLUMNS if one.row_key else ()
    lost = [name for name in columns if name not in now]
    if lost:
        raise CallError(
            f"the table of topic {one.topic!r} does not have {', '.join(lost)} yet",
            where=str(one.place),
            remedy="headrace ingest makes its table follow the contract.",
        )
    return frame.filter(pl.col("_valid")).select(
        # A field that the contract has got since this snapshot is null in it.
        pl.col(name) if name in stored else pl.lit(None, dtype=now[name]).alias(name)
        for name in columns
    )


def select_days(frame: pl.LazyFrame, column: str, first: date, last: date) -> pl.LazyFrame:
    """The rows whose `column` (a date, or an instant) lies in the days from `first` to `last`."""
    dtype = frame.collect_schema()[column]
    if isinstance(dtype, pl.Datetime):
        zone = None if dtype.time_zone is None else UTC
        bounds = [pl.col(column) >= _local(datetime.combine(first, time(), zone), dtype)]
        if last < date.max:  # no instant lies behind that
            next_day = datetime.combine(add_days(last, ONE_DAY), time(), zone)
            bounds.append(pl.col(column) < _local(next_day, dtype))
        return frame.filter(bounds)
    return frame.filter((pl.col(column) >= first) & (pl.col(column) <= last))


def _local(instant: datetime, dtype: pl.Datetime) -> pl.Expr:
    """The instant in the column's own zone."""
    literal = pl.lit(instant)
    return literal if dtype.time_zone in (None, "UTC") else literal.dt.convert_time_zone(str(dtype.time_zone))
