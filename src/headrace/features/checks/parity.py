"""Parity: what was served, computed again offline at the same moment and position, and compared.

A served value stands for a position: the events before it (a windowed view), or a row of a snapshot
(an as-of view). So it can be computed again from the lake alone, however late events came since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
from msgspec import Struct

from headrace.features.offline.point_in_time import MOMENT, add_on_demand, join_as_of
from headrace.features.offline.rowwise import codes_of, is_of_other_code, rows_of
from headrace.features.offline.windows import aggregate
from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.features.values.columns import POLARS, micros_of
from headrace.features.values.matrix import Matrix
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.errors import CallError
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.read import read_input

__all__ = ["Difference", "ParityReport", "ServedPrediction", "behind", "check"]

_ROW, _AT, _UNTIL = "__row", "__at", "__until"
_PARTITION, _OFFSET = "_log_partition", "_log_offset"
_INSTANT = pl.Datetime("us", "UTC")
_TOGETHER = 2_000  # predictions that are joined with their events at once


class ServedPrediction(Struct, frozen=True):
    """One prediction, as its log tells it.

    Attributes:
        id: its id.
        at: its moment, microseconds.
        keys: join key → value.
        values: column (`view__feature`) → the value the model saw; None or NaN is missing.
        positions: view → the position its values stand for.
        request: what else the request carried, by the plan's dtypes (`conversion.decode_fields`).
    """

    id: str
    at: int
    keys: dict[str, int | str]
    values: dict[str, float | str | None]
    positions: dict[str, ServedPosition]
    request: dict[str, Any] = {}


class Difference(Struct, frozen=True):
    """A value that was served, and another that training would have computed."""

    id: str
    column: str
    served: float | str | None
    recomputed: float | str | None


class ParityReport(Struct, frozen=True):
    """What a check found.

    Attributes:
        checked: predictions of which every value could be computed again.
        equal: those of them of which every value is the same, to the bit.
        differing: the values that are not.
        not_checkable: why a prediction could not be computed again → how many.
        code_changed: predictions of which some values could not be computed again, because a rowwise function
            was edited since their version was trained. Their other values were compared.
    """

    checked: int
    equal: int
    differing: list[Difference]
    not_checkable: dict[str, int]
    code_changed: int = 0


def check(project: Project, lake: Lake, plan: FeaturePlan, served: Iterable[ServedPrediction]) -> ParityReport:
    """Computes predictions' features again from the lake, and compares.

    Args:
        project: it declares the topics and rowwise tables of the plan's views, as they were then.
        lake: it holds the topics' tables, and the snapshots that as-of values came from.
        plan: the plan that was served.
        served: the predictions.

    Returns:
        The report. The features are computed by the path that training takes: the offline join, the on-demand
        functions over whole columns, and the matrix that the model learns from.
    """
    every = list(served)
    reasons: dict[int, str] = {}
    made: dict[str, pl.Series] = {}
    codes = codes_of(project)
    changed = {view.name for view in plan.windowed if is_of_other_code(view, codes)}
    for view in plan.windowed:
        if view.name in changed:
            made |= _nothing(view, len(every))
        else:
            made |= _windowed(project, lake, view, every, reasons)
    for as_of_view in plan.as_of:
        made |= _as_of(lake, plan, as_of_view, every, reasons)
    for computed in plan.on_demand:
        if changed & {one.view for one in computed.inputs}:
            changed.add(computed.name)
    again = _seen_in_training(plan, every, made, changed, reasons)
    compared = [one.column for one in plan.features if one.view not in changed]
    differing = [
        Difference(one.id, column, _value(one.values.get(column)), _value(again[place][column]))
        for place, one in enumerate(every)
        if place not in reasons
        for column in compared
        if _value(one.values.get(column)) != _value(again[place][column])
    ]
    count = len(every) - len(reasons)
    code_changed = count if changed else 0
    checked = count - code_changed
    equal = checked - len({one.id for one in differing}) if not changed else 0
    return ParityReport(checked, equal, differing, dict(Counter(reasons.values())), code_changed)


def _seen_in_training(
    plan: FeaturePlan,
    served: Sequence[ServedPrediction],
    made: dict[str, pl.Series],
    changed: AbstractSet[str],
    reasons: dict[int, str],
) -> dict[int, dict[str, float | str | None]]:
    """Place of a prediction → column → the value that training gives the model, for those without a reason.

    A prediction that an on-demand function fails on gets one.
    """
    kept = msgspec.structs.replace(plan, views=tuple(one for one in plan.views if one.name not in changed))
    request = pl.DataFrame(
        [[one.id, *(one.request.get(field.name) for field in plan.request)] for one in served],
        {_ROW: pl.String, **{field.name: POLARS[field.dtype] for field in plan.request}},
        orient="row",
    )
    columns = None
    while columns is None:
        places = [place for place in range(len(served)) if place not in reasons]
        if not places:
            return {}
        columns = {name: column.gather(places) for name, column in made.items()}
        try:
            add_on_demand(kept, request[places], columns)
        except OnDemandError as error:
            failed = places if error.row is None else [places[error.row]]
            reasons.update((place, f"{error.where}: {error.what}") for place in failed)
            columns = None
    for one in plan.features:
        if one.column not in columns:  # of an on-demand view that could not be computed
            columns[one.column] = pl.Series(one.column, [None] * len(places), POLARS[one.dtype])
    frame = pl.DataFrame({one.column: columns[one.column] for one in plan.features})
    matrix = Matrix(plan)
    text = {one.column: frame[one.column].to_list() for one in plan.features if one.dtype == "string"}
    rows = matrix.values(matrix.of_frame(frame), text)
    return {place: dict(zip(matrix.columns, row, strict=True)) for place, row in zip(places, rows, strict=True)}


def _nothing(view: StoredView, count: int) -> dict[str, pl.Series]:
    return {
        f"{view.name}__{one.name}": pl.Series([None] * count, dtype=POLARS[one.dtype]) for one in view.features
    }


def behind(
    project: Project,
    lake: Lake,
    view: WindowedView,
    keys: Mapping[str, int | str],
    at: int,
    position: StreamPosition,
) -> pa.Table:
    """The events that a windowed view's values were made of.

    Args:
        project, lake: as in `check`.
        view: the view.
        keys: the entity.
        at: the moment, microseconds.
        position: what the values stand for.

    Returns:
        The topic's rows: the contract's fields, `_log_partition`, `_log_offset`, `_arrived_at`; in
        the order of the log. They lie in the longest of the view's windows.
    """
    contract = project.contract(view.topic)
    events = read_input(project, lake, contract).filter(pl.col(_OFFSET) < _until(position))
    for key in view.keys:
        if key in contract.struct.__struct_fields__:
            events = events.filter(pl.col(key) == keys[key])
    rows = events.sort(_PARTITION, _OFFSET).collect()
    own = rows_of(project, [view])
    begin = min((at - one.window) // one.hop * one.hop for one in view.aggregations)
    mine = pl.all_horizontal(
        *(pl.col(key) == keys[key] for key in view.keys),
        micros_of(view.time).is_between(begin, at, closed="left"),
    )
    behind_it = [place for place in range(len(rows)) if len(own(rows[place].lazy()).filter(mine).collect())]
    return rows[behind_it].to_arrow()


def _windowed(
    project: Project,
    lake: Lake,
    view: WindowedView,
    served: Sequence[ServedPrediction],
    reasons: dict[int, str],
) -> dict[str, pl.Series]:
    """Column → the view's values again, for each prediction; why not, into `reasons`."""
    moments = []
    asked: list[tuple[object, ...]] = []  # prediction, log partition, its end, keys
    for place, one in enumerate(served):
        position = one.positions.get(view.name)
        if not isinstance(position, StreamPosition):
            reasons[place] = f"it has no position of {view.name}"
            position = StreamPosition({})
        moments.append((place, from_micros(one.at)))
        keys = [one.keys.get(key) for key in view.keys]
        asked.extend((place, partition, until, *keys) for partition, until in position.offsets.items())
    rows = pl.DataFrame(moments, {_ROW: pl.Int64, _AT: _INSTANT}, orient="row")
    ends = {
        end
        for one in served
        if isinstance(position := one.positions.get(view.name), StreamPosition)
        for end in position.offsets.items()
    }
    events = _placed(project, lake, view, ends)
    key_types = {key: events.schema[key] for key in view.keys}
    table = pl.DataFrame(
        asked, {_ROW: pl.Int64, _PARTITION: pl.Int32, _UNTIL: pl.Int64, **key_types}, orient="row"
    )
    # Each prediction is an entity of its own, with the events that it saw.
    by_row = msgspec.structs.replace(view, keys=(_ROW,))
    made = []
    for first in range(0, len(rows), _TOGETHER):
        some = table.filter(pl.col(_ROW).is_between(first, first + _TOGETHER, closed="left"))
        seen = some.join(events, on=[*view.keys, _PARTITION]).filter(pl.col(_OFFSET) < pl.col(_UNTIL))
        made.append(aggregate(by_row, rows[first : first + _TOGETHER], seen, at=_AT))
    if not made:
        return _nothing(view, 0)
    every = pl.concat(made)
    return {f"{view.name}__{one.name}": every[one.name] for one in view.aggregations}


