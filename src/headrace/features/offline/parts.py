"""The point-in-time join of more rows than memory holds: the same join, by parts of the join keys.

The rows of a view's table are hashed by the view's keys into parts, which are files. The features of a part
need the labels and the rows of that part alone, so the kernel computes one part after another. A part that is
still too large, because one key holds most rows, is computed by ranges of time. The labels come back in their
order, in pieces.

Each feature equals that of `join`, to the bit, because a kernel's result for a label depends on the rows of its
key alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.events.contracts.shape import KNOWN_AT
from headrace.features.aggregates.column import Ints
from headrace.features.offline.point_in_time import (
    MOMENT,
    FailureLimits,
    OrderedRows,
    add_on_demand,
    check_columns,
    convert_labels,
    join,
    states,
    unique_rows,
)
from headrace.features.offline.windows import aggregate
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.features.values.columns import POLARS, micros_of
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.foreign import check_version

__all__ = ["join_in_pieces"]

_PART = "__part"
_MOST_PARTS = 512  # parts of a view: each is a file that is written at the same time
_COPIES = 6  # of its columns that a kernel has in memory at once, measured
_NUMBER, _TEXT = 8, 40  # bytes of a value: of a number, and of a text or a list


def join_in_pieces(
    labels: pl.DataFrame,
    plan: FeaturePlan,
    read: Callable[[str], pl.LazyFrame],
    *,
    folder: Path,
    memory: int,
    failed: dict[int, OnDemandError],
) -> Iterator[pl.DataFrame]:
    """Joins labels with the plan's features in bounded memory.

    The labels themselves are in memory, and so is a table of a database's changes, because a truncate concerns
    every key.

    Args:
        labels, plan, read, failed: as for `join`.
        folder: an empty folder for files of about the size of the views' tables. The caller removes it.
        memory: how many bytes the join may take beside the labels. If all fits, nothing is written.

    Yields:
        What `join` returns, in consecutive pieces.

    Raises:
        ProjectError, OnDemandError: as for `join`.
    """
    rows = convert_labels(labels, plan)
    sizes = {view.name: _count(read(view.table)) for view in plan.stored}
    width = _width(labels.schema) + sum(_value_width(feature.dtype) for feature in plan.features)
    pieces = max(-(-len(labels) * width * _COPIES // memory), 1)
    parts = {view.name: _parts(view, sizes[view.name], len(labels), memory) for view in plan.stored}
    if pieces == 1 and sum(parts.values()) <= len(parts):
        yield join(labels, plan, read, failed=failed)
        return
    bounds = np.linspace(0, len(labels), pieces + 1).astype(np.int64)
    spilled = []
    for view in plan.stored:
        spill = _Spill(view, plan, folder / view.name, parts[view.name], bounds)
        spill.split(rows, read(view.table))
        spill.compute(rows, max(memory // _row_width(view), 1))
        spilled.append(spill)
    limits = FailureLimits(len(labels))
    for index, (begin, end) in enumerate(pairwise(bounds)):
        columns = {name: column for spill in spilled for name, column in spill.piece(index).items()}
        errors: dict[int, OnDemandError] = {}
        add_on_demand(plan, rows[begin:end], columns, errors, limits)
        failed |= {int(begin) + row: error for row, error in errors.items()}
        yield labels[begin:end].with_columns(columns[f.column].alias(f.column) for f in plan.features)


class _Spill:
    """The features of one view, in files.

    Args:
        view: the view.
        plan: its plan.
        folder: a folder for the files.
        parts: into how many parts the keys are hashed.
        bounds: where the pieces of the labels begin and end.
    """

    def __init__(self, view: StoredView, plan: FeaturePlan, folder: Path, parts: int, bounds: Ints) -> None:
        check_version("polars")
        self._view, self._plan, self._folder, self._parts, self._bounds = view, plan, folder, parts, bounds
        self._schema = pl.Schema()
        self._indexes: list[Ints] = []

    def split(self, rows: pl.DataFrame, table: pl.LazyFrame) -> None:
        """Hashes the labels and the table by the view's keys. Raises ProjectError as `check_columns`."""
        view = self._view
        part = _part_of(view, rows.schema, self._parts)
        parts = rows.select(part.alias(_PART), MOMENT)[_PART].to_numpy()
        order = np.argsort(parts, kind="stable")
        self._indexes = np.split(order, np.cumsum(np.bincount(parts, minlength=self._parts))[:-1])
        source = _needed_columns(view, table)
        self._schema = source.collect_schema()
        self._folder.mkdir(parents=True)
        source.with_columns(part.alias(_PART)).sink_parquet(
            pl.PartitionBy(self._folder / "rows", key=_PART, include_key=False),
            compression="lz4",
            mkdir=True,
            engine="streaming",
        )

    def compute(self, rows: pl.DataFrame, limit: int) -> None:
        """Computes the features, a part after another.

        Args:
            rows: the labels.
            limit: how many rows of the table the kernel may take at once.
        """
        for part, indexes in enumerate(self._indexes):
            if len(indexes):
                features = self._compute_part(rows[indexes], self._read(part), limit)
                self._write(part, features.to_arrow(compat_level=pl.CompatLevel.oldest()))

    def piece(self, index: int) -> dict[str, pl.Series]:
        """Column (`view__feature`) → the values of the labels of one piece."""
        frames, places = [], []
        for part, indexes in enumerate(self._indexes):
            if len(indexes):
                with pa.OSFile(str(self._path(part)), "rb") as file:
                    batch = pa.ipc.open_file(file).get_batch(index)
                frames.append(pl.DataFrame(batch))
                begin, end = np.searchsorted(indexes, self._bounds[index : index + 2])
                places.append(indexes[begin:end])
        features = pl.concat(frames)[np.argsort(np.concatenate(places))]
        view = self._view
        return {
            f"{view.name}__{field.name}": features[field.name].cast(POLARS[field.dtype])
            for field in view.features
        }

    def _read(self, part: int) -> pl.LazyFrame:
        files = sorted((self._folder / "rows" / f"{_PART}={part}").glob("*.parquet"))
        return pl.scan_parquet(files, glob=False) if files else pl.LazyFrame(schema=self._schema)

    def _compute_part(self, rows: pl.DataFrame, table: pl.LazyFrame, limit: int) -> pl.DataFrame:
        view = self._view
        if isinstance(view, AsOfView):
            return _join_by_time(view, rows, table, strict=self._plan.is_strict(view), limit=limit)
        return _aggregate_by_time(view, rows, table, limit=limit)

    def _write(self, part: int, features: pa.Table) -> None:
        """Writes the features of a part, a batch for each piece of the labels."""
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        cuts = np.searchsorted(self._indexes[part], self._bounds).tolist()
        with (
            pa.OSFile(str(self._path(part)), "wb") as file,
            pa.ipc.new_file(file, features.schema, options=options) as writer,
        ):
            for begin, end in pairwise(cuts):
                piece = features.slice(begin, end - begin).combine_chunks()
                batches = piece.to_batches() or [
                    pa.RecordBatch.from_pylist([], schema=features.schema),
                ]
                writer.write_batch(batches[0])

    def _path(self, part: int) -> Path:
        return self._folder / f"features-{part}.arrow"


