"""Source pointers: the snapshot of each topic's table, and the files or the commit of each source, that a build
reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from headrace.code.source_files import list_files
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.project_code import ProjectCode, SourceCode
from headrace.flows.build.stage import Stage
from headrace.kernel.addresses import is_remote
from headrace.kernel.digest import digest_file
from headrace.kernel.errors import HeadraceError, ProjectError, Unavailable
from headrace.lake.table_state import current_snapshot_ids
from headrace.projects.checkout import resolve_revision
from headrace.workspace import Workspace

__all__ = [
    "SourceState",
    "find_sources",
    "locate_errors",
    "raise_first_problem",
    "read_source_state",
    "sources_read",
]


class SourceState(Struct, frozen=True):
    """A topic's table or a source, as it is now.

    Attributes:
        pointer: the content of its pointer.
        head: for a topic, its table and the table's newest snapshot.
        change: what to report if the last build read another state.
        problem: why nothing can be built from it, or None.
    """

    pointer: dict[str, Any] = field(default_factory=dict)
    head: tuple[str, int] | None = None
    change: str = ""
    problem: HeadraceError | None = None


def find_sources(workspace: Workspace, code: ProjectCode) -> dict[str, SourceState]:
    """Pointer file → the state of the topic's table or source, for each that a table or feature view reads.

    Raises:
        Unavailable: the catalog cannot be reached.
    """
    tables = [table for table in code.topics.values() if ("topics", table) in _reads(code)]
    states = {
        Pointers.path("topics", table): _topic_state(code, table, snapshot)
        for table, snapshot in current_snapshot_ids(workspace.lake, tables).items()
    }
    for name, source in sources_read(code).items():
        states[Pointers.path("sources", name)] = read_source_state(workspace, name, source)
    return states


def sources_read(code: ProjectCode) -> dict[str, SourceCode]:
    """The sources that a table reads, by name."""
    return {name: source for name, source in code.sources.items() if ("sources", name) in _reads(code)}


def read_source_state(workspace: Workspace, name: str, source: SourceCode) -> SourceState:
    """The state of a source's files, or of its revision."""
    if is_remote(source.path):
        return _objects_state(name, source)
    root = workspace.settings.root
    if not source.revision:
        return _files_state(root, name, source)
    try:
        with locate_errors(workspace, name):
            commit = resolve_revision(root, source.revision, source.describe(name))
    except ProjectError as error:
        return SourceState(problem=error)
    return SourceState(
        {"source": name, "path": source.path, "revision": source.revision, "commit": commit},
        change=f"revision {source.revision} of source {name} is another commit",
    )


@contextmanager
def locate_errors(workspace: Workspace, name: str) -> Iterator[None]:
    """Adds the line of the source's declaration to the errors of the block. The project's fingerprints do not
    have it, because an edit above the declaration must not make anything stale."""
    try:
        yield
    except ProjectError as error:
        error.where = f"{workspace.project.source(name).place}: {error.where}"
        raise


def raise_first_problem(sources: Mapping[str, SourceState], stages: Iterable[Stage]) -> None:
    """Raises the problem of the first source that the stages depend on, if any has one."""
    for stage in stages:
        for path in stage.deps:
            if path in sources and (problem := sources[path].problem) is not None:
                raise problem


def _reads(code: ProjectCode) -> set[tuple[str, str]]:
    reads: set[tuple[str, str]] = {(read.kind, read.name) for reads in code.reads.values() for read in reads}
    return reads | {("topics", view) for model in code.models.values() for view in model.views}


def _topic_state(code: ProjectCode, table: str, snapshot: int | None) -> SourceState:
    if snapshot is not None:
        pointer = {"table": table, "snapshot": snapshot}
        return SourceState(pointer, (table, snapshot), f"{table} has new events")
    topic = next(topic for topic, name in code.topics.items() if name == table)
    is_captured = f"{table}_current" in code.tables
    sender = "headrace capture, or Debezium elsewhere," if is_captured else f"headrace send {topic} FILE"
    return SourceState(
        problem=Unavailable(
            f"no event of topic {topic!r} has been ingested yet",
            where=f"table {table}",
            remedy=f"{sender} puts events on it; then headrace ingest --until-end.",
        )
    )


def _objects_state(name: str, source: SourceCode) -> SourceState:
    from headrace.tables.objects import object_versions

    try:
        versions = object_versions(source.path, source.glob, source.describe(name))
    except (ProjectError, Unavailable) as error:
        return SourceState(problem=error)
    return SourceState({"source": name, "objects": versions}, change=f"the objects of source {name} changed")


def _files_state(root: Path, name: str, source: SourceCode) -> SourceState:
    path = source.path
    files = list_files(root / path, source.glob)
    if not files:
        return SourceState(
            problem=ProjectError(
                f"source {name!r} has no files"
                + ("" if source.glob == "*" else f" that match {source.glob!r}"),
                where=str(root / path),
                remedy=f"Put its files there, or correct the path in source({name!r}, ...).",
            )
        )
    digests = {file.relative_to(root).as_posix(): digest_file(file) for file in files}
    return SourceState({"source": name, "files": digests}, change=f"the files of source {name} changed")
