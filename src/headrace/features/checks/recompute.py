"""Recomputes served features offline, for `check parity`, `check skew` and `why`.

A served value has a position: the events before it (a windowed view), or a row of a snapshot (an as-of view).
So it can be recomputed from the lake, however many late events have arrived since. The features are computed
as for a training set: by the window kernel and the as-of join, the on-demand functions over whole columns, and
the matrix that the model learns from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from msgspec import Struct

from headrace.events.ingest.position import read_position
from headrace.features.offline.compute.port import ViewJob, compute_share
from headrace.features.offline.point_in_time import MOMENT, join_as_of
from headrace.features.offline.rowwise import codes_of, is_of_other_code, rows_of
from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.plan import AsOfView, FeaturePlan, OnDemandView, StoredView, WindowedView
from headrace.features.values.columns import POLARS, micros_of
from headrace.features.values.matrix import Matrix
from headrace.features.values.on_demand import OnDemand, OnDemandError
from headrace.kernel.errors import CallError
from headrace.kernel.scratch import make_scratch
from headrace.kernel.time import from_micros
from headrace.lake import Lake, LakeTable
from headrace.lake.reading.parquet import scan_parquet
from headrace.projects.project import Project
from headrace.tables.read import read_input

__all__ = [
    "Recomputed",
    "ServedPrediction",
    "find_late_begin",
    "has_lost_events",
    "recompute",
    "values_in_training",
    "views_of_edited_code",
]

_PARTITION, _OFFSET = "_log_partition", "_log_offset"
_INSTANT = pl.Datetime("us", "UTC")
_EVENTS = 1_000_000  # offsets of a log partition whose events are read together


class ServedPrediction(Struct, frozen=True):
    """One prediction, from the prediction log.

    Attributes:
        id: the prediction's id.
        at: its moment, microseconds.
        keys: join key → value.
        values: column (`view__feature`) → the value that the model saw; None or NaN is missing.
        positions: view → the position of its values.
        request: the request's other fields, of the plan's dtypes (`conversion.decode_fields`).
    """

    id: str
    at: int
    keys: dict[str, int | str]
    values: dict[str, float | str | None]
    positions: dict[str, ServedPosition]
    request: dict[str, Any] = {}


class Recomputed(NamedTuple):
    """The recomputed features of one prediction.

    Attributes:
        features: column → value, for the features of every view without a failure.
        seen: column → the value that the model would see in training; None if missing. Only for those of
            `plan.features` whose view has no failure.
        failures: view → why its features could not be recomputed.
    """

    features: dict[str, Any]
    seen: dict[str, float | str | None]
    failures: dict[str, str]


def views_of_edited_code(project: Project, plan: FeaturePlan) -> frozenset[str]:
    """The views that cannot be recomputed, because a rowwise function was edited since the plan was compiled:
    windowed views of that function, and on-demand views that read them."""
    codes = codes_of(project)
    edited = {view.name for view in plan.windowed if is_of_other_code(view, codes)}
    for view in plan.on_demand:
        if any(source.view in edited for source in view.inputs):
            edited.add(view.name)
    return frozenset(edited)


def recompute(
    project: Project,
    lake: Lake,
    plan: FeaturePlan,
    served: Sequence[ServedPrediction],
    *,
    skip: frozenset[str] = frozenset(),
    sources: Mapping[str, pl.LazyFrame] | None = None,
) -> list[Recomputed]:
    """Recomputes the features of predictions at their moments and positions.

    Args:
        project: the project that declares the topics and rowwise tables of the plan's views.
        lake: the lake with the topics' tables, and the snapshots that as-of values came from.
        plan: the plan that was served.
        served: the predictions.
        skip: views that are not computed; they have neither features nor a failure.
        sources: view → the rows to compute it from, if the caller has read them: for a windowed view the
            topic's events (as `read_input` returns them), for an as-of view the rows of its table.

    Returns:
        One result for each prediction.
    """
    work = _Work(served, [{} for _ in served], {})
    for view in plan.views:
        if view.name in skip:
            continue
        source = (sources or {}).get(view.name)
        if isinstance(view, WindowedView):
            if source is None:
                contract = project.contract(view.topic)
                _note_unread(view, lake.table(contract.table), work)
                source = read_input(project, lake, contract)
            _recompute_windowed(project, plan, view, source, work)
        elif isinstance(view, AsOfView):
            _recompute_as_of(lake, plan, view, source, work)
        else:
            _recompute_on_demand(plan, view, work)
    return _by_prediction(plan, work)


def _by_prediction(plan: FeaturePlan, work: _Work) -> list[Recomputed]:
    values = _values_in_training(plan, work)
    features = {
        f"{view.name}__{field.name}": (view.name, work.columns[f"{view.name}__{field.name}"].to_list())
        for view in plan.views
        for field in view.features
        if f"{view.name}__{field.name}" in work.columns
    }
    results = []
    for index, failures in enumerate(work.failures):
        known = {column: series[index] for column, (view, series) in features.items() if view not in failures}
        seen = {column: series[index] for column, series in values.items() if column in known}
        results.append(Recomputed(known, seen, failures))
    return results


class _Work(NamedTuple):
    """The state of a recomputation.

    Attributes:
        served: the predictions.
        failures: for each prediction, view → why it could not be recomputed.
        columns: column → its values, one for each prediction, as far as they are computed.
    """

    served: Sequence[ServedPrediction]
    failures: list[dict[str, str]]
    columns: dict[str, pl.Series]

    def add(self, view: StoredView | OnDemandView, values: Mapping[str, Sequence[object] | pl.Series]) -> None:
        """Adds the features of a view, by the features' names."""
        for field in view.features:
            series = pl.Series(values[field.name], dtype=POLARS[field.dtype])
            self.columns[f"{view.name}__{field.name}"] = series


