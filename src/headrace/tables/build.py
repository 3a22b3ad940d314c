"""Builds one table: computes the stale partitions, audits their rows, and publishes them in one commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import pyarrow as pa

from headrace.declare.partitioning import name_partition
from headrace.declare.table import Table
from headrace.kernel.errors import Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.properties import AUDIT, FAILED_ROWS, ROWS_DIGEST
from headrace.kernel.run import Dataset, run
from headrace.lake import Lake, LakeTable, Snapshot
from headrace.lake.datasets import find_dataset, table_dataset
from headrace.projects.project import Project
from headrace.tables.audits.report import AuditReport
from headrace.tables.audits.rows import RowsRefused
from headrace.tables.audits.run import PublishedRows, TableAudit, read_references
from headrace.tables.compute import COMPUTES
from headrace.tables.compute.port import TableJob
from headrace.tables.current import keep_current
from headrace.tables.evolution import OtherColumns, check_change, check_parts, check_rows_left
from headrace.tables.failures import FailedRow, describe_failures, merge_failures
from headrace.tables.parts import ComputedPart, check_failures, divide
from headrace.tables.pins import pin_inputs, unpin_older
from headrace.tables.plan import RebuildPlan, partition_by, plan_rebuild, spell_partitions
from headrace.tables.range import BuildRange
from headrace.tables.read import TableInput
from headrace.tables.staged import StagedParts
from headrace.tables.twin import TwinSnapshot

__all__ = ["PartProgress", "TableBuild", "build_table"]


class PartProgress(msgspec.Struct, frozen=True):
    """How far the build of a table with partitions is.

    Attributes:
        table: the table.
        done, total: how many partitions are written, and how many there are to make.
        partitions: the partitions to make, in words.
    """

    table: str
    done: int
    total: int
    partitions: str


class TableBuild(msgspec.Struct, frozen=True):
    """What a build of one table did.

    Attributes:
        name: the name of the table.
        snapshot: the table's current snapshot.
        partitions: the names of the partitions that were made; None for the whole table. None of them if only
            columns got other names.
        rows: how many rows the table has.
        inputs: input → its snapshot, or its files' digest.
        skipped: whether the table was already up to date.
        because: why the table was stale, a sentence for each reason.
        left_out: which rows of the input were left out because a rowwise function fails on them; None: no row.
        digest: the digest of its rows (tables.twin); None if it is not known.
        warnings: what the audit found, and published.
    """

    name: str
    snapshot: int
    partitions: list[str] | None
    rows: int
    inputs: dict[str, SnapshotPosition | str]
    skipped: bool
    because: list[str] = []
    left_out: str | None = None
    digest: str | None = None
    warnings: list[str] = []


def build_table(
    project: Project,
    lake: Lake,
    table: Table,
    *,
    code: str,
    audits: str = "",
    at: Mapping[str, int] | None = None,
    only: BuildRange | None = None,
    twin: TwinSnapshot | None = None,
    progress: Callable[[PartProgress], None] = lambda _: None,
) -> TableBuild:
    """Brings one table up to date: makes its stale partitions (or all of it), audits and publishes them. The
    commit also records the inputs, so a build that is killed at any point leaves the old table or the new
    one, and the next build can tell which. It makes the partitions that the killed one has not written.

    Args:
        project, lake: the project and the lake of the table.
        table: the declared table.
        code: the fingerprint of its code; if it has changed, the whole table is stale.
        audits: the digest of its declared audits; if it has changed, all rows are audited again.
        at: table that it or its audits read → the snapshot to read; the newest for tables that it lacks.
        only: what to make, stale or not; None: what is stale.
        twin: a snapshot that the lake must not have; its id is taken if all rows are made and are its rows.
        progress: called before the first partition is made, and after each group of partitions.

    Raises:
        CallError: a table that it reads does not exist, or the range to make has no partitions.
        ProjectError: the function failed or returned no frame, or an audit does not fit the table.
        Refused: the audit failed, or the files of a source changed so that the table would lose a column or its
            type; the table is unchanged.
        Conflict: another build has committed to the table in the meantime.
        Unavailable: the catalog is locked or cannot be reached.
    """
    if table.renames and lake.table_exists(table.name):
        lake.rename_columns(table.name, table.renames)
    plan = plan_rebuild(project, lake, table, code=code, at=at, only=only)
    audit = TableAudit(lake, table, audits, read_references(lake, table, at), PublishedRows.of(lake, table))
    try:
        return _carry_out(project, audit, plan, code, twin, progress)
    except OtherColumns as other:
        plan = plan_rebuild(project, lake, table, code=code, at=at, other_columns=str(other))
        return _carry_out(project, audit, plan, code, twin, progress)


def _carry_out(
    project: Project,
    audit: TableAudit,
    plan: RebuildPlan,
    code: str,
    twin: TwinSnapshot | None,
    progress: Callable[[PartProgress], None],
) -> TableBuild:
    """Carries out the plan. Raises OtherColumns if the table must be made whole, else as `build_table`."""
    lake, table = audit.lake, audit.table
    versions = {source.name: source.version for source in plan.inputs}
    datasets = [_dataset(project, source) for source in plan.inputs]
    if not plan.stale:
        return _keep_table(lake, plan, code, datasets, audit)
    with run(f"table {table.name}", inputs=datasets, writes=find_dataset(lake, table.name)) as table_run:
        pin_inputs(lake, plan)
        snapshot, schema, failed, report = _publish(project, audit, plan, code, twin, progress)
        unpin_older(lake, plan)
        names = None if plan.whole else _names(table, plan) or []
        table_run.add_output(table_dataset(table.name, schema, snapshot))
        count = None if names is None else len(names)
        table_run.add_facts(partitions=count, because=plan.because, failed_rows=len(failed))
    if report is not None:
        audit.record(report, SnapshotPosition(table.name, snapshot.id))
    return TableBuild(
        table.name,
        snapshot.id,
        names,
        snapshot.rows,
        versions,
        skipped=False,
        because=plan.because,
        left_out=describe_failures(table.name, failed) if failed else None,
        digest=snapshot.summary.get(ROWS_DIGEST),
        warnings=[] if report is None else report.failures,
    )


def _keep_table(
    lake: Lake, plan: RebuildPlan, code: str, inputs: list[Dataset], audit: TableAudit
) -> TableBuild:
    """Records that a table is up to date. Its rows are audited again if what audits depend on has changed.

    The build that made the snapshot may have been killed before it recorded its run or its audit, so both are
    recorded again.
    """
    report = audit.published.report
    with run(f"table {plan.table}", inputs=inputs, writes=find_dataset(lake, plan.table)) as table_run:
        if audit.is_due:
            report = audit.check_published(lake.table(plan.table)) or report
        snapshot = _update_properties(lake, plan, code, report)
        table_run.add_output(table_dataset(plan.table, lake.table(plan.table).schema(), snapshot))
        table_run.add_facts(partitions=0, because=[])
    if report is not None:
        audit.record(report, SnapshotPosition(plan.table, snapshot.id))
    versions = {source.name: source.version for source in plan.inputs}
    digest = snapshot.summary.get(ROWS_DIGEST)
    warnings = [] if report is None else report.failures
    return TableBuild(
        plan.table, snapshot.id, [], snapshot.rows, versions, skipped=True, digest=digest, warnings=warnings
    )


def _update_properties(lake: Lake, plan: RebuildPlan, code: str, report: AuditReport | None) -> Snapshot:
    """Records the present versions of the inputs in the properties of a table that is up to date."""
    table, properties = lake.table(plan.table), plan.properties(code)
    if report is not None:
        properties |= {AUDIT: report.encode()}
    if any(table.property(name) != value for name, value in properties.items()):
        table.set_properties(properties)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return snapshot


def _dataset(project: Project, source: TableInput) -> Dataset:
    if isinstance(source.version, SnapshotPosition):
        return Dataset("table", source.name, source.version)
    revision = {"revision": source.revisions[source.name]} if source.revisions else {}
    return Dataset("file", project.sources[source.name].path, facts={"digest": source.version, **revision})


def _names(table: Table, plan: RebuildPlan) -> list[str] | None:
    if table.partition_by is None or plan.partitions is None:
        return None
    return [name_partition(table.partition_by, number) for number in plan.partitions]


def _publish(
    project: Project,
    audit: TableAudit,
    plan: RebuildPlan,
    code: str,
    twin: TwinSnapshot | None,
    progress: Callable[[PartProgress], None],
) -> tuple[Snapshot, pa.Schema, list[FailedRow], AuditReport | None]:
    """Computes, audits and commits the rows. The first part determines the columns of the table.

    Returns:
        The snapshot, the columns, the rows of the input that a rowwise function failed on, and the report of
        the audit.
    """
    lake, table = audit.lake, audit.table
    if not plan.has_rows:
        return _commit_renames(plan, code, audit)
    if table.current:
        return (*keep_current(project, lake, table, plan, plan.properties(code)), [], None)
    staged = StagedParts(lake, plan, code)
    try:
        stored = _write_parts(project, lake, table, plan, staged, progress)
    except RowsRefused as refused:
        audit.keep_refused(refused)
        raise
    failed = staged.failed
    _check_rows(project, table, plan, stored, staged)
    report = audit.check_build(plan, stored, staged.files)
    reach("tables.after_audit")

    def properties(current: Mapping[str, str]) -> dict[str, str]:
        recorded = {FAILED_ROWS: _merge_failures(table, plan, current, failed)} if table.rowwise else {}
        audited = {} if report is None else {AUDIT: report.encode()}
        return {**plan.properties(code), **recorded, **audited}

    def facts(current: Mapping[str, str]) -> dict[str, str]:
        digest = {} if staged.digest is None else {ROWS_DIGEST: staged.digest}
        return {**properties(current), **plan.revisions, **digest}

    partitions = None
    if table.partition_by is not None and not plan.whole:
        partitions = partition_by(table)[0], plan.partitions or []
    try:
        snapshot = stored.overwrite(
            staged.files,
            partitions=partitions,
            facts=facts,
            properties=properties,
            expect=plan.expect,
            written_at=staged.written_at,
            snapshot_id=TwinSnapshot.id_for(twin, staged.digest),
        )
    except Unavailable:  # nothing is known of the commit: the next build finds out
        raise
    except Exception:
        staged.remove()
        raise
    staged.remove()
    return snapshot, stored.schema(), failed, report


def _check_rows(
    project: Project, table: Table, plan: RebuildPlan, stored: LakeTable, staged: StagedParts
) -> None:
    """Refuses a table whose function fails on every row, and one that changed files leave without rows."""
    if not plan.whole:
        return
    check_failures(staged.failed, sum(plan.rows.values()) if plan.partitions else staged.rows_read)
    if plan.files:
        sources = [project.sources[name] for name in plan.files]
        check_rows_left(table, stored, sum(file.rows for file in staged.files), sources)


def _commit_renames(
    plan: RebuildPlan, code: str, audit: TableAudit
) -> tuple[Snapshot, pa.Schema, list[FailedRow], AuditReport | None]:
    """Commits a snapshot with the present names of the columns, and with the data files of the one before."""
    stored, properties = audit.lake.table(plan.table), plan.properties(code)
    facts = {**properties, **plan.revisions}
    schema = stored.schema()
    snapshot = stored.append(schema.empty_table(), facts=facts, properties=properties)
    report = audit.check_published(stored) if audit.is_due else None
    if report is not None:
        stored.set_properties({AUDIT: report.encode()})
    return snapshot, schema, [], report


def _write_parts(
    project: Project,
    lake: Lake,
    table: Table,
    plan: RebuildPlan,
    staged: StagedParts,
    progress: Callable[[PartProgress], None],
) -> LakeTable:
    """Writes the rows that are not written yet, a piece at a time. Returns the table, with its columns."""
    names = _names(table, plan) or []
    partitioning = table.partition_by
    what = "all of it" if partitioning is None else spell_partitions(partitioning, plan.partitions or ())
    state = PartProgress(table.name, staged.partitions if names else 0, len(names), what)
    progress(state)
    pieces = [piece for piece in divide(lake, table, plan) if piece.numbers not in staged.numbers]
    if not pieces:
        return lake.table(table.name)

    def prepare(part: ComputedPart) -> LakeTable:
        if not staged.is_empty:
            return lake.table(table.name)
        if not (plan.whole or plan.replaces_all) and lake.table_exists(table.name):
            check_parts(table, lake.table(table.name), part.rows.schema, is_range=plan.is_range)
        return _prepare_table(project, lake, table, plan, part, is_all=len(pieces) == 1)

    job = TableJob(project, lake, table, plan, staged.columns)
    for written in COMPUTES[project.settings.tables.compute](job, pieces, prepare):
        staged.add(written)
        progress(msgspec.structs.replace(state, done=staged.partitions if names else 0))
    return lake.table(table.name)


def _prepare_table(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, part: ComputedPart, *, is_all: bool
) -> LakeTable:
    """Makes the table able to hold the rows, of which the part has all or the first."""
    if plan.files:
        sources = [project.sources[name] for name in plan.files]
        if is_all:  # the columns of no rows may have other types, which is not the fault to name
            check_rows_left(table, lake.table(table.name), part.rows.num_rows, sources)
        check_change(table, lake.table(table.name), part.rows.schema, sources)
    return lake.ensure(table.name, part.rows.schema, partition_by(table), exact=plan.whole or plan.replaces_all)


def _merge_failures(
    table: Table, plan: RebuildPlan, current: Mapping[str, str], failed: Sequence[FailedRow]
) -> str:
    """The property FAILED_ROWS after the build, given the table's properties."""
    partitioning = table.partition_by
    if plan.whole or partitioning is None:
        return merge_failures(None, (), failed)
    numbers = plan.partitions or []
    read = {n for number in numbers for n in range(*_inclusive(partitioning.window(number, number)))}
    return merge_failures(
        current.get(FAILED_ROWS), {name_partition(partitioning, number) for number in read}, failed
    )


def _inclusive(window: tuple[int, int]) -> tuple[int, int]:
    return window[0], window[1] + 1
