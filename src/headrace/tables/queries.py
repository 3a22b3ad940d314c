"""Makes the table of a query: reads the database whole or from a cursor on, and commits what changed.

The cursor is the highest one among the table's rows, so it is committed with them: a build that is killed
leaves the old rows and the old cursor, or the new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import polars as pl
import pyarrow as pa

from headrace.declare.query import Query
from headrace.declare.table import Table
from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError, Refused
from headrace.kernel.faults import reach
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.properties import AUDIT, CODE, QUERY_ROWS
from headrace.kernel.run import Dataset, run
from headrace.kernel.scratch import make_scratch
from headrace.lake import Lake, LakeTable, Snapshot
from headrace.lake.datasets import find_dataset, table_dataset
from headrace.lake.reading.parquet import scan_parquet
from headrace.lake.schema import stored_schema
from headrace.projects.project import Project
from headrace.tables.audits.report import AuditReport
from headrace.tables.audits.rows import RowsRefused
from headrace.tables.audits.rows import audit as audit_rows
from headrace.tables.audits.run import PublishedRows, TableAudit, read_references
from headrace.tables.csv_types import as_type
from headrace.tables.databases import Database, open_database
from headrace.tables.failures import describe_row, spell_value

__all__ = ["QueryBuild", "build_query"]

_BATCH = 100_000  # rows that are written at once
_Outcome: TypeAlias = tuple[Snapshot, str, AuditReport | None]
"""The table's snapshot; what was done, in words; the report of its rows' audit, None: there is none."""


class QueryBuild(msgspec.Struct, frozen=True):
    """What a build of a query's table did.

    Attributes:
        snapshot: the table's current snapshot.
        rows: how many rows the table has.
        what: what was done, in words.
        warnings: what the audit found, and published.
    """

    snapshot: int
    rows: int
    what: str
    warnings: list[str] = []


def build_query(
    project: Project,
    lake: Lake,
    table: Table,
    *,
    code: str,
    audits: str = "",
    at: Mapping[str, int] | None = None,
) -> QueryBuild:
    """Reads the database, audits the table as it will be, and commits the rows that changed, if any.

    Args:
        project, lake: the project and the lake of the table.
        table: the table, declared by declare.query.
        code: the fingerprint of its code; if it has changed, all rows are read.
        audits: the digest of its declared audits; if it has changed, rows that have not are audited again.
        at: table that its audits read → the snapshot to read; the newest for tables that it lacks.

    Raises:
        ProjectError: the database has no address, refuses the query, or returns a value that is not of its
            declared type.
        Refused: the audit refused the rows, a row has no cursor, or two rows have the same key.
        Conflict: another build has committed to the table in the meantime.
        Unavailable: the database or the catalog cannot be reached.
    """
    query = table.query
    assert query is not None
    stored = lake.table(table.name) if lake.table_exists(table.name) else None
    before = None if stored is None else stored.current_snapshot()
    is_whole = query.cursor is None or stored is None or before is None or stored.property(CODE) != code
    audit = TableAudit(lake, table, audits, read_references(lake, table, at), PublishedRows.of(lake, table))
    source = Dataset("table", f"{query.database}.{table.name}", facts={"sql": query.sql})
    with (
        run(f"table {table.name}", inputs=[source], writes=find_dataset(lake, table.name)) as table_run,
        open_database(project.settings, query.database, str(table.place)) as database,
    ):
        try:
            update = None if is_whole or stored is None else _update(audit, query, database, stored)
            snapshot, what, report = update or _replace_all(project, audit, query, database, stored, code)
        except RowsRefused as refused:
            audit.keep_refused(refused)
            raise
        table_run.add_output(table_dataset(table.name, lake.table(table.name).schema(), snapshot))
    if report is not None:  # a report of before may not be recorded: its build may have been killed
        audit.record(report, SnapshotPosition(table.name, snapshot.id))
    return QueryBuild(snapshot.id, snapshot.rows, what, [] if report is None else report.failures)


def _replace_all(
    project: Project,
    audit: TableAudit,
    query: Query,
    database: Database,
    stored: LakeTable | None,
    code: str,
) -> _Outcome:
    """Reads all rows, and replaces the table unless it has the same ones."""
    table = audit.table
    with make_scratch(project.settings.make_state() / "scratch") as folder:
        files, digest, rows = _spill(folder, _batches(table, query, database.read(query.sql)))
        recorded = None if stored is None else stored.property(QUERY_ROWS)
        if stored is not None and recorded == digest and stored.property(CODE) == code:
            return _keep(audit, stored, f"read {plural(rows, 'row')}, and none has changed")
        if query.cursor is not None:
            _check_keys(table, query, scan_parquet(files))
        written = audit.lake.ensure(table.name, _arrow(pl.read_parquet(files[0], n_rows=0)).schema, exact=True)
        return _commit(
            audit,
            written,
            (pl.read_parquet(file, glob=False) for file in files),
            {CODE: code, QUERY_ROWS: digest},
            {CODE: None if stored is None else stored.property(CODE), QUERY_ROWS: recorded},
            f"read all {plural(rows, 'row')}",
        )


def _keep(audit: TableAudit, stored: LakeTable, what: str) -> _Outcome:
    """The table as it is, audited again if what its audits depend on has changed."""
    report = audit.check_published(stored) if audit.is_due else None
    if report is not None:
        stored.set_properties({AUDIT: report.encode()})
    current = stored.current_snapshot()
    assert current is not None
    return current, what, audit.published.report if report is None else report


def _commit(
    audit: TableAudit,
    stored: LakeTable,
    rows: Iterable[pl.DataFrame],
    properties: dict[str, str],
    expect: Mapping[str, str | None],
    what: str,
) -> _Outcome:
    """Writes all rows of the table, audits them, and commits them. Files of refused rows become orphans."""
    files = stored.write(_arrow(part) for part in rows)
    report = audit.check_whole(stored, files)
    properties |= {} if report is None else {AUDIT: report.encode()}
    reach("tables.after_audit")
    return stored.overwrite(files, facts=properties, properties=properties, expect=expect), what, report


def _update(audit: TableAudit, query: Query, database: Database, stored: LakeTable) -> _Outcome | None:
    """Reads the rows from the cursor on, which replace those of the same range and those of the same keys.

    Returns None if they have other columns than the table, or of other types: then all rows must be read.
    """
    table, cursor, recorded = audit.table, query.cursor, stored.property(QUERY_ROWS)
    assert cursor is not None
    frame = stored.scan()
    start = _start(table, query, frame)
    since = None if start is None else (cursor, start)
    batches = _batches(table, query, database.read(query.sql, since=since))
    rows = _as_stored(pl.concat(batches), stored)
    if rows is None:
        return None
    _check_keys(table, query, rows.lazy())
    replaced = pl.lit(True) if start is None else pl.col(cursor) >= start
    if query.key:
        keys = rows.select(query.key).with_columns(__read=True).lazy()
        frame = frame.join(keys, on=list(query.key), how="left", nulls_equal=True)
        replaced |= pl.col("__read").is_not_null()
    columns = rows.columns
    gone = frame.filter(replaced).select(columns).collect()
    current = stored.current_snapshot()
    assert current is not None
    since_text = "" if start is None else f" from {cursor} {start} on"
    if _digest(gone) == _digest(rows):
        return _keep(audit, stored, f"read {plural(len(rows), 'row')}{since_text}, and none has changed")
    kept = frame.filter(~replaced).select(columns).collect_batches(chunk_size=_BATCH)
    properties = {CODE: stored.property(CODE) or "", QUERY_ROWS: f"{current.id} {_digest(rows)}"}
    expect = {CODE: properties[CODE], QUERY_ROWS: recorded}
    return _commit(
        audit,
        stored,
        _chain(rows, kept),
        properties,
        expect,
        f"read {plural(len(rows), 'row')}{since_text}",
    )


def _as_stored(rows: pl.DataFrame, stored: LakeTable) -> pl.DataFrame | None:
    """The rows, if they have the table's columns with their types; otherwise None.

    A column of nulls has the table's type: SQLite knows only the types of values.
    """
    schema, empty = stored.schema(), [name for name in rows.columns if rows[name].null_count() == len(rows)]
    if set(schema.names) != set(rows.columns):
        return None
    dtypes = pl.Schema(schema)
    filled = rows.with_columns(pl.lit(None, dtypes[name]).alias(name) for name in empty)
    own = stored_schema(_arrow(filled).schema, stored.name)
    return filled if all(own.field(name).type == schema.field(name).type for name in schema.names) else None


def _chain(first: pl.DataFrame, others: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    yield first
    yield from others


def _start(table: Table, query: Query, frame: pl.LazyFrame) -> Any:
    """The least cursor value to read: the highest in the table less the overlap; None if the table is empty."""
    highest = frame.select(pl.col(query.cursor or "").max()).collect().item()
    if highest is None or query.overlap == 0:
        return highest
    is_number = isinstance(highest, int)
    if isinstance(highest, str) or is_number != isinstance(query.overlap, int):
        raise ProjectError(
            f"overlap={query.overlap!r} cannot be taken from {query.cursor} {highest!r}",
            where=str(table.place),
            remedy='A number for a number, a duration such as "10m" for a time, 0 for a text.',
        )
    if isinstance(query.overlap, timedelta) and not hasattr(highest, "hour"):  # a date
        return highest - timedelta(days=-(-query.overlap // timedelta(days=1)))
    return highest - query.overlap


def _check_keys(table: Table, query: Query, rows: pl.LazyFrame) -> None:
    """Checks that every row has a cursor and a key of its own."""
    assert query.cursor is not None
    missing = rows.select(pl.col(query.cursor).is_null().sum()).collect().item()
    if missing:
        raise Refused(
            f"column {query.cursor} is null in {plural(missing, 'row')} of the query: without it no row can be"
            " read incrementally",
            where=str(table.place),
            remedy="Leave them out in the query, or read it without cursor=.",
        )
    if query.key:
        twice = rows.select(query.key).filter(pl.struct(pl.all()).is_duplicated()).head(1).collect()
        if len(twice):
            raise Refused(
                f"two rows of the query have the key {describe_row(twice.row(0, named=True))}",
                where=str(table.place),
                remedy="Name the columns that identify a row: key=.",
            )


def _batches(table: Table, query: Query, frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The audited rows, with the declared types."""
    where = f"{table.place}: {query.sql[:80]!r}"
    for frame in frames:
        wanted = {*query.schema, *query.key, *([query.cursor] if query.cursor else [])}
        for name in sorted(wanted - set(frame.columns)):
            remedy = f"Its columns are {', '.join(frame.columns)}."
            raise ProjectError(f"the query has no column {name!r}", where=where, remedy=remedy)
        typed = frame.with_columns(
            _convert(frame[name], dtype, where)
            for name, dtype in query.schema.items()
            if frame[name].dtype != dtype
        )
        yield audit_rows(table, typed)


