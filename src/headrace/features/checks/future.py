"""Finds features that depend on what happens after a label's moment.

The tables are made from the rows that there are, and from rows that differ after an instant (tables.replay).
The features of the labels until that instant must be equal. A feature that is not reads the future, by its
table's function or by a time that is too early. Numbers that differ by less than a billionth of themselves
count as equal: a function may add the same numbers in another order when there are other rows.

Each instant has two futures. In one all later rows are left out; in the other half of them are, and the rest is
shuffled. Either alone would miss a feature: whether there is a later row, or which one of two comes first.
"""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Sequence
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import polars as pl
from msgspec import Struct, structs

from headrace.declare.model import Model
from headrace.features.offline.point_in_time import MOMENT, FailureLimits, join
from headrace.features.plan import FeaturePlan
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.errors import ProjectError, Refused
from headrace.kernel.scratch import make_scratch
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.replay import BaseRows, read_base_rows, replay_tables

__all__ = ["FutureCheck", "MovedFeature", "check_future"]

_CHANGED, _PLACE = "__changed", "__place"
_INSTANT = pl.Datetime("us", "UTC")
_SEED = 1
_ROUNDING = 1e-9  # of a number


class MovedFeature(Struct, frozen=True):
    """A feature that reads the future.

    Attributes:
        feature: its column, `view__feature`, or the name of a field of the request.
        labels: how many labels have another value of it once the rows after them are changed.
        share: their share of the labels that were compared.
        label: the keys and the moment of one of them.
        value: its value there.
        changed: the value with the changed rows.
        error: why its on-demand function fails with the changed rows; None: it does not.
    """

    feature: str
    labels: int
    share: float
    label: dict[str, object]
    value: object
    changed: object
    error: str | None = None


class FutureCheck(Struct, frozen=True):
    """What came of changing the future of labels.

    Attributes:
        moments: the instants after which rows were changed, UTC; none if all labels have one moment.
        labels: how many labels were compared: for each instant, those until it.
        moved: the features that read the future, the greatest share first.
        unchanged: topics, sources and tables whose rows could not be changed, because their time is not known.
        left_out: instants at which a function fails on shuffled rows: later rows were only left out.
    """

    moments: list[datetime]
    labels: int
    moved: list[MovedFeature]
    unchanged: list[str]
    left_out: list[datetime] = []


def check_future(
    project: Project, lake: Lake, model: Model, plan: FeaturePlan, *, count: int = 2
) -> FutureCheck:
    """Changes the rows after `count` instants, and compares the features of the labels until each.

    The instants divide the labels into parts of equal size. All rows that the tables are made from are read
    into memory, and the tables are made 2 · `count` + 1 times.

    Args:
        project, lake: the project and its lake, with every table that is needed.
        model: the model.
        plan: the plan of its features.
        count: how many instants.

    Raises:
        CallError: a table has not been built yet.
        ProjectError: a function failed on the rows that there are.
    """
    names = [model.labels.name, *(view.table for view in plan.stored)]
    base = read_base_rows(project, lake, names)
    with make_scratch(project.settings.find_scratch()) as folder:
        replays = _Replays(project, model, plan, names, base, folder)
        present = replays.replay([rows.rows for rows in base])
        labels = _labels_of(present, present, model, plan)
        moments = _choose_moments(labels, count)
        features = _features_of(present, present, labels, plan)
        fields = [field.name for field in plan.request]
        moved: dict[str, MovedFeature] = {}
        compared, left_out = 0, []
        for number, moment in enumerate(moments):
            futures = [replays.replay_changed(moment, None)]
            try:
                futures.append(replays.replay_changed(moment, _SEED + 1_000 * number))
            except (ProjectError, Refused):  # a function fails on shuffled rows
                left_out.append(moment)
            until = labels[MOMENT] <= moment
            kept = labels.filter(until)
            compared += len(kept)
            before = _Features(features.rows.filter(until), {})
            after = [_features_of(changed, present, kept, plan) for changed in futures]
            _add_moved(kept, before, after, plan, moved)
            tables = [_labels_of(changed, present, model, plan) for changed in futures]
            asked = [_find_requests(kept, changed, plan) for changed in tables]
            _add_moved(kept, _Features(kept.select(fields), {}), asked, plan, moved)
    ordered = sorted(
        (structs.replace(feature, share=feature.labels / compared) for feature in moved.values()),
        key=lambda feature: -feature.labels,
    )
    unchanged = sorted(rows.name for rows in base if rows.time is None)
    return FutureCheck(moments, compared, ordered, unchanged, left_out)


