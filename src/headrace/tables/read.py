"""Reads the inputs of a table (a topic's good rows, another table, or files), each at one version."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import polars as pl

from headrace.declare.event import Contract
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.kernel.errors import CallError
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.lake import Lake, LakeTable, Snapshot
from headrace.projects.checkout import resolve_revision
from headrace.projects.project import Project
from headrace.tables.files import digest_of, read_files
from headrace.tables.revisions import revisions_in

__all__ = [
    "Readable",
    "TableInput",
    "good_rows",
    "input_name",
    "read_input",
    "resolve_input",
]

_LOG_COLUMNS = ("_log_partition", "_log_offset", "_arrived_at", "_known_at")
_FIRST_COLUMNS = (
    "_first_partition",
    "_first_offset",
)  # of a changelog: the original position of a replayed change

Readable = Contract | Source | Table


class TableInput(msgspec.Struct, frozen=True):
    """One input of a table, at one version.

    Attributes:
        name: the table in the lake, or the source.
        version: the snapshot, or the digest of the files (`sha256:...`).
        column: the column by which the input is restricted to a partition of the table (changed.input_column);
            None: it is read whole.
        clock: its latest arrival, in microseconds since 1970; None if it is not made from a topic.
        revisions: source → the git revision at which it was read (kernel.properties.REVISION), for the sources
            that name one.
    """

    name: str
    version: SnapshotPosition | str
    column: str | None = None
    clock: int | None = None
    revisions: dict[str, str] = {}

    @property
    def snapshot(self) -> int | None:
        """The snapshot's id, or None for files."""
        return self.version.snapshot_id if isinstance(self.version, SnapshotPosition) else None


def input_name(declared: Readable) -> str:
    """The name of the input's table in the lake, or of the source."""
    return declared.table if isinstance(declared, Contract) else declared.name


def good_rows(declared: Readable) -> dict[str, object]:
    """The partition values that a table's function may read of the input: of a topic only its good rows."""
    return {"_valid": True} if isinstance(declared, Contract) else {}


def resolve_input(project: Project, lake: Lake, declared: Readable, snapshot: int | None = None) -> TableInput:
    """The input at its newest version, or at a snapshot.

    Raises:
        CallError: its table does not exist or has no snapshot yet.
        ProjectError: a source has no files.
    """
    if isinstance(declared, Source):
        return TableInput(
            declared.name, digest_of(project, declared), revisions=_revision_of(project, declared)
        )
    table = lake.table(input_name(declared))
    version = table.current_snapshot() if snapshot is None else table.snapshot(snapshot)
    if version is None:
        raise CallError(
            f"table {table.name!r} has no rows yet",
            remedy="headrace ingest fills a topic's table, and headrace build the others.",
        )
    return TableInput(
        table.name,
        SnapshotPosition(table.name, version.id),
        clock=_clock(table, version),
        revisions=revisions_in(version.summary),
    )


def _revision_of(project: Project, source: Source) -> dict[str, str]:
    if source.revision is None:
        return {}
    commit = resolve_revision(project.settings.root, source.revision, str(source.place))
    return {source.name: f"{source.revision}@{commit}"}


def _clock(table: LakeTable, snapshot: Snapshot) -> int | None:
    if LATEST_ARRIVAL in snapshot.summary:
        return int(snapshot.summary[LATEST_ARRIVAL])
    # The commits of other engines lack it, so the last earlier commit that has it counts.
    known = [s for s in table.snapshots() if LATEST_ARRIVAL in s.summary and s.at <= snapshot.at]
    return int(known[-1].summary[LATEST_ARRIVAL]) if known else None


def read_input(
    project: Project,
    lake: Lake,
    declared: Readable,
    snapshot: int | None = None,
    *,
    only: Collection[str] | None = None,
) -> pl.LazyFrame:
    """The rows of an input, as a lazy frame.

    Of a topic they are its good rows: the contract's fields in their order, then `_log_partition` (Int32),
    `_log_offset` (Int64), `_arrived_at` and `_known_at` (Datetime us, UTC; shape.META); under @changes
    also `_first_partition` and `_first_offset`, which only a replay has. The order of rows is not defined.

    Args:
        project: the project whose files a source names.
        lake: the lake with the tables.
        declared: a contract, a source or a table.
        snapshot: the snapshot of a table or topic; the newest by default.
        only: the paths of the data files of a table or topic that are read; None: all of them.

    Raises:
        CallError: the table or the snapshot does not exist.
        ProjectError: a source has no files.
    """
    if isinstance(declared, Source):
        return read_files(project, declared)
    table = lake.table(input_name(declared))
    frame = table.scan(snapshot, only=only)
    if isinstance(declared, Table):
        return frame
    stored = frame.collect_schema()
    current = pl.Schema(table.schema())
    columns = [*(f.name for f in msgspec.structs.fields(declared.struct)), *_LOG_COLUMNS]
    columns += _FIRST_COLUMNS if declared.row_key else ()
    missing = [name for name in columns if name not in current]
    if missing:
        raise CallError(
            f"the table of topic {declared.topic!r} does not have {', '.join(missing)} yet",
            where=str(declared.place),
            remedy="Run headrace ingest, which adds them.",
        )
    return frame.filter(pl.col("_valid")).select(
        # A field that was added to the contract after this snapshot is null in it.
        pl.col(name) if name in stored else pl.lit(None, dtype=current[name]).alias(name)
        for name in columns
    )