def _note_unread(view: WindowedView, table: LakeTable, work: _Work) -> None:
    """Notes the predictions with events that the topic's table does not have yet, because the online store may
    be ahead of it for a moment, or does not have any more."""
    read, begin = read_position(table), find_late_begin(table, min((p.at for p in work.served), default=0))
    for index, prediction in enumerate(work.served):
        position = prediction.positions.get(view.name)
        ends = position.offsets if isinstance(position, StreamPosition) else {}
        if has_lost_events(ends, prediction.at, begin):
            work.failures[index][view.name] = f"its events are no longer in the table of {view.topic}"
        elif any(read is None or read.next_offset(p) < end for p, end in ends.items()):
            work.failures[index][view.name] = f"its events are not in the table of {view.topic} yet"


def find_late_begin(table: LakeTable, at: int) -> int | None:
    """When the first event of a topic's table arrived, refused ones included, if that was after `at`;
    microseconds. None: it has no event, or one that arrived before (of which usually one file is read)."""
    arrived = table.scan().select(micros_of("_arrived_at").alias("at"))
    if len(arrived.filter(pl.col("at") <= at).head(1).collect()):
        return None
    begin: int | None = arrived.min().collect(engine="streaming").item()
    return begin


def has_lost_events(offsets: Mapping[int, int], at: int, begin: int | None) -> bool:
    """Whether the topic's table has lost the events before these offsets: a prediction of the moment `at` has
    seen events, and the first of the table arrived later. The topic was deleted and created again, so that the
    offsets name other events now; or a retention removed them.

    Args:
        offsets: log partition → the first offset that the prediction has not seen.
        at: the moment of the prediction, microseconds.
        begin: `find_late_begin`.
    """
    return begin is not None and at < begin and any(offsets.values())


