"""Runs a table's function on one partition, or on a part of its input, without publishing the rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs
import msgspec
import polars as pl

from headrace.declare.partitioning import Partitioning, name_partition
from headrace.declare.table import Table
from headrace.kernel.errors import CallError, ProjectError, Refused
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.audits.rows import RowsRefused, audit
from headrace.tables.call import call_function, collect_frames
from headrace.tables.failures import spell_row
from headrace.tables.partitions import partition_numbers, select_partitions
from headrace.tables.parts import function_options
from headrace.tables.plan import RebuildPlan, plan_rebuild
from headrace.tables.read import read_input

__all__ = ["Attempt", "RowDifference", "attempt_table", "compare_rows"]

_COUNT = "__count"
_NUMBER = "__number"


class RowDifference(msgspec.Struct, frozen=True):
    """How rows differ from others, which are published.

    Attributes:
        added, removed: how many rows only the new, or only the published ones have; a changed row is in both.
        examples: some of them, each with `+` or `-` first.
        columns: columns that were added (`+name type`), removed (`-name type`) or have another type.
    """

    added: int
    removed: int
    examples: list[str]
    columns: list[str]


@attrs.frozen
class Attempt:
    """The rows that a function made of a partition.

    Attributes:
        table: the table.
        number: the partition; None: the table has none.
        partial: whether only some rows of the input were read.
        inputs: the rows of each input that the function read, by the name of the input.
        options: `now`, if the function takes it.
        rows: the rows of the partition.
        stored: the rows with the types that the lake would store.
        refusal: why the audit or the lake refuses them; None: they do not.
        published: the published rows of the partition; None: the table was never published.
    """

    table: Table
    number: int | None
    partial: bool
    inputs: Mapping[str, pl.DataFrame]
    options: Mapping[str, datetime]
    rows: pl.DataFrame
    stored: pl.DataFrame
    refusal: str | None
    published: pl.DataFrame | None

    @property
    def partition(self) -> str | None:
        """The partition's name; None: the table has none."""
        partitioning = self.table.partition_by
        return (
            None if partitioning is None or self.number is None else name_partition(partitioning, self.number)
        )

    def call(self) -> pl.DataFrame:
        """All rows that the function makes of the input when it is called once more."""
        frames = [rows.lazy() for rows in self.inputs.values()]
        return collect_frames(self.table, [call_function(self.table, frames, self.options)])[0]

    def keep_partition(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of the partition."""
        partitioning = self.table.partition_by
        if partitioning is None or partitioning.column not in rows.columns or self.number is None:
            return rows
        numbers = partition_numbers(partitioning, partitioning.column, rows.schema[partitioning.column])
        return rows.filter(numbers == self.number)


def attempt_table(
    project: Project, lake: Lake, table: Table, *, partition: str | None = None, limit: int | None = None
) -> Attempt:
    """Runs the table's function on a partition, with the newest snapshots of its inputs. Publishes nothing.

    Args:
        project, lake: the project and the lake of the table.
        table: the declared table.
        partition: the partition's name; default: the last one that the inputs have rows for, or all rows if
            no input is read by partitions.
        limit: how many rows of each input are read at most; None: all of the partition's.

    Raises:
        CallError: an input does not exist, or the table has no such partition.
        ProjectError: the function failed.
    """
    plan = plan_rebuild(project, lake, table, code="")
    number = _choose_partition(table, plan, partition)
    inputs = _read(project, lake, table, plan, number)
    if limit is not None:
        inputs = _limit(inputs, limit)
    collected = dict(zip(inputs, collect_frames(table, list(inputs.values())), strict=True))
    options = function_options(table, plan)
    partitioning = table.partition_by
    attempt = Attempt(
        table, number, limit is not None, collected, options, pl.DataFrame(), pl.DataFrame(), None, None
    )
    rows = attempt.call()
    if partition is not None and number is None and partitioning is not None:
        number = _find_partition(table, partitioning, rows, partition, limit)
        attempt = attrs.evolve(attempt, number=number)
    rows = attempt.keep_partition(rows)
    refusal = None
    try:
        rows = audit(table, rows)
    except RowsRefused as error:
        refusal = "\n  ".join([f"{error.rules}, for example:", *map(spell_row, error.examples)])
    except Refused as error:
        refusal = error.what
    stored_rows = rows
    try:
        stored_rows = rows.cast(_stored_types(lake, table, rows))
    except ProjectError as error:
        refusal = refusal or f"{error.what}: {error.where}"
    published = None
    if lake.table_exists(table.name) and lake.table(table.name).current_snapshot() is not None:
        stored = lake.table(table.name).scan()
        if partitioning is not None and number is not None and partitioning.column in stored.collect_schema():
            stored = select_partitions(stored, partitioning, partitioning.column, number, number)
        published = stored.collect()
    return attrs.evolve(attempt, rows=rows, stored=stored_rows, refusal=refusal, published=published)


def compare_rows(rows: pl.DataFrame, published: pl.DataFrame, examples: int = 3) -> RowDifference:
    """Compares rows with others, whatever their order; only the columns that both have with one type."""
    new, old = rows.schema, published.schema
    columns = [f"+{name} {dtype}" for name, dtype in new.items() if name not in old]
    columns += [f"-{name} {dtype}" for name, dtype in old.items() if name not in new]
    columns += [f"{n} {old[n]} -> {dtype}" for n, dtype in new.items() if n in old and old[n] != dtype]
    shared = [name for name, dtype in new.items() if old.get(name) == dtype]
    if not shared:
        return RowDifference(rows.height, published.height, [], columns)
    both = pl.concat(
        [
            published.select(shared).with_columns(pl.lit(-1).alias(_COUNT)),
            rows.select(shared).with_columns(pl.lit(1).alias(_COUNT)),
        ]
    )
    changed = both.group_by(shared).agg(pl.col(_COUNT).sum()).filter(pl.col(_COUNT) != 0).sort(shared[0])
    signs = ["+" if count > 0 else "-" for count in changed[_COUNT]]
    shown = changed.drop(_COUNT).head(2 * examples).to_dicts()
    return RowDifference(
        added=int(changed[_COUNT].clip(0).sum()),
        removed=int(-changed[_COUNT].clip(upper_bound=0).sum()),
        examples=[f"{sign} {spell_row(row)}" for sign, row in zip(signs, shown, strict=False)],
        columns=columns,
    )


def _stored_types(lake: Lake, table: Table, rows: pl.DataFrame) -> pl.Schema:
    schema = rows.head(0).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    return pl.Schema(lake.stored_schema(table.name, schema))


def _choose_partition(table: Table, plan: RebuildPlan, name: str | None) -> int | None:
    partitioning = table.partition_by
    if partitioning is None:
        if name is not None:
            raise CallError(f"table {table.name} has no partitions", remedy="Leave out --partition.")
        return None
    if all(source.column is None for source in plan.inputs):
        return None  # only the rows that the function makes say which partitions there are
    names = {name_partition(partitioning, number): number for number in sorted(partitioning.spread(plan.rows))}
    if name is None:
        return max(plan.rows) if plan.rows else None
    if name not in names:
        known = f"{next(iter(names))} to {list(names)[-1]}" if names else "none: its inputs have no rows"
        raise CallError(f"table {table.name} has no partition {name!r}", remedy=f"It has {known}.")
    return names[name]


def _find_partition(
    table: Table, partitioning: Partitioning, rows: pl.DataFrame, name: str, limit: int | None
) -> int | None:
    """The partition of this name among those of the rows; None: they lack its column."""
    if partitioning.column not in rows.columns:
        return None
    numbers = partition_numbers(partitioning, partitioning.column, rows.schema[partitioning.column])
    names: dict[str, int] = {
        name_partition(partitioning, number): number
        for number in rows.select(numbers.alias(_NUMBER))[_NUMBER].drop_nulls().unique().sort()
    }
    if name not in names:
        read = "its function" if limit is None else f"{limit} rows of its input"
        known = f"{next(iter(names))} to {list(names)[-1]}" if names else "in no partition"
        raise CallError(
            f"table {table.name} has no partition {name!r}", remedy=f"The rows made by {read} are of {known}."
        )
    return names[name]


def _read(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, number: int | None
) -> dict[str, pl.LazyFrame]:
    """The input of the partition, by the names of the inputs."""
    partitioning, frames = table.partition_by, {}
    for declared, source in zip(project.inputs(table), plan.inputs, strict=True):
        frame = read_input(project, lake, declared, source.snapshot)
        if partitioning is not None and source.column is not None and number is not None:
            window = partitioning.window(number, number)
            frame = select_partitions(frame, partitioning, source.column, *window)
        frames[source.name] = frame
    return frames


def _limit(inputs: Mapping[str, pl.LazyFrame], limit: int) -> dict[str, pl.LazyFrame]:
    """Some rows of the first input, and the rows of the others that belong to them."""
    limited: dict[str, pl.LazyFrame] = {}
    for name, frame in inputs.items():
        first = next(iter(limited.values()), None)
        rows = frame.head(limit).collect() if first is None else _matching_rows(first, frame, limit)
        limited[name] = rows.lazy()
    return limited


def _matching_rows(first: pl.LazyFrame, frame: pl.LazyFrame, limit: int) -> pl.DataFrame:
    """Rows that have the same values as the first input in the columns of both, or in one of these columns.

    The times of two inputs differ, so they do not say which rows belong together; nor do measured numbers.
    """
    columns = first.collect_schema()
    shared = [
        column
        for column, dtype in frame.collect_schema().items()
        if columns.get(column) == dtype and not dtype.is_temporal() and not dtype.is_float()
    ]
    for keys in (shared, *([column] for column in shared)):
        if keys:
            rows = frame.join(first.select(keys).unique(), on=keys, how="semi").head(limit).collect()
            if len(rows):
                return rows
    return frame.head(limit).collect()
