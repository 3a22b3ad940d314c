"""Makes the rows of output partitions, and checks that no row is lost.

A function is called with a window of input partitions, and only the rows of the requested partitions are kept,
because the calls for the other partitions make the others. If the call for a row's partition does not read the
input that the row was made from, the table would lack that row. So such a row is refused, not dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl

from headrace.declare.partitioning import Partitioning, name_partition
from headrace.declare.table import Table
from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError, Refused
from headrace.tables.call import call_function, collect_frames, concat_results
from headrace.tables.partitions import input_numbers, is_key, is_moment, select_partitions
from headrace.tables.plan import RebuildPlan, spell_partitions
from headrace.tables.rowwise import RowwiseCalls

__all__ = ["check_partition_column", "make_partitions", "refuse_lost_rows"]

_NAMED = 3  # partitions that an error names
_NUMBER = "__number"


class _Call(NamedTuple):
    """One call of the function.

    Attributes:
        first, last: the first and the last input partition that it reads.
        earliest, latest: the first and the last partition that its rows may be in: the calls for these read
            some of the same input.
        keep: the first and the last partition whose rows are kept.
    """

    first: int
    last: int
    earliest: int
    latest: int
    keep: tuple[int, int]


def make_partitions(
    table: Table,
    partitioning: Partitioning,
    plan: RebuildPlan,
    frames: Sequence[pl.LazyFrame],
    options: Mapping[str, datetime],
    group: Sequence[int],
    rowwise: RowwiseCalls | None = None,
) -> pl.DataFrame:
    """Makes the rows of neighbouring output partitions.

    Each partition is made from its own input alone, whichever other partitions are made with it. So an
    incremental build gives the same rows as one from scratch. A rowwise function is called once for each input
    partition, any other function once for each output partition.

    Args:
        table: the declared table, partitioned by `partitioning`.
        partitioning: its partitioning.
        plan: which partitions to make, from which partitions of the input.
        frames: the inputs of the function, in the order of `plan.inputs`.
        options: `now`, if the function takes it.
        group: the output partitions, in order, without a gap.
        rowwise: calls the function of a rowwise table, and notes the rows that it fails on.

    Raises:
        ProjectError: the function failed, or does not return the column of the partition.
        Refused: rows have no partition, or are in one that is not made from the input that they come from.
    """
    begin, end = partitioning.window(group[0], group[-1])
    read = _read_inputs(table, partitioning, plan, frames, begin, end)
    if rowwise:
        calls = _rowwise_calls(partitioning, plan, group, begin, end)
    else:
        calls = _partition_calls(partitioning, group)
    results = _collect_calls(table, partitioning, calls, read, options, rowwise)
    outputs = partitioning.spread(plan.rows)
    lost: dict[tuple[_Call, int], int] = {}
    kept = []
    if not partitioning.is_time:
        _check_keys(table, partitioning, results[0].schema, frames, plan)
    for call, rows in zip(calls, results, strict=True):
        check_partition_column(table, partitioning, rows)
        for number, count in _count_partitions(rows, partitioning).items():
            if not call.earliest <= number <= call.latest or number not in outputs:
                lost[call, number] = count
        numbers = _numbers(rows, partitioning, partitioning.column)
        kept.append(rows.filter(numbers.is_between(*call.keep)))
    if lost:
        raise _refusal(table, partitioning, plan, lost, sum(len(rows) for rows in kept))
    return concat_results(table, kept, f" ({spell_partitions(partitioning, group)})")


def _collect_calls(
    table: Table,
    partitioning: Partitioning,
    calls: Sequence[_Call],
    read: Callable[[_Call], list[pl.LazyFrame]],
    options: Mapping[str, datetime],
    rowwise: RowwiseCalls | None,
) -> list[pl.DataFrame]:
    """The rows of each call; if the function fails, without the rows of the input that it fails on.

    The calls run together. If one fails, they run one by one, so that the error names the partition.
    """
    try:
        return collect_frames(table, [call_function(table, read(call), options) for call in calls])
    except ProjectError:
        if rowwise is not None:
            names = [name_partition(partitioning, call.first) for call in calls]
            return [
                rowwise.call(read(call)[0].collect(), name) for call, name in zip(calls, names, strict=True)
            ]
    results = []
    for call in calls:
        try:
            results += collect_frames(table, [call_function(table, read(call), options)])
        except ProjectError as error:
            partition = name_partition(partitioning, call.keep[0])
            alone = f"headrace try {table.name} --partition {partition} runs it alone, without publishing."
            raise ProjectError(
                f"{error.what} (in partition {partition})",
                where=error.where,
                remedy=alone if error.remedy is None else f"{error.remedy}\n{alone}",
            ) from error
    return results


def _read_inputs(
    table: Table,
    partitioning: Partitioning,
    plan: RebuildPlan,
    frames: Sequence[pl.LazyFrame],
    begin: int,
    end: int,
) -> Callable[[_Call], list[pl.LazyFrame]]:
    """A function that returns the rows of a call: of inputs with partitions its own, other inputs whole."""
    columns = [source.column for source in plan.inputs]
    lazies = [
        frame if column is None else select_partitions(frame, partitioning, column, begin, end)
        for frame, column in zip(frames, columns, strict=True)
    ]
    inputs = collect_frames(table, lazies)
    split = [
        None if column is None else _split(rows, partitioning, column)
        for rows, column in zip(inputs, columns, strict=True)
    ]

    def read(call: _Call) -> list[pl.LazyFrame]:
        return [
            (rows if parts is None else _join(rows, parts, call)).lazy()
            for rows, parts in zip(inputs, split, strict=True)
        ]

    return read


def refuse_lost_rows(table: Table, partitioning: Partitioning, plan: RebuildPlan, rows: pl.DataFrame) -> None:
    """Refuses rows that the function made although its inputs with partitions are empty: no partition is made
    from them.

    A table that reads no input with partitions is replaced whole, whatever partitions its rows are in.

    Raises:
        Refused: the function made such rows.
    """
    if rows.height and any(source.column is not None for source in plan.inputs):
        call = _Call(0, -1, 0, -1, (0, -1))
        counts = {(call, number): count for number, count in _count_partitions(rows, partitioning).items()}
        raise _refusal(table, partitioning, plan, counts, 0)


def check_partition_column(table: Table, partitioning: Partitioning, rows: pl.DataFrame) -> None:
    """Checks that every row has a partition.

    Raises:
        ProjectError: the function does not return the column of the partition, or one of a wrong type.
        Refused: rows have no value in it.
    """
    where = f"table {table.name} ({table.place})"
    column = partitioning.column
    if column not in rows.columns:
        raise ProjectError(
            f"it is partitioned by {column!r}, which its function does not return",
            where=where,
            remedy=f"It returns {', '.join(rows.columns)}.",
        )
    _check_type(partitioning, rows.schema[column], where)
    missing = rows[column].null_count()
    if missing:
        raise Refused(
            f"column {column!r} is null in {plural(missing, 'row')} of {rows.height:,}: such a row belongs"
            f" to no {_kind(partitioning)}",
            where=where,
            remedy="Fill the column, or drop such rows in the function.",
        )


def _check_type(partitioning: Partitioning, dtype: pl.DataType, where: str) -> None:
    column = partitioning.column
    if not partitioning.is_time:
        if not is_key(dtype):
            raise ProjectError(
                f"it is partitioned by the hash of {column!r}, which is {dtype}",
                where=where,
                remedy="A key is a whole number, a text or a date: cast it in the function.",
            )
        return
    if partitioning.timezone is not None and dtype != pl.Date:
        raise ProjectError(
            f"it is partitioned by the {partitioning.grain} of {column!r} in {partitioning.timezone}, and"
            f" {column!r} is {dtype}, not a date",
            where=where,
            remedy=f"Return the local date in a column, and partition by that column:"
            f' pl.col(...).dt.convert_time_zone("{partitioning.timezone}").dt.date().',
        )
    if not is_moment(dtype, partitioning.grain):
        kinds = "not a time" if partitioning.grain == "hour" else "neither a date nor a time"
        raise ProjectError(
            f"it is partitioned by the {partitioning.grain} of {column!r}, which is {dtype}, {kinds}",
            where=where,
            remedy="Cast it to pl.Datetime in the function."
            if partitioning.grain == "hour"
            else "Cast it to pl.Date or pl.Datetime in the function.",
        )


def _check_keys(
    table: Table,
    partitioning: Partitioning,
    schema: pl.Schema,
    frames: Sequence[pl.LazyFrame],
    plan: RebuildPlan,
) -> None:
    """Checks that the key has one type in the rows and in the inputs: a number and its text have two hashes.

    Raises:
        ProjectError: it has another type.
    """
    column = partitioning.column
    dtype = schema.get(column)
    for source, frame in zip(plan.inputs, frames, strict=True):
        read = None if source.column is None else frame.collect_schema()[column]
        if dtype is None or read is None:
            continue
        if dtype.is_integer() != read.is_integer() or (dtype == pl.Date) != (read == pl.Date):
            raise ProjectError(
                f"its key {column!r} is {dtype}, but {read} in its input {source.name}, so their parts differ",
                where=f"table {table.name} ({table.place})",
                remedy="Keep the key's type in the function.",
            )


def _partition_calls(partitioning: Partitioning, group: Sequence[int]) -> list[_Call]:
    """One call for each output partition. Those further apart than before + after share no input."""
    reach = partitioning.before + partitioning.after
    return [
        _Call(*partitioning.window(number, number), number - reach, number + reach, (number, number))
        for number in group
    ]


def _rowwise_calls(
    partitioning: Partitioning, plan: RebuildPlan, group: Sequence[int], begin: int, end: int
) -> list[_Call]:
    """One call for each input partition, so that the input partition of each row is known."""
    calls = []
    for number in [number for number in sorted(plan.rows) if begin <= number <= end] or [begin]:
        earliest, latest = number - partitioning.after, number + partitioning.before
        keep = max(earliest, group[0]), min(latest, group[-1])
        calls.append(_Call(number, number, earliest, latest, keep))
    return calls


def _numbers(rows: pl.DataFrame, partitioning: Partitioning, column: str) -> pl.Expr:
    return input_numbers(partitioning, column, rows.schema[column])


def _count_partitions(rows: pl.DataFrame, partitioning: Partitioning) -> dict[int, int]:
    numbers = _numbers(rows, partitioning, partitioning.column)
    counts = rows.group_by(numbers.alias(_NUMBER)).agg(pl.len().alias("rows"))
    return dict(counts.select(_NUMBER, "rows").iter_rows())


def _split(rows: pl.DataFrame, partitioning: Partitioning, column: str) -> dict[int, pl.DataFrame]:
    numbered = rows.with_columns(_numbers(rows, partitioning, column).alias(_NUMBER))
    parts = numbered.partition_by(_NUMBER, include_key=False, as_dict=True)
    return {key[0]: part for key, part in parts.items()}


def _join(rows: pl.DataFrame, parts: Mapping[int, pl.DataFrame], call: _Call) -> pl.DataFrame:
    joined = [parts[number] for number in sorted(parts) if call.first <= number <= call.last]
    return pl.concat(joined) if joined else rows.clear()


def _refusal(
    table: Table,
    partitioning: Partitioning,
    plan: RebuildPlan,
    lost: Mapping[tuple[_Call, int], int],
    kept: int,
) -> Refused:
    """The error that names the rows that would be lost, and the `before=` and `after=` that keep them."""
    rows: dict[int, int] = {}
    before, after = partitioning.before, partitioning.after
    for (call, number), count in lost.items():
        rows[number] = max(count, rows.get(number, 0))  # calls with overlapping windows make a row twice
        distances = [number - n for n in plan.rows if call.first <= n <= call.last]
        if distances:
            distance = min(distances, key=abs)
            before, after = max(before, distance), max(after, -distance)
    remedies = []
    if partitioning.is_time and (before, after) != (partitioning.before, partitioning.after):
        remedies.append(_spell_neighbours(partitioning, before, after))
    if not partitioning.is_time:
        remedies.append(f"Keep {partitioning.column!r} in the function as it is in the input.")
    whole, kind = [source.name for source in plan.inputs if source.column is None], _kind(partitioning)
    if whole:
        remedies.append(
            f"If they come from {', '.join(whole)}, which is read whole for each {kind}: keep only rows of"
            f" {kind}s that the other inputs have, or remove partition_by=."
        )
    remedies.append("If they are not wanted, drop them in the function.")
    return Refused(
        f"{plural(sum(rows.values()), 'row')} of its function {'on' if partitioning.grain == 'day' else 'in'}"
        f" {_kind(partitioning)}s that are not made from the input they come from would be lost"
        f" ({plural(kept, 'row')} would be kept): {_plurals(partitioning, rows)}",
        where=f"table {table.name} ({table.place})",
        remedy="\n".join(remedies),
    )


def _spell_neighbours(partitioning: Partitioning, before: int, after: int) -> str:
    kind = _kind(partitioning)
    spans = {name: count for name, count in (("before", before), ("after", after)) if count}
    unit = {"hour": '"{}h"', "day": '"{}d"', "month": "{}"}[partitioning.grain]
    arguments = "".join(f", {name}={unit.format(count)}" for name, count in spans.items())
    reads = " and ".join(f"{count} {kind}{'s' * (count > 1)} {name}" for name, count in spans.items())
    return (
        f'To keep them: partition_by={kind}("{partitioning.column}"{arguments}). Each {kind} is then also made'
        f" from the input of {reads} it."
    )


def _kind(partitioning: Partitioning) -> str:
    return partitioning.grain if partitioning.is_time else "part"


def _plurals(partitioning: Partitioning, counts: Mapping[int, int]) -> str:
    numbers = sorted(counts)
    named = ", ".join(f"{name_partition(partitioning, n)} ({counts[n]:,})" for n in numbers[:_NAMED])
    if len(numbers) <= _NAMED:
        return named
    return f"{named} and {len(numbers) - _NAMED:,} more {_kind(partitioning)}s"
