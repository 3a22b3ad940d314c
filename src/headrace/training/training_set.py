"""The training set: labels joined point-in-time with features, kept as a table.

Its snapshot is pinned, and so are the snapshots it was made from, before the first of their rows is
read: a version's data can be read again for as long as the pins stand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import polars as pl
from msgspec import Struct

from headrace.declare.model import Model
from headrace.features.offline.point_in_time import join
from headrace.features.plan import FeaturePlan
from headrace.features.values.matrix import Matrix
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Refused
from headrace.kernel.position import SnapshotPosition, encode_position
from headrace.kernel.properties import INPUT, INPUTS_DIGEST, UNLABELLED_ROWS
from headrace.kernel.run import Dataset, run
from headrace.lake import Lake, LakeTable, Snapshot
from headrace.projects.project import Project
from headrace.training.split import MOMENT

__all__ = ["Rows", "TrainingSet", "keep_for", "make", "read", "reader"]

_logger = logging.getLogger(__name__)


class TrainingSet(Struct, frozen=True):
    """One training set.

    Attributes:
        model: whose.
        table, snapshot: where its rows are: the join keys, `event_timestamp`, the request's fields,
            the target, and a column `view__feature` for each feature of the plan.
        inputs: table → the snapshot that was read.
        plan: the plan's digest.
        rows: how many.
        refused: how many labelled rows were left out, because their label is null.
    """

    model: str
    table: str
    snapshot: int
    inputs: dict[str, int]
    plan: str
    rows: int
    refused: int


def make(
    project: Project, lake: Lake, model: Model, plan: FeaturePlan, *, inputs: Mapping[str, int] | None = None
) -> TrainingSet:
    """Makes the training set, unless it is already made from just these snapshots.

    Args:
        project, lake: whose.
        model: whose labels.
        plan: the features.
        inputs: table → the snapshot to read; of tables that it does not name, the newest.

    Raises:
        CallError: a table it reads has not been built, or a snapshot has expired.
        Refused: there is no row with a label, or the target is something else than 0 and 1.
        ProjectError: the labels lack a column that the plan needs.
    """
    with run(f"training set {model.name}") as this:
        pinned = _pinned(lake, model, plan, inputs or {})
        for name, snapshot in pinned.items():
            this.input(Dataset("table", name, SnapshotPosition(name, snapshot)))
        table, made_from = f"training_{model.name}", _made_from(model, plan, pinned)
        head = lake.table(table).current_snapshot() if lake.exists(table) else None
        if head is None or head.summary.get(INPUTS_DIGEST) != made_from:
            head = _made(project, lake, model, plan, pinned, made_from)
        lake.table(table).create_tag(f"training.{head.id}", head.id)
        made = TrainingSet(
            model.name,
            table,
            head.id,
            pinned,
            plan.digest,
            head.rows,
            int(head.summary.get(UNLABELLED_ROWS, 0)),
        )
        this.output(Dataset("table", table, SnapshotPosition(table, head.id), {"rows": head.rows}))
        this.fact(rows=made.rows, refused=made.refused, plan=plan.digest)
    return made


def keep_for(lake: Lake, made: TrainingSet, version: int) -> None:
    """Pins the training set and what it was made from for as long as the version is wanted, and lets go of
    those of the model that no version was made of; the newest stays.

    To be called when the version is registered. Done again, it changes nothing.

    Raises:
        CallError: a snapshot has expired.
    """
    held = {made.table: made.snapshot, **made.inputs}
    for name, snapshot in held.items():
        lake.table(name).create_tag(f"version.{made.model}.{version}", snapshot)
    head = lake.table(made.table).current_snapshot()
    newest = {made.snapshot, *([] if head is None else [head.id])}
    for name, snapshot in held.items():
        table = lake.table(name)
        own = "training." if name == made.table else f"training.{made.model}."
        wanted = newest if name == made.table else {snapshot}
        for pin, pinned in table.tags().items():
            if pin.startswith(own) and pinned not in wanted:
                table.remove_tag(pin)


class Rows(Struct, frozen=True):
    """The rows of a training set that a model learns from and is tried on.

    Attributes:
        frame: what a request carries, `event_timestamp`, the target, and the plan's features.
        incomplete: how many rows were left out, because serving would refuse to answer them
            (`missing="refuse"`).
        infinite: feature → in how many of the frame's rows it is infinite, and so missing.
    """

    frame: pl.DataFrame
    incomplete: int
    infinite: dict[str, int]


def read(lake: Lake, made: TrainingSet, plan: FeaturePlan, target: str) -> Rows:
    """The rows of the training set that serving would answer.

    Raises:
        Refused: the plan refuses missing features, and every row lacks one.
    """
    asked = [*(one.join_key for one in plan.entities), *(one.name for one in plan.request)]
    columns = [*asked, MOMENT, target, *(one.column for one in plan.features)]
    frame = lake.table(made.table).scan(made.snapshot).select(list(dict.fromkeys(columns))).collect()
    matrix = Matrix(plan)
    infinite = matrix.count_infinite(frame)
    if infinite:
        counts = ", ".join(f"{name} in {count:,} rows" for name, count in infinite.items())
        _logger.warning("model %s: infinite, and so taken as missing: %s", made.model, counts)
    complete = frame.filter(matrix.complete(frame)) if plan.missing == "refuse" else frame
    if complete.is_empty() and len(frame):
        raise Refused(
            f'each of the {len(frame):,} labelled rows lacks a feature, and missing="refuse" answers none',
            where=f"model {made.model}",
            remedy='Bring in the data that the features are made of, or declare missing="model" or defaults.',
        )
    return Rows(complete, len(frame) - len(complete), infinite)


def _pinned(lake: Lake, model: Model, plan: FeaturePlan, wanted: Mapping[str, int]) -> dict[str, int]:
    """The snapshot of each table that is read, pinned."""
    pinned = {}
    for name in dict.fromkeys([model.labels.name, *(view.table for view in plan.stored)]):
        table = lake.table(name)
        head = table.current_snapshot()
        if head is None:
            raise Refused(f"table {name!r} has no rows yet", remedy="Bring events in first: headrace ingest")
        pinned[name] = wanted.get(name, head.id)
        table.create_tag(f"training.{model.name}.{pinned[name]}", pinned[name])
    return pinned


def _made_from(model: Model, plan: FeaturePlan, inputs: dict[str, int]) -> str:
    """What the rows depend on, as a digest: the same again makes the same rows."""
    lines = [plan.digest, model.target, *(f"{name} {snapshot}" for name, snapshot in sorted(inputs.items()))]
    return short_digest("\n".join(lines))


def _made(
    project: Project, lake: Lake, model: Model, plan: FeaturePlan, inputs: dict[str, int], made_from: str
) -> Snapshot:
    read_table = reader(project, lake, inputs)
    labels = _labels(read_table(model.labels.name), model, plan)
    labelled = labels.drop_nulls(model.target)
    _check(labelled, model)
    rows = join(labelled, plan, read_table).to_arrow()
    table: LakeTable = lake.ensure(f"training_{model.name}", rows.schema)
    facts = {
        f"{INPUT}{name}": encode_position(SnapshotPosition(name, snapshot)) for name, snapshot in inputs.items()
    }
    facts |= {INPUTS_DIGEST: made_from, UNLABELLED_ROWS: str(len(labels) - len(labelled))}
    return table.overwrite(rows, facts=facts)


def reader(project: Project, lake: Lake, inputs: Mapping[str, int]) -> Callable[[str], pl.LazyFrame]:
    """From the name of a table among the inputs (table → snapshot) to its rows; of a topic's, the good ones."""
    topics = {contract.table for contract in project.contracts.values()}

    def read_table(name: str) -> pl.LazyFrame:
        rows = lake.table(name).scan(inputs[name])
        return rows.filter("_valid") if name in topics else rows

    return read_table


def _labels(table: pl.LazyFrame, model: Model, plan: FeaturePlan) -> pl.DataFrame:
    keys = [one.join_key for one in plan.entities]
    wanted = dict.fromkeys([*keys, MOMENT, *(one.name for one in plan.request), model.target])
    there = [name for name in wanted if name in table.collect_schema().names()]  # join names what lacks
    return table.select(there).sort(there).collect()


def _check(labelled: pl.DataFrame, model: Model) -> None:
    if labelled.is_empty():
        raise Refused(
            f"table {model.labels.name!r} has no row with a label",
            where=f"model {model.name}",
            remedy="A label may need time to be known; send more events, or build again later.",
        )
    target = labelled[model.target]
    if target.dtype.is_numeric() or target.dtype == pl.Boolean:
        target = target.filter(~target.cast(pl.Float64).is_in([0.0, 1.0]))
    if len(target):
        raise Refused(
            f"the target {model.target!r} is 0 or 1; there is {target[0]!r}", where=f"table {model.labels.name}"
        )
