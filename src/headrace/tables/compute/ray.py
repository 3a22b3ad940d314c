"""Computes tables on Ray: a piece is a task. Workers write the data files, the build's process commits them.

A worker imports the project from the same folder as the build, and reads and writes the same lake.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from headrace.cluster.connection import connect
from headrace.cluster.tasks import run_tasks
from headrace.config.settings import Settings
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.kernel.digest import digest_value
from headrace.kernel.errors import ProjectError
from headrace.kernel.position import SnapshotPosition
from headrace.lake import open as open_lake
from headrace.projects.loader import module_stamps
from headrace.projects.project import Project, load_project
from headrace.tables.compute.port import Prepare, TableJob, WrittenPart, write_piece
from headrace.tables.files import digest_of
from headrace.tables.parts import Piece
from headrace.tables.plan import RebuildPlan, spell_partitions

__all__ = ["write_pieces"]

_checked: set[tuple[str, SnapshotPosition | str]] = set()  # sources whose files are those of the build


class _Task(msgspec.Struct, frozen=True):
    """What a worker is sent.

    Attributes:
        settings: the project's settings.
        files: the digest of the project's files.
        table: the name of the table.
        plan, columns: see TableJob.
        piece: what to compute.
    """

    settings: Settings
    files: str
    table: str
    plan: RebuildPlan
    columns: list[str]
    piece: Piece


def write_pieces(job: TableJob, pieces: Sequence[Piece], prepare: Prepare) -> Iterator[WrittenPart]:
    """See Compute. One piece alone needs no Ray."""
    first = write_piece(job, pieces[0], prepare)
    yield first
    if len(pieces) == 1:
        return
    settings, partitioning = job.project.settings, job.table.partition_by

    def describe(task: _Task) -> str:
        what = "" if partitioning is None else f" ({spell_partitions(partitioning, task.piece.numbers)})"
        return f"table {task.table}{what}"

    files = _digest_files(settings)
    tasks = [_Task(settings, files, job.table.name, job.plan, first.columns, piece) for piece in pieces[1:]]
    with connect(settings):
        yield from run_tasks(_write, tasks, describe)


def _write(task: _Task) -> WrittenPart:
    """Runs on a worker.

    Raises:
        ProjectError: the worker has no project, or another version of it; else see Compute.
    """
    settings = task.settings
    if _digest_files(settings) != task.files:
        raise _other_files("the project", settings)
    project = load_project(settings, without=["feast"])
    table = project.table(task.table)
    _check_sources(project, table, task.plan)
    return write_piece(TableJob(project, open_lake(settings), table, task.plan, task.columns), task.piece)


def _check_sources(project: Project, table: Table, plan: RebuildPlan) -> None:
    """Raises ProjectError if files of a source differ. A process reads them once for each version."""
    for declared, read in zip(project.inputs(table), plan.inputs, strict=True):
        if not isinstance(declared, Source) or (declared.name, read.version) in _checked:
            continue
        if digest_of(project, declared) != read.version:
            raise _other_files(f"source {declared.name}", project.settings)
        _checked.add((declared.name, read.version))


def _other_files(subject: str, settings: Settings) -> ProjectError:
    return ProjectError(
        f"a worker of Ray has other files of {subject} than the process of the build",
        where=f"{settings.root} on the worker",
        remedy="Give every machine of the cluster the same project folder: by a shared file system, or in"
        " the image of its workers.",
    )


def _digest_files(settings: Settings) -> str:
    """The digest of what an import of the project's package reads."""
    root = settings.root
    contents = {path: (root / path).read_bytes().hex() for path in sorted(module_stamps(settings))}
    return digest_value(contents)
