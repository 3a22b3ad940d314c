"""Skew: compares served features with those that a training set made now has for the same moments.

Parity recomputes a prediction at its position and so proves the engine. Skew proves the training data: a model
learns from what a training set says that serving knew, and any difference is a feature that the model will not
get.

The reason of a difference is found by recomputing the prediction at other positions and by looking at the rows
of its table. Only the first reason that applies is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl
from msgspec import Struct

from headrace.features.checks.delays import AsOfReasons, DelayChoice, DelayCounts
from headrace.features.checks.parity import comparable
from headrace.features.checks.recompute import (
    ServedPrediction,
    recompute,
    values_in_training,
    views_of_edited_code,
)
from headrace.features.offline.compute.local import LocalCompute
from headrace.features.offline.parts import join_in_pieces
from headrace.features.offline.point_in_time import MOMENT
from headrace.features.online import StreamPosition
from headrace.features.plan import AsOfView, FeaturePlan, FeatureRef, OnDemandView, View, WindowedView
from headrace.features.values.columns import POLARS, micros_of
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.scratch import make_scratch
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.read import read_input, resolve_input

__all__ = ["Reason", "SkewCheck", "SkewExample", "SkewReport", "ViewSkew"]

Reason = Literal[
    "code changed",
    "online lag",
    "late event",
    "table not yet built",
    "delay too long",
    "row changed",
    "pushed row",
    "no position",
    "unexplained",
]
"""Why a served value differs from that of a training set:

- code changed: a rowwise function, or the function of the view's table, was edited since.
- online lag: events had arrived before the prediction, but the online store did not have them yet.
- late event: the training set counts events that arrived after the prediction, because they were loaded as
  history or their table does not say when they were known.
- table not yet built: the training set has a row, or lacks an event, that the last build before the prediction,
  or before the training set, did not have.
