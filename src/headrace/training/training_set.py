"""The training set: labels joined point-in-time with features, kept as a table.

The snapshots of its inputs are tagged before they are read, and its own once it is written. Tagged snapshots do
not expire, so the data of a version can be read again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl
import pyarrow as pa
from msgspec import Struct

from headrace.declare.event import Contract
from headrace.declare.metrics import Task
from headrace.declare.model import Model, task_of
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.features.offline.compute.local import LocalCompute
from headrace.features.offline.compute.port import FeatureCompute
from headrace.features.offline.compute.ray import RayCompute
from headrace.features.offline.parts import join_in_pieces
from headrace.features.plan import FeaturePlan
from headrace.features.plan.sources import source_columns
from headrace.features.values.matrix import Matrix
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.counts import plural
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import CallError, ProjectError, Refused
from headrace.kernel.position import SnapshotPosition, encode_position
from headrace.kernel.private import make_private
from headrace.kernel.properties import (
    FAILED_ROWS,
    INPUT,
    INPUTS_DIGEST,
    KEYLESS_ROWS,
    REVISION,
    ROWS_DIGEST,
    UNLABELLED_ROWS,
)
from headrace.kernel.run import Dataset, run
from headrace.kernel.time import now_micros
from headrace.lake import Lake, LakeTable, Snapshot, VisibleTables
from headrace.lake.datasets import find_dataset, table_dataset
from headrace.projects.project import Project
from headrace.tables.failures import FailedRow, describe_row, merge_failures, read_failures
from headrace.tables.revisions import merge_revisions, revisions_in
from headrace.tables.twin import RowsDigest, TwinSnapshot
from headrace.training.evaluation import evaluator_for, infer_task
from headrace.training.report import TrainingSet
from headrace.training.splits.port import MOMENT

if TYPE_CHECKING:
    from headrace.lake.files import WrittenFile

__all__ = ["LabelledRows", "find_task", "keep_for_version", "make", "read", "table_reader", "visible_snapshots"]

_logger = logging.getLogger(__name__)


def make(
    project: Project,
    lake: Lake,
    model: Model,
    plan: FeaturePlan,
    *,
    inputs: Mapping[str, int] | None = None,
    twin: TwinSnapshot | None = None,
) -> TrainingSet:
    """Makes the training set, unless it is already made from these snapshots.

    Args:
        project: the project that declares the model.
        lake: its lake.
        model: the model, which names the table of its labels.
        plan: the plan of its features.
        inputs: table → the snapshot to read; the newest for tables that it does not name.
        twin: a snapshot of another lake, whose id is taken if the rows are the same (tables.twin). The lake
            must not have it.

    Raises:
        CallError: a table it reads has not been built, or a snapshot has expired.
        Refused: no row has a label, or a value of the target is not valid for the model's task.
        ProjectError: the labels lack a column that the plan needs, or the task cannot be inferred.
    """
    table = f"training_{model.name}"
    reads = [Dataset("table", name) for name in _tables_of(model, plan)]
    with run(f"training set {model.name}", reads=reads, writes=find_dataset(lake, table)) as current:
        snapshots = _tag_inputs(lake, model, plan, inputs or {})
        for name, snapshot in snapshots.items():
            current.add_input(Dataset("table", name, SnapshotPosition(name, snapshot)))
        digest = _digest_of(model, plan, snapshots)
        head = lake.table(table).current_snapshot() if lake.table_exists(table) else None
        if head is None or head.summary.get(INPUTS_DIGEST) != digest:
            head = _write_rows(project, lake, model, plan, snapshots, digest, twin)
        lake.table(table).create_tag(f"training.{head.id}", head.id)
        rows = TrainingSet(
            model.name,
            table,
            head.id,
            snapshots,
            plan.digest,
            head.rows,
            int(head.summary.get(UNLABELLED_ROWS, 0)),
            revisions_in(head.summary),
            *read_failures(head.summary.get(FAILED_ROWS)),
            head.summary.get(ROWS_DIGEST),
            json.loads(head.summary.get(KEYLESS_ROWS, "{}")),
        )
        schema = lake.table(table).schema()
        columns = source_columns(plan, model.labels.name, schema.names)
        current.add_output(table_dataset(table, schema, head, columns=columns))
        current.add_facts(rows=rows.rows, refused=rows.refused, failed=rows.failed, plan=plan.digest)
    return rows


def keep_for_version(lake: Lake, rows: TrainingSet, version: int) -> None:
    """Tags the training set and its inputs for the version, and removes the model's other training tags.

    The newest training set keeps its tag. Call this once the version is registered; it may be repeated.

    Raises:
        CallError: a snapshot has expired.
    """
    snapshots = {rows.table: rows.snapshot, **rows.inputs}
    for name, snapshot in snapshots.items():
        lake.table(name).create_tag(f"version.{rows.model}.{version}", snapshot)
    head = lake.table(rows.table).current_snapshot()
    newest = {rows.snapshot, *([] if head is None else [head.id])}
    for name, snapshot in snapshots.items():
        table = lake.table(name)
        prefix = "training." if name == rows.table else f"training.{rows.model}."
        needed = newest if name == rows.table else {snapshot}
        for tag, tagged in table.tags().items():
            if tag.startswith(prefix) and tagged not in needed:
                table.remove_tag(tag)


class LabelledRows(Struct, frozen=True):
    """The rows of a training set that serving would answer.

    Attributes:
        frame: the request's fields, `event_timestamp`, the target, and the plan's features.
        incomplete: how many rows were left out because serving would refuse to answer them
            (`missing="refuse"`).
        infinite: feature → in how many rows it is infinite, which counts as missing.
    """

    frame: pl.DataFrame
    incomplete: int
    infinite: dict[str, int]


def read(lake: Lake, rows: TrainingSet, plan: FeaturePlan, target: str) -> LabelledRows:
    """Reads the rows of the training set that serving would answer.

    Raises:
        Refused: the plan refuses missing features, and every row lacks one.
    """
    request = [*(entity.join_key for entity in plan.entities), *(field.name for field in plan.request)]
    columns = [*request, MOMENT, target, *(feature.column for feature in plan.features)]
    frame = lake.table(rows.table).scan(rows.snapshot).select(list(dict.fromkeys(columns))).collect()
    matrix = Matrix(plan)
    infinite = matrix.count_infinite(frame)
    if infinite:
        counts = ", ".join(f"{name} in {plural(count, 'row')}" for name, count in infinite.items())
        _logger.warning("model %s: infinite values count as missing: %s", rows.model, counts)
    complete = frame.filter(matrix.complete(frame)) if plan.missing == "refuse" else frame
    if complete.is_empty() and len(frame):
        raise Refused(
            f"of {plural(len(frame), 'labelled row')} none has every feature, and "
            'missing="refuse" leaves such rows out',
            where=f"model {rows.model}",
            remedy='Ingest the data that the features are made from, or declare missing="model" or defaults.',
        )
    return LabelledRows(complete, len(frame) - len(complete), infinite)


def find_task(model: Model, target: pl.Series, where: str | None = None) -> Task:
    """The model's task: as declared, else by the metrics it names, else by the values of the target.

    Args:
        model: its declaration.
        target: the values of the target.
        where: where they come from, for errors; None: the table of the labels.

    Raises:
        Refused: a value is not valid for the task, or all are equal.
        ProjectError: the task cannot be inferred from the values.
    """
    where = where or f"table {model.labels.name}"
    task = task_of(model) or infer_task(target, where)
    evaluator = evaluator_for(task)
    invalid = evaluator.find_invalid(target)
    if len(invalid):
        raise Refused(
            f"the target {model.target!r} of a {task} model must be {evaluator.target_rule}; "
            f"a row has {invalid[0]!r}",
            where=where,
        )
    if target.n_unique() == 1:
        raise Refused(
            f"the target {model.target!r} is always {target[0]!r}: nothing can be learnt from it",
            where=where,
            remedy="Check how the table computes it, or add labels with other values.",
        )
    return task


def visible_snapshots(visible: VisibleTables, tables: Iterable[str]) -> dict[str, int]:
    """Table → the snapshot that readers see. Raises CallError if a table has none."""
    snapshots = {}
    for name in tables:
        snapshot = visible.snapshot(name)
        if snapshot is None:
            raise CallError(f"table {name!r} has no rows yet", remedy=f"headrace build {name}")
        snapshots[name] = snapshot.id
    return snapshots


def table_reader(project: Project, lake: Lake, inputs: Mapping[str, int]) -> Callable[[str], pl.LazyFrame]:
    """A function that reads one of the inputs (table → snapshot) by its table's name; of a topic's table it
    returns the good rows alone."""
    topics = {contract.table for contract in project.contracts.values()}

    def read_table(name: str) -> pl.LazyFrame:
        rows = lake.table(name).scan(inputs[name])
        return rows.filter("_valid") if name in topics else rows

    return read_table


def _tables_of(model: Model, plan: FeaturePlan) -> list[str]:
    """The tables that the training set reads, each once."""
    return list(dict.fromkeys([model.labels.name, *(view.table for view in plan.stored)]))


def _tag_inputs(lake: Lake, model: Model, plan: FeaturePlan, wanted: Mapping[str, int]) -> dict[str, int]:
    """Tags the snapshots of the tables that the training set reads, and returns them by table."""
    snapshots = {}
    for name in _tables_of(model, plan):
        table = lake.table(name)
        head = table.current_snapshot()
        if head is None:
            raise Refused(f"table {name!r} has no rows yet", remedy="Ingest events first: headrace ingest")
        snapshots[name] = wanted.get(name, head.id)
        table.create_tag(f"training.{model.name}.{snapshots[name]}", snapshots[name])
    return snapshots


def _digest_of(model: Model, plan: FeaturePlan, inputs: dict[str, int]) -> str:
    """The digest of everything that the rows depend on."""
    lines = [plan.digest, model.target, *(f"{name} {snapshot}" for name, snapshot in sorted(inputs.items()))]
    return short_digest("\n".join(lines))


def _write_rows(
    project: Project,
    lake: Lake,
    model: Model,
    plan: FeaturePlan,
    inputs: dict[str, int],
    digest: str,
    twin: TwinSnapshot | None,
) -> Snapshot:
    read_table = table_reader(project, lake, inputs)
    labels = _read_labels(read_table(model.labels.name), model, plan)
    labelled = labels.drop_nulls(model.target)
    unlabelled = len(labels) - len(labelled)
    del labels
    if labelled.is_empty():
        raise Refused(
            f"table {model.labels.name!r} has no row with a label ({plural(unlabelled, 'row')} without one)",
            where=f"model {model.name}, {_place(project, model.labels)}",
            remedy="A label may need time to be known: add data, or build again later.",
        )
    find_task(model, labelled[model.target], _place(project, model.labels))
    written = _write_pieces(project, lake, model, plan, labelled, inputs)
    facts = {
        f"{INPUT}{name}": encode_position(SnapshotPosition(name, snapshot)) for name, snapshot in inputs.items()
    }
    summaries = [lake.table(name).snapshot(snapshot).summary for name, snapshot in inputs.items()]
    revisions = merge_revisions(map(revisions_in, summaries))
    facts |= {f"{REVISION}{source}": revision for source, revision in revisions.items()}
    facts |= {INPUTS_DIGEST: digest, UNLABELLED_ROWS: str(unlabelled)}
    facts |= {FAILED_ROWS: merge_failures(None, (), written.failed)} if written.failed else {}
    facts |= {KEYLESS_ROWS: json.dumps(written.keyless)} if written.keyless else {}
    facts[ROWS_DIGEST] = written.digest
    return written.table.overwrite(
        written.files,
        written_at=written.begun,
        facts=facts,
        snapshot_id=TwinSnapshot.id_for(twin, written.digest),
    )


class _Written(NamedTuple):
    """The rows of a training set, in files that no snapshot has yet."""

    table: LakeTable
    files: list[WrittenFile]
    begun: int
    digest: str
    failed: list[FailedRow]
    keyless: dict[str, int]


def _write_pieces(
    project: Project,
    lake: Lake,
    model: Model,
    plan: FeaturePlan,
    labels: pl.DataFrame,
    inputs: Mapping[str, int],
) -> _Written:
    """Joins the labels with their features and writes them, a piece after another.

    Rows that an on-demand function fails on are left out: serving refuses such an instance, and no other one.
    """
    errors: dict[int, OnDemandError] = {}
    digests, begun = list[RowsDigest](), now_micros()
    settings, read_table = project.settings, table_reader(project, lake, inputs)
    with _spill_folder(settings.place("joins", model.name)) as folder:
        pieces = join_in_pieces(
            labels,
            plan,
            read_table,
            folder=folder,
            memory=settings.features.join_bytes,
            compute=_find_compute(project, read_table, inputs),
            failed=errors,
        )

        def complete() -> Iterator[pa.Table]:
            begin = 0
            for piece in pieces:
                rows = piece.filter(~pl.int_range(begin, begin + len(piece)).is_in(list(errors))).to_arrow()
                begin += len(piece)
                digests.append(RowsDigest().add(rows))
                yield rows

        rows = complete()
        first = next(rows)
        table = lake.ensure(f"training_{model.name}", first.schema, exact=True)
        files = table.write(chain([first], rows))
    names = [entity.join_key for entity in plan.entities] + [MOMENT] + [field.name for field in plan.request]
    described = labels.select(list(dict.fromkeys(names)))
    failed = [
        FailedRow(
            describe_row(described.row(index, named=True)),
            error.what.replace("the on-demand view", f"the on-demand view {error.where}", 1),
            error.where,
        )
        for index, error in sorted(errors.items())
    ]
    answered = labels.filter(~pl.int_range(pl.len()).is_in(list(errors)))
    nulls = {key.join_key: answered[key.join_key].null_count() for key in plan.entities}
    keyless = {key: count for key, count in nulls.items() if count}
    return _Written(table, files, begun, reduce(RowsDigest.join, digests).text, failed, keyless)


def _find_compute(
    project: Project, read_table: Callable[[str], pl.LazyFrame], inputs: Mapping[str, int]
) -> FeatureCompute:
    """What computes the features, by the setting `compute`."""
    if project.settings.tables.compute == "local":
        return LocalCompute(read_table)
    topics = frozenset(contract.table for contract in project.contracts.values())
    return RayCompute(project.settings, dict(inputs), topics)


@contextmanager
def _spill_folder(path: Path) -> Iterator[Path]:
    """An empty folder for this process's files, which is removed after the block; a killed build leaves it."""
    shutil.rmtree(path, ignore_errors=True)
    make_private(path)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _place(project: Project, labels: Table) -> str:
    """The table of the labels, the line of its declaration, and the topics and files that it is made from."""

    def list_origins(declared: Contract | Source | Table) -> list[str]:
        if isinstance(declared, Table):
            return [name for inner in project.inputs(declared) for name in list_origins(inner)]
        return [declared.path if isinstance(declared, Source) else f"topic {declared.topic}"]

    return f"table {labels.name} ({labels.place}), made from {', '.join(dict.fromkeys(list_origins(labels)))}"


def _read_labels(table: pl.LazyFrame, model: Model, plan: FeaturePlan) -> pl.DataFrame:
    keys = [entity.join_key for entity in plan.entities]
    wanted = dict.fromkeys([*keys, MOMENT, *(field.name for field in plan.request), model.target])
    columns = table.collect_schema().names()
    if model.target not in columns:
        raise ProjectError(
            f"model {model.name!r} needs column {model.target!r}, which its labels {model.labels.name!r} lack",
            where=str(model.place),
            remedy=f"Columns of {model.labels.name}: {', '.join(columns)}.",
        )
    present = [name for name in wanted if name in columns]  # `join` reports the missing ones
    return table.select(present).sort(present).collect()