def _recompute_windowed(
    project: Project, plan: FeaturePlan, view: WindowedView, events: pl.LazyFrame, work: _Work
) -> None:
    """Computes the features as those of a training set that is larger than memory (offline.parts)."""
    offsets: list[Mapping[int, int]] = []
    for prediction, failures in zip(work.served, work.failures, strict=True):
        position = prediction.positions.get(view.name)
        is_known = isinstance(position, StreamPosition) and view.name not in failures
        offsets.append(position.offsets if isinstance(position, StreamPosition) and is_known else {})
        if not isinstance(position, StreamPosition):
            failures.setdefault(view.name, f"the prediction has no position of {view.name}")
    ends = {partition: f"__end_{partition}" for partition in sorted({p for ends in offsets for p in ends})}
    rows_from = rows_of(project, [view])
    schema = rows_from(pl.DataFrame(schema=events.collect_schema()).lazy()).rows.schema
    labels = pl.DataFrame(
        [
            (
                *(prediction.keys.get(key) for key in view.keys),
                from_micros(prediction.at),
                *(before.get(partition, 0) for partition in ends),
            )
            for prediction, before in zip(work.served, offsets, strict=True)
        ],
        {
            **{key: schema[key] for key in view.keys},
            MOMENT: _INSTANT,
            **dict.fromkeys(ends.values(), pl.Int64),
        },
        orient="row",
    )
    values = pl.DataFrame(schema={field.name: POLARS[field.dtype] for field in view.features})
    with make_scratch(project.settings.find_scratch()) as folder:
        rows = _write_rows(view, events, labels, ends, lambda piece: rows_from(piece.lazy()).rows, folder)
        job = ViewJob(view, plan, labels, project.settings.features.join_bytes, folder, ends)
        if parts := list(compute_share(job, rows)):
            indexes, features = zip(*parts, strict=True)
            values = pl.concat(features)[np.argsort(np.concatenate(indexes))]
    work.add(view, {field.name: values[field.name] for field in view.features})


def _write_rows(
    view: WindowedView,
    events: pl.LazyFrame,
    labels: pl.DataFrame,
    ends: Mapping[int, str],
    rows_from: Callable[[pl.DataFrame], pl.DataFrame],
    folder: Path,
) -> pl.LazyFrame:
    """Writes the rows of the view's table that any window of the labels can hold, each with its log partition
    and an offset that is exact enough to compare with the labels' ends.

    A function drops the offsets. But f(a + b) = f(a) + f(b), so it is run on each piece of the log between two
    ends, and its rows get the first offset of the piece. At most _EVENTS events are in memory at once.
    """
    entities = labels.select(view.keys).unique()
    moments = labels.select(micros_of(MOMENT)).to_series().to_list() or [0]
    in_reach = micros_of(view.time).is_between(view.earliest(min(moments)), max(moments), closed="left")
    none = rows_from(pl.DataFrame(schema=events.collect_schema()))
    files = [folder / "none.parquet"]
    _with_offset(none, 0, 0).write_parquet(files[0])
    for partition, column in ends.items():
        cuts = np.unique(np.append(labels[column].to_numpy(), 0))
        last = int(cuts[-1])
        for start in range(0, last, _EVENTS):
            stop = min(start + _EVENTS, last)
            inside = pl.col(_PARTITION).eq(partition) & pl.col(_OFFSET).is_between(start, stop, closed="left")
            batch = events.filter(inside).collect().sort(_OFFSET)
            if view.rowwise is None:
                pieces = [rows_from(batch).with_columns(batch[_PARTITION], batch[_OFFSET])]
            else:
                edges = np.concatenate([[start], cuts[(cuts > start) & (cuts < stop)], [stop]])
                firsts = cuts[np.searchsorted(cuts, edges, "right") - 1].tolist()
                indexes = batch[_OFFSET].search_sorted(pl.Series(edges)).to_list()
                pieces = [
                    _with_offset(rows_from(batch[begin:end]), partition, first)
                    for first, (begin, end) in zip(firsts[:-1], pairwise(indexes), strict=True)
                    if end > begin
                ]
            rows = pl.concat([_with_offset(none, 0, 0), *pieces]).filter(in_reach)
            files.append(folder / f"{partition}-{start}.parquet")
            rows = rows.join(entities, on=view.keys, how="semi") if view.keys else rows
            rows.write_parquet(files[-1], compression="lz4")
    return scan_parquet(files)


def _with_offset(rows: pl.DataFrame, partition: object, offset: int) -> pl.DataFrame:
    return rows.with_columns(
        pl.lit(partition, pl.Int32).alias(_PARTITION), pl.lit(offset, pl.Int64).alias(_OFFSET)
    )