- delay too long: serving had a row that the view's declared delay hides from the training set.
- row changed: the row has other values now, or is gone.
- pushed row: serving had a row that no table has.
- no position: the model predicted without the online store, or the client gave a feature itself.
"""

_ARRIVED, _PARTITION, _OFFSET = "_arrived_at", "_log_partition", "_log_offset"


class SkewExample(Struct, frozen=True):
    """A served value that differs from the one that a training set has."""

    id: str
    column: str
    served: float | str | None
    trained: float | str | None
    reason: Reason


class ViewSkew(Struct, frozen=True):
    """The skew of one view.

    Attributes:
        predictions: how many predictions were compared.
        equal: how many of these have only equal values in the view.
        reasons: reason → how many of the other predictions it explains.
        delay: of an as-of view, the declared delay, seconds.
        better_delay: the delay with which the most predictions would see the row that was served, seconds; None
            if the declared one is as good, or the view is not an as-of view.
        equal_rows: how many predictions would see the row that was served with that delay.
    """

    predictions: int
    equal: int
    reasons: dict[Reason, int]
    delay: float | None = None
    better_delay: float | None = None
    equal_rows: int | None = None


class SkewReport(Struct, frozen=True):
    """The result of a skew check.

    Attributes:
        predictions: how many predictions were compared.
        equal: how many of these have only equal values.
        views: view → its skew.
        examples: some differences of each view and reason.
        failed: how many predictions a training set would leave out, because an on-demand function fails.
    """

    predictions: int
    equal: int
    views: dict[str, ViewSkew]
    examples: list[SkewExample]
    failed: int = 0


_Differences = dict[int, tuple[str, Any, Any]]
"""The predictions that differ in one view, by their indexes, each with a column and its two values."""


class SkewCheck:
    """Compares predictions with the rows that a training set made now would have for their moments.

    Predictions may come in parts. Its memory depends on the predictions of one part and on the setting
    `join_memory`, not on the size of the tables and topics (offline.parts).

    Args:
        project: the project that declares the topics and rowwise tables of the plan's views.
        lake: the lake.
        plan: the plan that was served.
        read: returns the rows of the table with the given name, as for a training set.
        codes: table → a function that returns the code that made a snapshot of it; the newest for 0.
        examples: how many differences of each view and reason to name.
    """

    def __init__(
        self,
        project: Project,
        lake: Lake,
        plan: FeaturePlan,
        read: Callable[[str], pl.LazyFrame],
        codes: Mapping[str, Callable[[int], str | None]],
        *,
        examples: int = 3,
    ) -> None:
        self._plan, self._read, self._most = plan, read, examples
        self._tables = _Tables(project, lake, plan, read, codes)
        used = {feature.view for feature in plan.features}
        self._counts = {view.name: _ViewCounts(view) for view in plan.views if view.name in used}
        self._predictions = self._equal = self._failed = 0

    def add(self, served: Sequence[ServedPrediction]) -> None:
        """Compares more predictions."""
        features, failed = _train(self._tables.project, self._plan, served, self._read)
        trained = values_in_training(self._plan, features)
        compared = [index for index in range(len(served)) if index not in failed]
        differing: dict[str, _Differences] = {name: {} for name in self._counts}
        for feature in self._plan.features:
            for index in compared:
                value = comparable(served[index].values.get(feature.column))
                if value != trained[feature.column][index]:
                    entry = (feature.column, value, trained[feature.column][index])
                    differing[feature.view].setdefault(index, entry)
        finder = _ReasonFinder(self._tables, served)
        for name, counts in self._counts.items():
            reasons = finder.find(name, list(differing[name]))
            counts.predictions += len(compared)
            counts.reasons.update(reasons.values())
            if isinstance(counts.view, AsOfView) and counts.delays is not None:
                counts.delays.add(finder.rows_of(counts.view).delay_limits(compared))
            for index, (column, value, other) in differing[name].items():
                shown = counts.examples.setdefault(reasons[index], [])
                if len(shown) < self._most:
                    shown.append(SkewExample(served[index].id, column, value, other, reasons[index]))
        unequal = {index for differences in differing.values() for index in differences}
        self._predictions += len(compared)
        self._equal += len(compared) - len(unequal)
        self._failed += len(failed)

    def report(self) -> SkewReport:
        """The report of all predictions."""
        views = {name: counts.report() for name, counts in self._counts.items()}
        examples = [
            example
            for counts in self._counts.values()
            for shown in counts.examples.values()
            for example in shown
        ]
        return SkewReport(self._predictions, self._equal, views, examples, self._failed)


class _ViewCounts:
    """What was found of one view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.predictions = 0
        self.reasons: Counter[Reason] = Counter()
        self.examples: dict[Reason, list[SkewExample]] = {}
        self.delays = DelayCounts(view.delay) if isinstance(view, AsOfView) else None

    def report(self) -> ViewSkew:
        choice = DelayChoice() if self.delays is None else self.delays.choose()
        equal = self.predictions - self.reasons.total()
        return ViewSkew(self.predictions, equal, dict(self.reasons.most_common()), *choice)


def _train(
    project: Project,
    plan: FeaturePlan,
    served: Sequence[ServedPrediction],
    read: Callable[[str], pl.LazyFrame],
) -> tuple[pl.DataFrame, dict[int, OnDemandError]]:
    """The features that a training set made now has, and the rows that it would leave out."""
    dtypes: dict[str, pl.DataType] = {key.join_key: POLARS[key.dtype] for key in plan.entities}
    dtypes |= {field.name: POLARS[field.dtype] for field in plan.request}
    columns = {
        name: pl.Series([p.keys.get(name, p.request.get(name)) for p in served], dtype=dtype, strict=False)
        for name, dtype in dtypes.items()
    }
    moments = pl.Series([from_micros(p.at) for p in served], dtype=pl.Datetime("us", "UTC"))
    failed: dict[int, OnDemandError] = {}
    with make_scratch(project.settings.find_scratch()) as folder:
        pieces = join_in_pieces(
            pl.DataFrame({**columns, MOMENT: moments}),
            plan,
            read,
            folder=folder,
            memory=project.settings.features.join_bytes,
            compute=LocalCompute(read),
            failed=failed,
        )
        rows = pl.concat(piece.select(feature.column for feature in plan.features) for piece in pieces)
    return rows, failed