class _Replays(Struct, frozen=True):
    """Makes a model's tables from base rows, each time in a folder of its own."""

    project: Project
    model: Model
    plan: FeaturePlan
    names: list[str]
    base: list[BaseRows]
    folder: Path

    def replay(self, frames: Sequence[pl.DataFrame]) -> Lake:
        """The lake with the tables that are made from these frames, one for each of `base`."""
        scratch = Path(tempfile.mkdtemp(dir=self.folder))
        return replay_tables(self.project, self.names, list(zip(self.base, frames, strict=True)), scratch)

    def replay_changed(self, moment: datetime, seed: int | None) -> Lake:
        """As `replay`, of rows that are changed after the moment: shuffled and half of them left out; without a
        seed all left out.

        Raises:
            ProjectError, Refused: the function of a table fails on such rows.
        """
        return self.replay([rows.change_after(moment, seed) for rows in self.base])


class _Features(NamedTuple):
    """The features of labels, in their order, and on which of them an on-demand function fails: its features
    are null there."""

    rows: pl.DataFrame
    failed: dict[int, OnDemandError]


def _labels_of(lake: Lake, present: Lake, model: Model, plan: FeaturePlan) -> pl.DataFrame:
    """The keys, the moment and the request fields of the rows that have a label."""
    names = [*(entity.join_key for entity in plan.entities), MOMENT, *(field.name for field in plan.request)]
    wanted = list(dict.fromkeys(names))
    rows = _scan(lake, present, model.labels.name).drop_nulls(model.target).select(wanted)
    return rows.with_columns(pl.col(MOMENT).cast(_INSTANT)).sort(wanted).collect()


def _choose_moments(labels: pl.DataFrame, count: int) -> list[datetime]:
    """Instants that divide the labels into parts of equal size, each before the last label; none if all labels
    have one moment."""
    moments = labels[MOMENT].sort()
    places = [len(moments) * (number + 1) // (count + 1) for number in range(count)]
    chosen = sorted({moments[place] for place in places}) if len(moments) else []
    return [moment for moment in chosen if moment < moments[-1]]


def _features_of(lake: Lake, present: Lake, labels: pl.DataFrame, plan: FeaturePlan) -> _Features:
    failed: dict[int, OnDemandError] = {}
    limits = FailureLimits(len(labels), limit=len(labels))
    rows = join(labels, plan, lambda name: _scan(lake, present, name), failed=failed, limits=limits)
    return _Features(rows.select(feature.column for feature in plan.features), failed)


def _add_moved(
    labels: pl.DataFrame,
    before: _Features,
    futures: Sequence[_Features],
    plan: FeaturePlan,
    moved: dict[str, MovedFeature],
) -> None:
    """Adds the columns that differ in any of the futures. All frames have a row for each label."""
    names = [*dict.fromkeys(entity.join_key for entity in plan.entities), MOMENT]
    for column in before.rows.columns:
        differs = [_differ(before.rows[column], after.rows[column]) for after in futures]
        count = int(reduce(operator.or_, differs).sum())
        if not count:
            continue
        number, place = next((n, int(other.arg_max() or 0)) for n, other in enumerate(differs) if other.any())
        failure, known = futures[number].failed.get(place), moved.get(column)
        moved[column] = MovedFeature(
            feature=column,
            labels=count + (0 if known is None else known.labels),
            share=0.0,
            label=labels.select(names).row(place, named=True),
            value=before.rows[column].slice(place, 1).to_list()[0],
            changed=futures[number].rows[column].slice(place, 1).to_list()[0],
            error=failure.what if failure and column.startswith(f"{failure.where}__") else None,
        )


def _differ(before: pl.Series, after: pl.Series) -> pl.Series:
    """Where two columns of one type differ, floating-point numbers by more than their rounding."""
    differs = before.ne_missing(after)
    if not before.dtype.is_float():
        return differs
    most = pl.select(pl.max_horizontal(before.abs(), after.abs())).to_series()
    is_close = most.is_finite() & ((before - after).abs() <= _ROUNDING * most)
    return differs & ~is_close.fill_null(value=False)


def _find_requests(labels: pl.DataFrame, changed: pl.DataFrame, plan: FeaturePlan) -> _Features:
    """The fields of the request of these labels in another table of labels; where the two do not both have a
    label once, those that it has."""
    fields = [field.name for field in plan.request]
    keys = [*dict.fromkeys(entity.join_key for entity in plan.entities), MOMENT]
    rows = labels.with_row_index(_PLACE)
    renamed = changed.unique(keys, keep="none").rename({name: f"{name}{_CHANGED}" for name in fields})
    pairs = rows.unique(keys, keep="none").join(renamed, on=keys, how="inner")
    others = pairs.select(_PLACE, *(f"{name}{_CHANGED}" for name in fields), pl.lit(value=True).alias(_CHANGED))
    aligned = rows.join(others, on=_PLACE, how="left", maintain_order="left")
    own = pl.col(_CHANGED).is_null()
    fields_now = (pl.when(own).then(name).otherwise(f"{name}{_CHANGED}").alias(name) for name in fields)
    return _Features(aligned.select(fields_now), {})


def _scan(lake: Lake, present: Lake, name: str) -> pl.LazyFrame:
    """The rows of a table; none if no row of it is left in this replay, and so no table."""
    if lake.table_exists(name):
        return lake.table(name).scan()
    return pl.LazyFrame(schema=present.table(name).scan().collect_schema())
