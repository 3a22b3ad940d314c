"""The port of computing the features of one view for labels of any number, by parts of the view's keys.

The rows of a view's table are hashed by the view's keys into parts, which are files. The features of a part
need the labels and the rows of that part alone, so the kernel computes one part after another. A part that is
still too large, because one key holds most rows, is computed by ranges of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import attrs
import numpy as np
import polars as pl

from headrace.events.contracts.shape import KNOWN_AT
from headrace.features.aggregates.column import Ints
from headrace.features.offline.point_in_time import MOMENT, OrderedRows, states, unique_rows
from headrace.features.offline.windows import aggregate
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.features.values.columns import micros_of
from headrace.kernel.foreign import check_version
from headrace.lake.reading.parquet import scan_parquet

__all__ = [
    "COPIES",
    "FeatureCompute",
    "ViewJob",
    "compute_share",
    "count_parts",
    "count_rows",
    "divide",
    "part_of",
    "value_width",
]

COPIES = 6
"""How many copies of its columns a kernel has in memory at once, measured."""

_PART = "__part"
_MOST_PARTS = 512  # parts of a view: each is a file that is written at the same time
_NUMBER, _TEXT = 8, 40  # bytes of a value: of a number, and of a text or a list


@attrs.frozen
class ViewJob:
    """What is computed.

    Attributes:
        view: the view.
        plan: its plan.
        rows: the labels: the view's keys, of the plan's dtypes, and `event_timestamp`.
        memory: how many bytes the kernel may take.
        folder: an existing folder for files.
        ends: log partition → the labels' column that limits the events of a windowed view (windows.aggregate).
    """

    view: StoredView
    plan: FeaturePlan
    rows: pl.DataFrame
    memory: int
    folder: Path
    ends: Mapping[int, str] = attrs.field(factory=dict)


class FeatureCompute(Protocol):
    """Computes a view's features for the job's labels.

    Yields indexes of labels, ascending, and their features; each label is in one of them.

    Raises:
        ProjectError: the table lacks a column of the view.
        Unavailable: what computes them does not answer.
    """

    def __call__(self, job: ViewJob) -> Iterator[tuple[Ints, pl.DataFrame]]: ...


def compute_share(
    job: ViewJob, table: pl.LazyFrame, *, share: int = 0, shares: int = 1
) -> Iterator[tuple[Ints, pl.DataFrame]]:
    """Computes the features of labels whose keys are hashed into one share (`divide`), as FeatureCompute does.

    The job has the labels of this share alone; the table has the rows of all.
    """
    check_version("polars")
    view, rows = job.view, job.rows
    source = _needed_columns(job, table)
    if shares > 1:
        source = source.filter(part_of(view, rows.schema, shares) == share)
    folder = job.folder / "rows"
    parts = count_parts(job, count_rows(source)) if view.keys else 1
    if parts > 1 and isinstance(view, WindowedView):
        source = _reachable_events(view, rows, source)
        parts = count_parts(job, count_rows(source))
    indexes_of = divide(job, parts, seed=1)
    if parts > 1:
        source.with_columns(part_of(view, rows.schema, parts, seed=1).alias(_PART)).sink_parquet(
            pl.PartitionBy(folder, key=_PART, include_key=False),
            compression="lz4",
            mkdir=True,
            engine="streaming",
        )
    limit = max(job.memory // _row_width(view), 1)
    for part, indexes in enumerate(indexes_of):
        if len(indexes):
            files = sorted((folder / f"{_PART}={part}").glob("*.parquet"))
            if files:
                part_rows = scan_parquet(files)
            else:
                part_rows = source if parts == 1 else pl.LazyFrame(schema=source.collect_schema())
            yield indexes, _compute_part(job, rows[indexes], part_rows, limit)


def divide(job: ViewJob, parts: int, *, seed: int = 0) -> list[Ints]:
    """The indexes, ascending, of the labels whose keys are hashed into each part."""
    part = part_of(job.view, job.rows.schema, parts, seed=seed)
    numbers = job.rows.select(part.alias(_PART), MOMENT)[_PART].to_numpy()
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.cumsum(np.bincount(numbers, minlength=parts))[:-1])


def _compute_part(job: ViewJob, rows: pl.DataFrame, table: pl.LazyFrame, limit: int) -> pl.DataFrame:
    if isinstance(job.view, AsOfView):
        return _join_by_time(job.view, rows, table, strict=job.plan.is_strict(job.view), limit=limit)
    return _aggregate_by_time(job.view, rows, table, ends=job.ends, limit=limit)


def _join_by_time(
    view: AsOfView, rows: pl.DataFrame, table: pl.LazyFrame, *, strict: bool, limit: int
) -> pl.DataFrame:
    """The view's features for each row, from at most about `limit` rows of the table at once.

    A range of time needs its own rows, and of each key the last row before it.
    """
    time = pl.col(view.time).cast(pl.Datetime("us", "UTC"))
    if count_rows(table) <= limit:
        return OrderedRows(rows).join(view, unique_rows(view, table), strict=strict, delay=view.delay)
    times = np.sort(table.select(time.to_physical()).drop_nulls().collect().to_series().to_numpy())
    bounds = np.unique(times[limit - 1 : len(times) - 1 : limit])
    ranges = np.searchsorted(bounds, rows[MOMENT].to_physical().to_numpy() - view.delay)
    instants = pl.Series(bounds).cast(pl.Datetime("us", "UTC"))
    carried: pl.DataFrame | None = None
    indexes, results = [], []
    for number in range(len(bounds) + 1):
        inside = pl.lit(True)
        if number:
            inside &= time > instants[number - 1]
        if number < len(bounds):
            inside &= time <= instants[number]
        visible = unique_rows(view, table.filter(inside)).collect()
        if carried is not None:
            visible = pl.concat([carried, visible])
        chosen = np.flatnonzero(ranges == number)
        if len(chosen):
            joined = OrderedRows(rows[chosen]).join(view, visible.lazy(), strict=strict, delay=view.delay)
            indexes.append(chosen)
            results.append(joined)
        ordered = visible.sort(view.time)
        carried = ordered.unique(view.keys, keep="last") if view.keys else ordered.tail(1)
    return pl.concat(results)[np.argsort(np.concatenate(indexes))]


def _aggregate_by_time(
    view: WindowedView, rows: pl.DataFrame, events: pl.LazyFrame, *, ends: Mapping[int, str], limit: int
) -> pl.DataFrame:
    """The view's features for each row, from at most about `limit` rows and events at once.

    The events of one row's windows are needed at once, if they are more.
    """
    known_at = KNOWN_AT if KNOWN_AT in events.collect_schema() else None
    if count_rows(events) + len(rows) <= limit:
        return aggregate(view, rows, events, at=MOMENT, known_at=known_at, ends=ends)
    times = np.sort(events.select(micros_of(view.time)).drop_nulls().collect().to_series().to_numpy())
    moments = rows.select(micros_of(MOMENT)).to_series().to_numpy()
    order = np.argsort(moments, kind="stable")
    moments = moments[order]
    befores = np.searchsorted(times, moments)
    results, begin = [], 0
    while begin < len(order):
        earliest = view.earliest(int(moments[begin]))
        # How many events and rows there are up to each row.
        reach = befores[begin:] - np.searchsorted(times, earliest) + np.arange(1, len(order) - begin + 1)
        end = begin + max(int(np.searchsorted(reach, max(limit, 2 * reach[0]), "right")), 1)
        inside = micros_of(view.time).is_between(earliest, int(moments[end - 1]), closed="left")
        chosen = rows[order[begin:end]]
        events_inside = events.filter(inside)
        results.append(aggregate(view, chosen, events_inside, at=MOMENT, known_at=known_at, ends=ends))
        begin = end
    return pl.concat(results)[np.argsort(order)]


def _reachable_events(view: WindowedView, rows: pl.DataFrame, events: pl.LazyFrame) -> pl.LazyFrame:
    """The events that any window of the rows can hold: of a few rows' entities and times they are few."""
    moments = rows.select(micros_of(MOMENT)).to_series()
    reach = view.earliest(int(moments.min() or 0)), int(moments.max() or 0)  # type: ignore[arg-type]
    keys = [pl.col(key).cast(rows.schema[key], strict=False) for key in view.keys]
    entities = rows.lazy().select(view.keys).unique()
    inside = events.filter(micros_of(view.time).is_between(*reach, closed="left"))
    return inside.join(entities, left_on=keys, right_on=view.keys, how="semi")