class _Tables:
    """What reasons are found from."""

    def __init__(
        self,
        project: Project,
        lake: Lake,
        plan: FeaturePlan,
        read: Callable[[str], pl.LazyFrame],
        codes: Mapping[str, Callable[[int], str | None]],
    ) -> None:
        self.project, self.lake, self.plan = project, lake, plan
        self.read, self.codes = read, codes
        self.edited = views_of_edited_code(project, plan)
        self._snapshots: dict[str, int | None] = {}

    def events(self, topic: str) -> pl.LazyFrame:
        """The good events of a topic, of one snapshot for all predictions."""
        contract = self.project.contract(topic)
        if topic not in self._snapshots:
            self._snapshots[topic] = resolve_input(self.project, self.lake, contract).snapshot
        return read_input(self.project, self.lake, contract, self._snapshots[topic])


class _ReasonFinder:
    """Finds why predictions differ in a view."""

    def __init__(self, tables: _Tables, served: Sequence[ServedPrediction]) -> None:
        self._tables, self._plan, self._served = tables, tables.plan, served
        self._as_of: dict[str, AsOfReasons] = {}
        self._found: dict[tuple[str, int], Reason] = {}

    def find(self, view_name: str, indexes: Sequence[int]) -> dict[int, Reason]:
        """The reason of each of these predictions, all of which differ in the view."""
        missing = [index for index in indexes if (view_name, index) not in self._found]
        if missing:
            view = self._plan.view(view_name)
            away = [index for index in missing if not self._served[index].positions]
            self._found |= {(view_name, index): "no position" for index in away}
            missing = [index for index in missing if self._served[index].positions]
            if isinstance(view, OnDemandView):
                reasons = self._of_inputs(view, missing)
            elif view_name in self._tables.edited:
                reasons = dict.fromkeys(missing, "code changed")
            elif isinstance(view, WindowedView):
                reasons = self._of_events(view, missing)
            else:
                reasons = self.rows_of(view).find(missing)
            self._found |= {(view_name, index): reason for index, reason in reasons.items()}
        return {index: self._found[view_name, index] for index in indexes}

    def rows_of(self, view: AsOfView) -> AsOfReasons:
        """The rows of an as-of view, and the reasons that they tell."""
        if view.name not in self._as_of:
            tables = self._tables
            code = tables.codes.get(view.table, lambda _: None)
            self._as_of[view.name] = AsOfReasons(
                view, tables.read(view.table), self._served, code, strict=self._plan.is_strict(view)
            )
        return self._as_of[view.name]

    def _of_inputs(self, view: OnDemandView, indexes: Sequence[int]) -> dict[int, Reason]:
        """The reason of the first input that has one. An input need not be a feature of the plan."""
        reasons: dict[int, Reason] = dict.fromkeys(indexes, "unexplained")
        for source in reversed([source for source in view.inputs if source.view is not None]):
            of_input = self.find(str(source.view), indexes)
            reasons |= {index: reason for index, reason in of_input.items() if reason != "unexplained"}
        return reasons

    def _of_events(self, view: WindowedView, indexes: Sequence[int]) -> dict[int, Reason]:
        """Recomputes the predictions with the events that had arrived, and with all events by their times."""
        chosen = [self._served[index] for index in indexes]
        if not chosen:
            return {}
        events = self._tables.events(view.topic)
        arrived, ends = _find_offsets(events, [prediction.at for prediction in chosen])
        predictions = [
            *chosen,
            *(_at_offsets(p, view, offsets) for p, offsets in zip(chosen, arrived, strict=True)),
            *(_at_offsets(prediction, view, ends) for prediction in chosen),
        ]
        results = self._at(view, events, predictions)
        trained, _ = _train(self._tables.project, _only(self._plan, view), chosen, self._tables.read)
        thirds = (results[first : first + len(chosen)] for first in range(0, len(results), len(chosen)))
        rows = zip(*thirds, trained.rows(), strict=True)
        return {index: _reason_of(*row) for index, row in zip(indexes, rows, strict=True)}

    def _at(
        self, view: WindowedView, events: pl.LazyFrame, predictions: list[ServedPrediction]
    ) -> list[tuple[Any, ...] | None]:
        """The view's features at the positions of the predictions; None where they cannot be recomputed."""
        plan = _only(self._plan, view)
        columns = [feature.column for feature in plan.features]
        return [
            None if recomputed.failures else tuple(recomputed.features[column] for column in columns)
            for recomputed in recompute(
                self._tables.project, self._tables.lake, plan, predictions, sources={view.name: events}
            )
        ]


