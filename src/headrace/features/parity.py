"""Parity: what was served, computed again offline at the same moment and position, and compared.

A served value stands for a position: the events before it (a windowed view), or a row of a snapshot
(an as-of view). So it can be computed again from the lake alone, however late events came since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec
import polars as pl
import pyarrow as pa
from msgspec import Struct

from headrace.declare.project import Project
from headrace.features.counted import micros_of
from headrace.features.on_demand import OnDemand
from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.plan import AsOfView, Plan, WindowedView
from headrace.features.point_in_time import MOMENT, join_as_of
from headrace.features.rowwise import rows_of
from headrace.features.windows import aggregate
from headrace.kernel.errors import CallError
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.tables import read_input

__all__ = ["Difference", "ParityReport", "Served", "behind", "check"]

_ROW, _AT, _UNTIL = "__row", "__at", "__until"
_PARTITION, _OFFSET = "_log_partition", "_log_offset"
_INSTANT = pl.Datetime("us", "UTC")
_TOGETHER = 2_000  # predictions that are joined with their events at once


class Served(Struct, frozen=True):
    """One prediction, as its log tells it.

    Attributes:
        id: its id.
        at: its moment, microseconds.
        keys: join key → value.
        request: what else the request carried.
        values: column (`view__feature`) → the value the model saw; None or NaN is missing.
        positions: view → the position its values stand for.
    """

    id: str
    at: int
    keys: dict[str, int | str]
    values: dict[str, float | None]
    positions: dict[str, ServedPosition]
    request: dict[str, object] = {}


class Difference(Struct, frozen=True):
    """A value that was served, and another that comes out of the lake."""

    id: str
    column: str
    served: float | None
    recomputed: float | None


class ParityReport(Struct, frozen=True):
    """What a check found.

    Attributes:
        checked: predictions of which every value could be computed again.
        equal: those of them of which every value is the same, to the bit.
        differing: the values that are not.
        not_checkable: why a prediction could not be computed again → how many.
    """

    checked: int
    equal: int
    differing: list[Difference]
    not_checkable: dict[str, int]


def check(project: Project, lake: Lake, plan: Plan, served: Iterable[Served]) -> ParityReport:
    """Computes predictions' features again from the lake, and compares.

    Args:
        project: it declares the topics and rowwise tables of the plan's views, as they were then.
        lake: it holds the topics' tables, and the snapshots that as-of values came from.
        plan: the plan that was served.
        served: the predictions.
    """
    every = list(served)
    reasons: dict[int, str] = {}
    found: dict[str, list[object]] = {}
    for view in plan.windowed:
        found |= _windowed(project, lake, view, every, reasons)
    for as_of_view in plan.as_of:
        found |= _as_of(lake, plan, as_of_view, every, reasons)
    for computed in plan.on_demand:
        on_demand = OnDemand(computed)
        inputs: dict[str, list[object]] = {
            name: [one.request.get(given.name) for one in every]
            if given.view is None
            else found[f"{given.view}__{given.name}"]
            for name, given in on_demand.inputs
        }
        columns = on_demand.columns(inputs, len(every))
        found |= {
            f"{computed.name}__{name}": column for name, column in zip(on_demand.names, columns, strict=True)
        }
    defaults = plan.missing if isinstance(plan.missing, dict) else {}
    differing = []
    for place, one in enumerate(every):
        if place not in reasons:
            for column in (feature.column for feature in plan.features):
                again = found[column][place]
                again = defaults.get(column) if again is None else again
                if _number(one.values.get(column)) != _number(again):
                    differing.append(
                        Difference(one.id, column, _number(one.values.get(column)), _number(again))
                    )
    checked = len(every) - len(reasons)
    return ParityReport(
        checked, checked - len({one.id for one in differing}), differing, dict(Counter(reasons.values()))
    )


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
    project: Project, lake: Lake, view: WindowedView, served: Sequence[Served], reasons: dict[int, str]
) -> dict[str, list[object]]:
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
    return {f"{view.name}__{one.name}": _listed(made, one.name) for one in view.aggregations}


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
    lake: Lake, plan: Plan, view: AsOfView, served: Sequence[Served], reasons: dict[int, str]
) -> dict[str, list[object]]:
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
        made = join_as_of(rows, view, table, strict=plan.strict(view))
        for one_feature in view.features:
            column = values[f"{view.name}__{one_feature.name}"]
            for place, value in zip(places, made[one_feature.name].to_list(), strict=True):
                column[place] = value
    return values


def _until(position: StreamPosition) -> pl.Expr:
    """The first offset, of an event's log partition, that is not in the position."""
    return pl.col(_PARTITION).replace_strict(position.offsets, default=0, return_dtype=pl.Int64)


def _listed(parts: list[pl.DataFrame], name: str) -> list[object]:
    return [value for part in parts for value in part[name].to_list()]


def _number(value: object) -> float | None:
    """A value as the matrix held it: a float, None for missing."""
    if value is None or not isinstance(value, (int, float)):
        return None
    number = float(value)
    return None if number != number else number
