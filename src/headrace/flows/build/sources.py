"""The sources' pointers: which snapshot of each topic's table, and which files, this build stands on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headrace.config.settings import Settings
from headrace.declare.source import list_files
from headrace.flows.build.pointers import Pointers
from headrace.kernel.digest import digest_file
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.lake.snapshot_ids import current_snapshot_ids

__all__ = ["current", "read_by_tables", "stamps"]


def read_by_tables(code: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The topics' tables and the sources (name → path) that tables or features read."""
    read = {(kind, one) for reads in code["reads"].values() for kind, one in reads}
    read |= {("topics", view) for model in code["models"].values() for view in model["views"]}
    tables = [table for table in code["topics"].values() if ("topics", table) in read]
    return tables, {name: path for name, path in code["sources"].items() if ("sources", name) in read}


def current(settings: Settings, code: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Pointer file → what it would hold now.

    Raises:
        ProjectError: a source's files are not there.
        Unavailable: a topic has no table yet, or the catalog is away.
    """
    tables, sources = read_by_tables(code)
    found: dict[str, dict[str, Any]] = {}
    for table, snapshot in current_snapshot_ids(settings, tables).items():
        if snapshot is None:
            topic = next(t for t, name in code["topics"].items() if name == table)
            captured = f"{table}_current" in code["tables"]
            puts = "headrace capture, or Debezium elsewhere," if captured else f"headrace send {topic} FILE"
            raise Unavailable(
                f"no event of topic {topic!r} has been ingested yet",
                where=f"table {table}",
                remedy=f"{puts} puts events on it; then headrace ingest --until-end.",
            )
        found[Pointers.path("topics", table)] = {"table": table, "snapshot": snapshot}
    for name, path in sources.items():
        files = {one: digest_file(settings.root / one) for one in _files(settings.root, name, path)}
        found[Pointers.path("sources", name)] = {"source": name, "files": files}
    return found


def stamps(root: Path, paths: Iterable[str]) -> list[Any]:
    """Path, size and modification time of every file under `paths`: cheap, and enough to see a change."""
    found = []
    for path in sorted(paths):
        for file in list_files(root / path):
            status = file.stat()
            found.append([str(file.relative_to(root)), status.st_size, status.st_mtime_ns])
    return found


def _files(root: Path, name: str, path: str) -> list[str]:
    found = [one.relative_to(root).as_posix() for one in list_files(root / path)]
    if not found:
        raise ProjectError(f"source {name!r} has no files", where=str(root / path), remedy="Put them there.")
    return found
