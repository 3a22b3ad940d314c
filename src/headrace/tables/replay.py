"""Replays tables: makes them once more from rows that were changed after an instant, in a lake of their own.

The tables are made as a build makes them, partition by partition, so that a function sees what it would see
there. Nothing is recorded, audited or published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import attrs
import msgspec
import polars as pl

from headrace import lake as lakes
from headrace.declare.event import Contract
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.kernel.errors import CallError
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.lake import Lake, VisibleTables
from headrace.projects.project import Project
from headrace.tables.call import concat_results
from headrace.tables.parts import compute_piece, divide
from headrace.tables.plan import plan_rebuild
from headrace.tables.read import input_name, read_input

__all__ = ["BaseRows", "read_base_rows", "replay_tables"]

_MOMENT = "event_timestamp"
_INSTANT = pl.Datetime("us", "UTC")
_AT = "__at"
_FIXED = "_"  # the first letter of the columns that say where an event came from: they stay with its time


class BaseRows(msgspec.Struct, frozen=True):
    """The rows that tables are made from: those of a topic, of a source, or of a database's query.

    Attributes:
        name: the name of the table that holds them in the lake of a replay.
        rows: all rows.
        time: the column with the time of a row; None: it has none that is known, and no row is changed.
        fixed: the columns that are not shuffled.
        is_changelog: whether the rows are changes of a database's rows: these are left out, never shuffled.
        arrival: the latest arrival, microseconds: what a function's `now` is made from.
    """

    name: str
    rows: pl.DataFrame
    time: str | None
    fixed: tuple[str, ...] = ()
    is_changelog: bool = False
    arrival: str | None = None

    def change_after(self, moment: datetime, seed: int | None) -> pl.DataFrame:
        """The rows, of which those after the moment are other ones: half of them are left out, and each column
        of the others is shuffled by itself. Without a seed all are left out."""
        if self.time is None:
            return self.rows
        rows = self.rows.with_columns(_instants(self.rows[self.time]).alias(_AT))
        is_later = (pl.col(_AT) > moment).fill_null(value=False)
        kept, later = rows.filter(~is_later).drop(_AT), rows.filter(is_later).drop(_AT)
        if seed is None or self.is_changelog:
            return kept
        later = later.sample(fraction=0.5, seed=seed)
        free = [name for name in later.columns if name not in self.fixed and not name.startswith(_FIXED)]
        shuffled_columns = [later[name].shuffle(seed=seed + place) for place, name in enumerate(free)]
        return pl.concat([kept, later.with_columns(shuffled_columns)])


def read_base_rows(project: Project, lake: Lake, names: Iterable[str]) -> list[BaseRows]:
    """The rows that these tables are made from: of tables that builds make, what readers see; of topics the
    newest rows.

    Args:
        project, lake: the project and its lake.
        names: tables of functions, queries or topics.

    Raises:
        CallError: a table has not been built yet, or the project does not have it.
        ProjectError: a source cannot be read.
    """
    base: dict[str, BaseRows] = {}
    visible = VisibleTables(lake)
    for declared in _needed(project, names):
        if isinstance(declared, Contract):
            stored = lake.table(declared.table)
            head = stored.current_snapshot()
            arrival = None if head is None else head.summary.get(LATEST_ARRIVAL)
            rows = stored.scan().filter("_valid").collect()
            base[declared.table] = BaseRows(
                declared.table, rows, declared.time, (declared.time,), bool(declared.row_key), arrival
            )
        elif _is_kept(declared):
            rows = visible.scan(declared.name).collect()
            time = _time_of(declared, rows)
            base[declared.name] = BaseRows(declared.name, rows, time, () if time is None else (time,))
        else:
            for source in project.inputs(declared):
                if not isinstance(source, Source):
                    continue
                name = _name_of(source)
                known = base.get(name)
                if known is None or known.time is None:  # each table may know the time by another column
                    rows = read_input(project, lake, source).collect() if known is None else known.rows
                    time = _time_of(declared, rows)
                    base[name] = BaseRows(name, rows, time, () if time is None else (time,))
    return list(base.values())


def replay_tables(
    project: Project, names: Iterable[str], base: Sequence[tuple[BaseRows, pl.DataFrame]], scratch: Path
) -> Lake:
    """Makes the tables from these rows, in a lake of their own, which has the good rows of topics.

    Args:
        project: the project.
        names: the tables.
        base: the base rows of these tables (`read_base_rows`), each with the rows to make the tables from.
        scratch: an empty folder for the lake of the replay.

    Raises:
        ProjectError: a function failed.
    """
    settings = project.settings.with_state(scratch).with_values(catalog="sqlite", warehouse="file")
    settings.make_state()
    lake = lakes.open(settings)
    for rows, changed in base:
        facts = {} if rows.arrival is None else {LATEST_ARRIVAL: rows.arrival}
        _write(lake, rows.name, changed, facts)
    tables = {name: _as_replayed(table) for name, table in project.tables.items()}
    replayed = msgspec.structs.replace(project, tables=tables)
    for declared in _needed(project, names):
        if isinstance(declared, Contract) or _is_kept(declared):
            continue
        table = tables[declared.name]
        plan = plan_rebuild(replayed, lake, table, code="")
        parts = [
            pl.DataFrame(compute_piece(replayed, lake, table, plan, piece).rows)
            for piece in divide(lake, table, plan)
        ]
        facts = {} if plan.clock is None else {LATEST_ARRIVAL: str(plan.clock)}
        _write(lake, table.name, concat_results(table, parts) if parts else None, facts)
    return lake


def _needed(project: Project, names: Iterable[str]) -> list[Contract | Table]:
    """The topics and tables that these tables are made from, and these; each after those that it reads."""
    topics = {contract.table: contract for contract in project.contracts.values()}
    wanted, missing = set[str](), list(names)
    while missing:
        name = missing.pop()
        if name in wanted:
            continue
        if name not in topics and name not in project.tables:
            raise CallError(f"the project has no table {name!r}", remedy="headrace build")
        wanted.add(name)
        if name in project.tables and not _is_kept(project.tables[name]):
            reads = project.inputs(project.tables[name])
            missing += [input_name(read) for read in reads if not isinstance(read, Source)]
    tables = [table for name, table in project.tables.items() if name in wanted]
    return [*(contract for name, contract in topics.items() if name in wanted), *tables]


def _is_kept(table: Table) -> bool:
    """Whether no function makes the table: its rows are taken as they are."""
    return table.query is not None or table.current


def _name_of(source: Source) -> str:
    return f"source_{source.name}"


def _as_replayed(table: Table) -> Table:
    """The table, without audits, that reads the rows of its sources from the lake of the replay."""
    reads = [_table_of(read) if isinstance(read, Source) else read for read in table.reads]
    return attrs.evolve(table, schema=None, audits=(), reads=tuple(reads))


def _table_of(source: Source) -> Table:
    """A table in place of a source; no function makes it."""
    return Table(name=_name_of(source), function=pl.LazyFrame, reads=(), place=source.place)


def _time_of(table: Table, rows: pl.DataFrame) -> str | None:
    """The column of the rows that has the time of the table's rows, as a view takes it by default."""
    partitioning = table.partition_by
    names = [_MOMENT, *([partitioning.column] if partitioning is not None and partitioning.is_time else [])]
    columns = {name.casefold(): name for name in rows.columns}
    for name in names:
        column = columns.get(name.casefold())
        if column is not None and _instants(rows[column]).count():
            return column
    return None


def _instants(column: pl.Series) -> pl.Series:
    """The instants of a column of times, dates or text; null where it has none."""
    dtype = column.dtype
    if dtype == pl.String:
        return column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if dtype in (pl.Date, pl.Datetime):
        return column.cast(_INSTANT)
    return pl.Series([None] * len(column), dtype=_INSTANT)


def _write(lake: Lake, name: str, rows: pl.DataFrame | None, facts: dict[str, str]) -> None:
    """Writes a table whole."""
    if rows is not None:
        written = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        lake.ensure(name, written.schema, exact=True).overwrite(written, facts=facts)