def _reason_of(
    served: tuple[Any, ...] | None,
    arrived: tuple[Any, ...] | None,
    timed: tuple[Any, ...] | None,
    trained: tuple[Any, ...],
) -> Reason:
    """The reason of a windowed view's difference.

    Args:
        served: the values recomputed at the position of the prediction.
        arrived: those with every event that had arrived by then.
        timed: those with every event by its time.
        trained: those of a training set.
    """
    if served is None or arrived is None or timed is None:
        return "unexplained"
    if _same(arrived, trained):
        return "unexplained" if _same(served, arrived) else "online lag"
    if not _same(timed, arrived):
        return "late event"
    return "table not yet built" if _same(served, arrived) else "online lag"


def _same(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return [comparable(value) for value in left] == [comparable(value) for value in right]


def _find_offsets(events: pl.LazyFrame, moments: Sequence[int]) -> tuple[list[dict[int, int]], dict[int, int]]:
    """For each moment, the position before the first event of each log partition that had not arrived by then;
    and the position after all events."""
    instants = np.unique(moments)
    passed = micros_of(_ARRIVED).map_batches(
        lambda arrivals: pl.Series(np.searchsorted(instants, arrivals.to_numpy(), "right")),
        return_dtype=pl.Int64,
        is_elementwise=True,
    )
    # Of the events of each partition between two moments, the first and the last offset.
    ranges = (
        events.select(_PARTITION, _OFFSET, passed.alias("passed"))
        .group_by(_PARTITION, "passed")
        .agg(pl.col(_OFFSET).min().alias("first"), pl.col(_OFFSET).max().alias("last"))
        .collect(engine="streaming")
    )
    ends = dict(ranges.group_by(_PARTITION).agg(pl.col("last").max() + 1).rows())
    places = np.searchsorted(instants, moments).tolist()
    offsets_at: list[dict[int, int]] = [{} for _ in moments]
    for partition, end in ends.items():
        firsts = np.full(len(instants) + 1, end, np.int64)
        members = ranges.filter(pl.col(_PARTITION) == partition)
        firsts[members["passed"].to_numpy()] = members["first"].to_numpy()
        # An event that arrived later may have a smaller offset.
        before = np.minimum.accumulate(firsts[::-1])[::-1].tolist()
        for offsets, place in zip(offsets_at, places, strict=True):
            offsets[partition] = before[place + 1]
    return offsets_at, ends


def _only(plan: FeaturePlan, view: WindowedView) -> FeaturePlan:
    """The plan with this view alone, all of whose features it has."""
    refs = tuple(FeatureRef(view.name, field.name, field.dtype) for field in view.features)
    return msgspec.structs.replace(plan, views=(view,), features=refs, missing="model")


def _at_offsets(prediction: ServedPrediction, view: WindowedView, offsets: dict[int, int]) -> ServedPrediction:
    return msgspec.structs.replace(prediction, positions={view.name: StreamPosition(offsets)})