def _convert(values: pl.Series, dtype: pl.DataType, where: str) -> pl.Series:
    """The values as the declared type, exactly."""
    name, own = values.name, values.dtype
    if own == pl.String:
        typed = values.to_frame().select(as_type(name, dtype)).to_series()
        wrong = values.filter(typed.is_null() & values.is_not_null())
    else:
        typed = values.cast(dtype, strict=False)
        same = typed.cast(own, strict=False) == values
        exact = own.is_numeric() or own.is_temporal() or dtype == pl.String
        wrong = values.filter(values.is_not_null() & ~(same.fill_null(False))) if exact else values.drop_nulls()
    if len(wrong):
        raise ProjectError(
            f"column {name!r} is declared as {dtype}, and {spell_value(wrong[0])} is not a valid value",
            where=where,
            remedy="Correct the schema=, or convert the column in the query.",
        )
    return typed


def _spill(folder: Path, frames: Iterable[pl.DataFrame]) -> tuple[list[Path], str, int]:
    """Writes the frames to files of the folder. Returns these, the digest of all rows, and their number."""
    files: list[Path] = []
    total, rows = 0, 0
    for frame in frames:
        files.append(folder / f"{len(files)}.parquet")
        frame.write_parquet(files[-1], compression="lz4")
        total += _sum_of_hashes(frame)
        rows += len(frame)
    return files, _text(total, rows), rows


def _digest(rows: pl.DataFrame) -> str:
    """A digest of the rows, whatever their order."""
    return _text(_sum_of_hashes(rows), len(rows))


def _sum_of_hashes(rows: pl.DataFrame) -> int:
    halves = (rows.hash_rows(seed) for seed in (17, 29))
    low, high = (int(half.cast(pl.Int128).sum()) for half in halves)
    return low | high << 128


def _text(total: int, rows: int) -> str:
    return f"{rows}-{total:x}"


def _arrow(rows: pl.DataFrame) -> pa.Table:
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest())
