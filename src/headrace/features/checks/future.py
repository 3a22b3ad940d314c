"""Finds features that depend on what happens after a label's moment.

The tables are made twice: from the rows that there are, and from rows that differ after an instant
(tables.replay). The features of the labels until that instant must be equal to the last bit. A feature that is
not reads the future, by its table's function or by a time that is too early.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import polars as pl
from msgspec import Struct, structs

from headrace.declare.model import Model
from headrace.features.offline.point_in_time import MOMENT, join
from headrace.features.plan import FeaturePlan
from headrace.kernel.errors import ProjectError, Refused
from headrace.kernel.scratch import make_scratch
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.replay import BaseRows, read_base_rows, replay_tables

__all__ = ["FutureCheck", "MovedFeature", "check_future"]

_CHANGED = "__changed"
_INSTANT = pl.Datetime("us", "UTC")
_SEED = 1


class MovedFeature(Struct, frozen=True):
    """A feature that reads the future.

    Attributes:
        feature: its column, `view__feature`, or the name of a field of the request.
        labels: how many labels have another value of it once the rows after them are changed.
        share: their share of the labels that were compared.
        label: the keys and the moment of one of them.
        value: its value there.
        changed: the value with the changed rows.
    """

    feature: str
    labels: int
    share: float
    label: dict[str, object]
    value: object
    changed: object


class FutureCheck(Struct, frozen=True):
    """What came of changing the future of labels.

    Attributes:
        moments: the instants after which rows were changed, UTC; none if all labels have one moment.
        labels: how many labels were compared: for each instant, those until it.
        moved: the features that read the future, the greatest share first.
        unchanged: topics, sources and tables whose rows could not be changed, because their time is not known.
        left_out: instants at which a function fails on shuffled rows: all later rows were left out instead.
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
    into memory, and the tables are made `count` + 1 times.

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
    with make_scratch(project.settings.make_state() / "scratch") as folder:
        replays = _Replays(project, model, plan, names, base, folder)
        present = replays.replay([rows.rows for rows in base])
        labels = _labels_of(present, model, plan)
        moments = _choose_moments(labels, count)
        features = _features_of(present, labels, plan)
        moved: dict[str, MovedFeature] = {}
        compared, left_out = 0, []
        for number, moment in enumerate(moments):
            changed, is_shuffled = replays.replay_changed(moment, _SEED + 1_000 * number)
            if not is_shuffled:
                left_out.append(moment)
            until = labels[MOMENT] <= moment
            kept = labels.filter(until)
            compared += len(kept)
            _compare(kept, features.filter(until), _features_of(changed, kept, plan), plan, moved)
            _compare_requests(kept, _labels_of(changed, model, plan), plan, moved)
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

    def replay_changed(self, moment: datetime, seed: int) -> tuple[Lake, bool]:
        """As `replay`, of rows that are changed after the moment, and whether they are shuffled: if the
        function of a table fails on shuffled rows, all later rows are left out instead."""
        try:
            changed = self.replay([rows.change_after(moment, seed, shuffled=True) for rows in self.base])
        except (ProjectError, Refused):
            return self.replay([rows.change_after(moment, seed, shuffled=False) for rows in self.base]), False
        return changed, True


def _labels_of(lake: Lake, model: Model, plan: FeaturePlan) -> pl.DataFrame:
    """The keys, the moment and the request fields of the rows that have a label."""
    names = [*(entity.join_key for entity in plan.entities), MOMENT, *(field.name for field in plan.request)]
    wanted = list(dict.fromkeys(names))
    rows = lake.table(model.labels.name).scan().drop_nulls(model.target).select(wanted)
    return rows.with_columns(pl.col(MOMENT).cast(_INSTANT)).sort(wanted).collect()


def _choose_moments(labels: pl.DataFrame, count: int) -> list[datetime]:
    """Instants that divide the labels into parts of equal size, each before the last label; none if all labels
    have one moment."""
    moments = labels[MOMENT].sort()
    places = [len(moments) * (number + 1) // (count + 1) for number in range(count)]
    chosen = sorted({moments[place] for place in places}) if len(moments) else []
    return [moment for moment in chosen if moment < moments[-1]]


def _features_of(lake: Lake, labels: pl.DataFrame, plan: FeaturePlan) -> pl.DataFrame:
    """The features of the labels, in their order. Where an on-demand function fails they are null."""
    rows = join(labels, plan, lambda name: lake.table(name).scan(), failed={})
    return rows.select(feature.column for feature in plan.features)


def _compare(
    labels: pl.DataFrame,
    before: pl.DataFrame,
    after: pl.DataFrame,
    plan: FeaturePlan,
    moved: dict[str, MovedFeature],
) -> None:
    """Adds the columns in which the frames, each with a row for each label, differ."""
    names = [*dict.fromkeys(entity.join_key for entity in plan.entities), MOMENT]
    for column in before.columns:
        places = before[column].ne_missing(after[column]).arg_true()
        if len(places):
            place = places[0]
            known = moved.get(column)
            moved[column] = MovedFeature(
                feature=column,
                labels=len(places) + (0 if known is None else known.labels),
                share=0.0,
                label=labels.select(names).row(place, named=True),
                value=before[column][place],
                changed=after[column][place],
            )


def _compare_requests(
    labels: pl.DataFrame, changed: pl.DataFrame, plan: FeaturePlan, moved: dict[str, MovedFeature]
) -> None:
    """Adds the fields of the request that differ between the labels' tables, for labels that both have once."""
    fields = [field.name for field in plan.request]
    keys = [*dict.fromkeys(entity.join_key for entity in plan.entities), MOMENT]
    if not fields:
        return
    once = [rows.unique(keys, keep="none") for rows in (labels, changed)]
    pairs = once[0].join(once[1], on=keys, how="inner", suffix=_CHANGED)
    before = pairs.select(fields)
    after = pairs.select(pl.col(f"{name}{_CHANGED}").alias(name) for name in fields)
    _compare(pairs, before, after, plan, moved)