def _placed(project: Project, lake: Lake, view: WindowedView, ends: set[tuple[int, int]]) -> pl.DataFrame:
    """The rows of the view's table, each with where in the log it comes from, as closely as the
    positions (log partition, end) tell them apart.

    The function keeps no offsets, but f(a + b) = f(a) + f(b): so it is run on each piece of the log
    that lies between two positions, and what comes out bears the piece's first offset.
    """
    contract, rows = project.contract(view.topic), rows_of(project, [view])
    events = read_input(project, lake, contract).collect().sort(_PARTITION, _OFFSET)
    pieces = [_marked(rows(events[:0].lazy()), 0, 0)]
    for partition in sorted({partition for partition, _ in ends}):
        part = events.filter(pl.col(_PARTITION) == partition)
        cuts = [0, *sorted({end for one, end in ends if one == partition and end > 0})]
        places = part[_OFFSET].search_sorted(pl.Series(cuts)).to_list()
        for (first, begin), (_, end) in pairwise(zip(cuts, places, strict=True)):
            if end > begin:
                pieces.append(_marked(rows(part[begin:end].lazy()), partition, first))
    return pl.concat(pl.collect_all(pieces))


def _marked(rows: pl.LazyFrame, partition: int, offset: int) -> pl.LazyFrame:
    return rows.with_columns(
        pl.lit(partition, pl.Int32).alias(_PARTITION), pl.lit(offset, pl.Int64).alias(_OFFSET)
    )