def _needed_columns(job: ViewJob, table: pl.LazyFrame) -> pl.LazyFrame:
    """The columns of the view's table that the kernel reads."""
    view = job.view
    if isinstance(view, AsOfView):
        rows = states(view, table)
        names = [*view.keys, view.time, *(field.name for field in view.features), view.created]
    else:
        rows = table
        known = ["_log_partition", "_log_offset"] if job.ends else [KNOWN_AT]
        names = [*view.keys, view.time, *known, *(field.name for field in view.columns)]
    columns = rows.collect_schema().names()
    return rows.select(name for name in dict.fromkeys(names) if name in columns)


def part_of(view: StoredView, labels: pl.Schema, parts: int, *, seed: int = 0) -> pl.Expr:
    """The number of the part that a row belongs to, by the view's keys, converted to the types that `labels`
    has for them."""
    if not view.keys or parts == 1:
        return pl.lit(0, pl.UInt64)
    keys = pl.struct(pl.col(key).cast(labels[key], strict=False) for key in view.keys)
    return keys.hash(seed) % parts


def count_parts(job: ViewJob, rows: int) -> int:
    """Into how many parts a table with so many rows must be divided, by keys or by time, for a part to fit into
    memory."""
    values = sum(value_width(field.dtype) for field in job.view.features)
    size = rows * _row_width(job.view) + len(job.rows) * (values + 2 * _NUMBER) * COPIES
    return min(max(-(-size // job.memory), 1), _MOST_PARTS)


def count_rows(table: pl.LazyFrame) -> int:
    """How many rows the table has."""
    return int(table.select(pl.len()).collect().item())


def value_width(dtype: str | pl.DataType) -> int:
    """About how many bytes a value takes in memory."""
    if isinstance(dtype, pl.DataType):
        return _TEXT if dtype.is_nested() or dtype == pl.String else _NUMBER
    return _NUMBER if dtype in ("int64", "float64", "bool", "timestamp") else _TEXT


def _row_width(view: StoredView) -> int:
    """About how many bytes the kernel takes for a row of the view's table."""
    fields = view.features if isinstance(view, AsOfView) else view.columns
    return (sum(value_width(field.dtype) for field in fields) + 3 * _NUMBER) * COPIES
