"""Makes the rows of output days, and checks that no row is lost.

A function is called with a window of input days, and only the rows of the requested days are kept, because the
calls for the other days make the others. If the call for a row's day does not read the input that the row was
made from, the table would lack that row. So such a row is refused, not dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import NamedTuple

import polars as pl

from headrace.declare.table import ONE_DAY, Day, Table
from headrace.kernel.errors import ProjectError, Refused
from headrace.kernel.time import add_days
from headrace.tables.call import call_function, collect_frames, concat_results
from headrace.tables.plan import RebuildPlan, spread_days
from headrace.tables.read import select_days
from headrace.tables.rowwise import RowwiseCalls

__all__ = ["check_day", "make_days", "refuse_lost_rows"]

_NAMED_DAYS = 3


class _Call(NamedTuple):
    """One call of the function.

    Attributes:
        first, last: the first and the last input day that it reads.
        earliest, latest: the first and the last day that its rows may be on: the calls for these days read some
            of the same input.
        keep: the first and the last day whose rows are kept.
    """

    first: date
    last: date
    earliest: date
    latest: date
    keep: tuple[date, date]


def make_days(
    table: Table,
    day: Day,
    plan: RebuildPlan,
    frames: Sequence[pl.LazyFrame],
    options: Mapping[str, datetime],
    group: Sequence[date],
    rowwise: RowwiseCalls | None = None,
) -> pl.DataFrame:
    """Makes the rows of neighbouring output days.

    Each day is made from its own input days alone, whichever other days are made with it. So an incremental
    build gives the same rows as one from scratch. A rowwise function is called once for each input day, any
    other function once for each output day.

    Args:
        table: the declared table, partitioned by `day`.
        day: its partition.
        plan: which days to make, from which input days.
        frames: the inputs of the function, in the order of `plan.inputs`.
        options: `now`, if the function takes it.
        group: the output days, in order, without a gap.
        rowwise: calls the function of a rowwise table, and notes the rows that it fails on.

    Raises:
        ProjectError: the function failed, or does not return the column of the day.
        Refused: rows have no day, or are on a day that is not made from the input that they come from.
    """
    begin, end = add_days(group[0], -day.before), add_days(group[-1], day.after)
    read = _read_inputs(table, plan, frames, begin, end)
    calls = _rowwise_calls(day, plan, group, begin, end) if rowwise else _day_calls(day, group)
    results = _collect_calls(table, calls, read, options, rowwise)
    output_days = spread_days(plan.rows, day)
    lost: dict[tuple[_Call, date], int] = {}
    kept = []
    for call, rows in zip(calls, results, strict=True):
        check_day(table, day, rows)
        for row_day, count in _count_days(rows, day.column).items():
            if not call.earliest <= row_day <= call.latest or row_day not in output_days:
                lost[call, row_day] = count
        kept.append(select_days(rows.lazy(), day.column, *call.keep).collect())
    if lost:
        raise _refusal(table, day, plan, lost, sum(len(rows) for rows in kept))
    return concat_results(table, kept)


def _collect_calls(
    table: Table,
    calls: Sequence[_Call],
    read: Callable[[_Call], list[pl.LazyFrame]],
    options: Mapping[str, datetime],
    rowwise: RowwiseCalls | None,
) -> list[pl.DataFrame]:
    """The rows of each call; if the function fails, without the rows of the input that it fails on."""
    try:
        return collect_frames(table, [call_function(table, read(call), options) for call in calls])
    except ProjectError:
        if rowwise is None:
            raise
    return [rowwise.call(read(call)[0].collect(), call.first) for call in calls]


def _read_inputs(
    table: Table, plan: RebuildPlan, frames: Sequence[pl.LazyFrame], begin: date, end: date
) -> Callable[[_Call], list[pl.LazyFrame]]:
    """A function that returns the rows of a call: its days of inputs with days, other inputs whole."""
    columns = [source.day_column for source in plan.inputs]
    lazies = [
        frame if column is None else select_days(frame, column, begin, end)
        for frame, column in zip(frames, columns, strict=True)
    ]
    inputs = collect_frames(table, lazies)
    split = [
        None if column is None else _split_by_day(rows, column)
        for rows, column in zip(inputs, columns, strict=True)
    ]

    def read(call: _Call) -> list[pl.LazyFrame]:
        return [
            (rows if days is None else _join_days(rows, days, call)).lazy()
            for rows, days in zip(inputs, split, strict=True)
        ]

    return read


def refuse_lost_rows(table: Table, day: Day, plan: RebuildPlan, rows: pl.DataFrame) -> None:
    """Refuses rows that the function made although its inputs with days are empty: no day is made from them.

    A table that reads no input with days is replaced whole, whatever days its rows are on.

    Raises:
        Refused: the function made such rows.
    """
    if rows.height and any(source.day_column is not None for source in plan.inputs):
        call = _Call(date.min, date.min, date.min, date.min, (date.min, date.min))
        counts = {(call, row_day): count for row_day, count in _count_days(rows, day.column).items()}
        raise _refusal(table, day, plan, counts, 0)


def check_day(table: Table, day: Day, rows: pl.DataFrame) -> None:
    """Checks that every row has a day.

    Raises:
        ProjectError: the function does not return the column of the day, or its type is neither date nor time.
        Refused: rows have no value in it.
    """
    where = f"table {table.name} ({table.place})"
    if day.column not in rows.columns:
        raise ProjectError(
            f"it is partitioned by {day.column!r}, which its function does not return",
            where=where,
            remedy=f"It returns {', '.join(rows.columns)}.",
        )
    dtype = rows.schema[day.column]
    if dtype != pl.Date and not isinstance(dtype, pl.Datetime):
        raise ProjectError(
            f"it is partitioned by the day of {day.column!r}, which is {dtype}, neither a date nor a time",
            where=where,
            remedy="Cast it to pl.Date or pl.Datetime in the function.",
        )
    undated = rows[day.column].null_count()
    if undated:
        raise Refused(
            f"{undated:,} of {rows.height:,} rows have no {day.column!r}, so they belong to no day",
            where=where,
            remedy="Fill the column, or drop such rows in the function.",
        )


def _day_calls(day: Day, group: Sequence[date]) -> list[_Call]:
    """One call for each output day. Days further apart than before + after share no input day."""
    reach = day.before + day.after
    return [
        _Call(
            add_days(d, -day.before),
            add_days(d, day.after),
            add_days(d, -reach),
            add_days(d, reach),
            (d, d),
        )
        for d in group
    ]


def _rowwise_calls(day: Day, plan: RebuildPlan, group: Sequence[date], begin: date, end: date) -> list[_Call]:
    """One call for each input day, so that the input day of each row is known."""
    calls = []
    for d in [d for d in sorted(plan.rows) if begin <= d <= end] or [begin]:
        earliest, latest = add_days(d, -day.after), add_days(d, day.before)
        calls.append(_Call(d, d, earliest, latest, (max(earliest, group[0]), min(latest, group[-1]))))
    return calls


def _day_of(rows: pl.DataFrame, column: str) -> pl.Expr:
    dtype = rows.schema[column]
    has_zone = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
    return (pl.col(column).dt.convert_time_zone("UTC") if has_zone else pl.col(column)).cast(pl.Date)


def _count_days(rows: pl.DataFrame, column: str) -> dict[date, int]:
    counts = rows.group_by(_day_of(rows, column).alias("day")).agg(pl.len().alias("rows"))
    return dict(counts.select("day", "rows").iter_rows())


def _split_by_day(rows: pl.DataFrame, column: str) -> dict[date, pl.DataFrame]:
    parts = rows.with_columns(_day_of(rows, column).alias("__day")).partition_by(
        "__day", include_key=False, as_dict=True
    )
    return {key[0]: part for key, part in parts.items()}


def _join_days(rows: pl.DataFrame, days: Mapping[date, pl.DataFrame], call: _Call) -> pl.DataFrame:
    parts = [days[d] for d in sorted(days) if call.first <= d <= call.last]
    return pl.concat(parts) if parts else rows.clear()


def _refusal(
    table: Table, day: Day, plan: RebuildPlan, lost: Mapping[tuple[_Call, date], int], kept: int
) -> Refused:
    """The error that names the rows that would be lost, and the `before=` and `after=` that keep them."""
    rows: dict[date, int] = {}
    before, after = day.before, day.after
    for (call, row_day), count in lost.items():
        rows[row_day] = max(count, rows.get(row_day, 0))  # calls with overlapping windows make a row twice
        distances = [row_day - d for d in plan.rows if call.first <= d <= call.last]
        if distances:
            distance = min(distances, key=abs)
            before, after = max(before, distance), max(after, -distance)
    remedies = []
    if (before, after) != (day.before, day.after):
        spans = {name: span // ONE_DAY for name, span in (("before", before), ("after", after)) if span}
        arguments = "".join(f', {name}="{days}d"' for name, days in spans.items())
        reads = " and ".join(f"{days} day{'s' * (days > 1)} {name}" for name, days in spans.items())
        remedies.append(
            f'To keep them: partition_by=day("{day.column}"{arguments}). Each day is then also made from the'
            f" input of {reads} it."
        )
    undated = [source.name for source in plan.inputs if source.day_column is None]
    if undated:
        remedies.append(
            f"If they come from {', '.join(undated)}, which is read whole for each day: keep only rows of days"
            " that the other inputs have, or remove partition_by=."
        )
    remedies.append("If they are not wanted, drop them in the function.")
    return Refused(
        f"{sum(rows.values()):,} rows of its function are on days that are not made from the input they come"
        f" from, and would be lost ({kept:,} rows would be kept): {_spell_counts(rows)}",
        where=f"table {table.name} ({table.place})",
        remedy="\n".join(remedies),
    )


def _spell_counts(counts: Mapping[date, int]) -> str:
    days = sorted(counts)
    named = ", ".join(f"{d} ({counts[d]:,})" for d in days[:_NAMED_DAYS])
    return named if len(days) <= _NAMED_DAYS else f"{named} and {len(days) - _NAMED_DAYS:,} more days"