def _as_of(
    lake: Lake, plan: FeaturePlan, view: AsOfView, served: Sequence[ServedPrediction], reasons: dict[int, str]
) -> dict[str, pl.Series]:
    """As `_windowed`, from the snapshots that the rows came from."""
    values: dict[str, list[object]] = {
        f"{view.name}__{one.name}": [None] * len(served) for one in view.features
    }
    by_snapshot: dict[int, list[int]] = {}
    for place, one in enumerate(served):
        position = one.positions.get(view.name)
        if isinstance(position, RowPosition) and position.snapshot is not None:
            by_snapshot.setdefault(position.snapshot, []).append(place)
        else:
            reasons[place] = f"it has no position of {view.name}"
    for snapshot, places in by_snapshot.items():
        try:
            table = lake.table(view.table).scan(snapshot)
        except CallError:
            reasons.update((place, f"snapshot {snapshot} of {view.table} is gone") for place in places)
            continue
        schema = table.collect_schema()
        rows = pl.DataFrame(
            [
                (*(served[place].keys.get(key) for key in view.keys), from_micros(served[place].at))
                for place in places
            ],
            {**{key: schema[key] for key in view.keys}, MOMENT: _INSTANT},
            orient="row",
        )
        made = join_as_of(rows, view, table, strict=plan.is_strict(view))
        for one_feature in view.features:
            column = values[f"{view.name}__{one_feature.name}"]
            for place, value in zip(places, made[one_feature.name].to_list(), strict=True):
                column[place] = value
    return {
        f"{view.name}__{one.name}": pl.Series(values[f"{view.name}__{one.name}"], dtype=POLARS[one.dtype])
        for one in view.features
    }


def _until(position: StreamPosition) -> pl.Expr:
    """The first offset, of an event's log partition, that is not in the position."""
    return pl.col(_PARTITION).replace_strict(position.offsets, default=0, return_dtype=pl.Int64)


def _value(value: Any) -> Any:
    """A value as it is compared: None for NaN."""
    return None if value != value else value