def _join_by_time(
    view: AsOfView, rows: pl.DataFrame, table: pl.LazyFrame, *, strict: bool, limit: int
) -> pl.DataFrame:
    """The view's features for each row, from at most about `limit` rows of the table at once.

    A range of time needs its own rows, and of each key the last row before it.
    """
    time = pl.col(view.time).cast(pl.Datetime("us", "UTC"))
    if _count(table) <= limit:
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
    view: WindowedView, rows: pl.DataFrame, events: pl.LazyFrame, *, limit: int
) -> pl.DataFrame:
    """The view's features for each row, from at most about `limit` rows and events at once.

    The events of one row's windows are needed at once, if they are more.
    """
    known_at = KNOWN_AT if KNOWN_AT in events.collect_schema() else None
    if _count(events) + len(rows) <= limit:
        return aggregate(view, rows, events, at=MOMENT, known_at=known_at)
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
        results.append(aggregate(view, chosen, events.filter(inside), at=MOMENT, known_at=known_at))
        begin = end
    return pl.concat(results)[np.argsort(order)]


def _needed_columns(view: StoredView, table: pl.LazyFrame) -> pl.LazyFrame:
    """The columns of the view's table that the kernel reads."""
    if isinstance(view, AsOfView):
        rows = states(view, table)
        check_columns(view, rows)
        names = [*view.keys, view.time, *(field.name for field in view.features), view.created]
    else:
        rows = table
        names = [*view.keys, view.time, KNOWN_AT, *(field.name for field in view.columns)]
    columns = rows.collect_schema().names()
    return rows.select(name for name in dict.fromkeys(names) if name in columns)


def _part_of(view: StoredView, labels: pl.Schema, parts: int) -> pl.Expr:
    """The number of the part that a row belongs to, by its keys, converted to the labels' types."""
    if not view.keys:
        return pl.lit(0, pl.UInt64)
    keys = pl.struct(pl.col(key).cast(labels[key], strict=False) for key in view.keys)
    return keys.hash(0) % parts


def _parts(view: StoredView, rows: int, labels: int, memory: int) -> int:
    if not view.keys:
        return 1
    values = sum(_value_width(field.dtype) for field in view.features)
    size = rows * _row_width(view) + labels * (values + 2 * _NUMBER) * _COPIES
    return min(max(-(-size // memory), 1), _MOST_PARTS)


def _row_width(view: StoredView) -> int:
    """About how many bytes the kernel takes for a row of the view's table."""
    fields = view.features if isinstance(view, AsOfView) else view.columns
    return (sum(_value_width(field.dtype) for field in fields) + 3 * _NUMBER) * _COPIES


def _value_width(dtype: str) -> int:
    return _NUMBER if dtype in ("int64", "float64", "bool", "timestamp") else _TEXT


def _width(schema: pl.Schema) -> int:
    return sum(_TEXT if dtype.is_nested() or dtype == pl.String else _NUMBER for dtype in schema.dtypes())


def _count(table: pl.LazyFrame) -> int:
    return int(table.select(pl.len()).collect().item())