def _recompute_as_of(
    lake: Lake, plan: FeaturePlan, view: AsOfView, source: pl.LazyFrame | None, work: _Work
) -> None:
    values: dict[str, list[object]] = {field.name: [None] * len(work.served) for field in view.features}
    by_snapshot: dict[int | None, list[int]] = {}
    for index, prediction in enumerate(work.served):
        position = prediction.positions.get(view.name)
        if isinstance(position, RowPosition) and (source is not None or position.snapshot is not None):
            by_snapshot.setdefault(position.snapshot, []).append(index)
        else:
            work.failures[index][view.name] = f"the prediction has no position of {view.name}"
    for snapshot, indexes in by_snapshot.items():
        try:
            table = lake.table(view.table).scan(snapshot) if source is None else source
        except CallError:
            for index in indexes:
                work.failures[index][view.name] = f"snapshot {snapshot} of {view.table} has expired"
            continue
        predictions = [work.served[index] for index in indexes]
        schema = table.collect_schema()
        rows = pl.DataFrame(
            [(*(p.keys.get(key) for key in view.keys), from_micros(p.at)) for p in predictions],
            {**{key: schema[view.column(key)] for key in view.keys}, MOMENT: _INSTANT},
            orient="row",
        )
        joined = join_as_of(rows, view, table, strict=plan.is_strict(view))
        for name, column in values.items():
            for index, value in zip(indexes, joined[name].to_list(), strict=True):
                column[index] = value
    work.add(view, values)


def _recompute_on_demand(plan: FeaturePlan, view: OnDemandView, work: _Work) -> None:
    """Calls the function for all predictions whose inputs are known, and leaves out those that it fails on."""
    on_demand = OnDemand(view, plan.input_dtypes)
    inputs: list[list[object]] = []
    for source in view.inputs:
        column = f"{source.view}__{source.name}"
        if source.view is None:
            inputs.append([prediction.request.get(source.name) for prediction in work.served])
        elif column in work.columns:
            inputs.append(work.columns[column].to_list())
        else:  # a skipped view
            inputs.append([None] * len(work.served))
            for failures in work.failures:
                failures[view.name] = f"{column} could not be recomputed"
    for failures in work.failures:
        for source in view.inputs:
            if source.view in failures:
                failures[view.name] = f"{source.view}__{source.name} could not be recomputed"
    values: dict[str, list[object]] = {field.name: [None] * len(work.served) for field in view.features}
    while indexes := [index for index, failures in enumerate(work.failures) if view.name not in failures]:
        try:
            columns = on_demand.compute_columns(
                [[column[p] for p in indexes] for column in inputs], len(indexes)
            )
        except OnDemandError as error:
            for index in indexes if error.row is None else [indexes[error.row]]:
                work.failures[index][view.name] = error.what
            continue
        for field, results in zip(view.features, columns, strict=True):
            for index, value in zip(indexes, results, strict=True):
                values[field.name][index] = value
        break
    work.add(view, values)


def _values_in_training(plan: FeaturePlan, work: _Work) -> dict[str, list[float | str | None]]:
    """Column → the values that the model would see in training, one for each prediction."""
    if not work.served:
        return {}
    frame = pl.DataFrame(
        {
            feature.column: work.columns.get(
                feature.column, pl.Series([None] * len(work.served), dtype=POLARS[feature.dtype])
            )
            for feature in plan.features
        }
    )
    return {name: values for name, values in values_in_training(plan, frame).items() if name in work.columns}


def values_in_training(plan: FeaturePlan, frame: pl.DataFrame) -> dict[str, list[float | str | None]]:
    """Column → the values that the model sees in training, of a frame with the plan's features; None is
    missing."""
    matrix = Matrix(plan)
    text = {f.column: frame[f.column].to_list() for f in plan.features if f.dtype == "string"}
    rows = matrix.values(matrix.of_frame(frame), text)
    columns = zip(*rows, strict=True) if rows else ([] for _ in matrix.columns)
    return {
        column: [None if value != value else value for value in values]
        for column, values in zip(matrix.columns, columns, strict=True)
    }
