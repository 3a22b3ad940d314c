"""Decides by one digest whether a build has anything to do, before anything heavy is imported.

The digest covers the project's files, its params.yaml, its lock, the pointers, dvc.yaml and dvc.lock, the
profile, Feast's registry, which views of the online store are filled, and the files and environment variables
that tables declare to read. The commits of the git revisions that sources name are compared too, and so is the
state of the lake: the topics' newest snapshots, whether each table is at the snapshot in its pointer, and the
record of what readers see. A build that brings everything up to date records all this in the state folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from headrace import __version__
from headrace.code.external import external_digests
from headrace.code.source_files import LOCK_FILES, PARAMS_FILE, file_stamps
from headrace.config.settings import FILE, Settings
from headrace.features.applied.registry import registry_digest
from headrace.features.online import filled_views
from headrace.flows.build.drift import FILE as DRIFT
from headrace.flows.build.pointers import write_if_changed
from headrace.flows.build.published import is_published
from headrace.kernel.digest import digest_value
from headrace.kernel.errors import HeadraceError
from headrace.kernel.time import now
from headrace.lake.table_state import current_snapshot_ids, rows_snapshot_ids
from headrace.projects.checkout import find_git, find_revision
from headrace.projects.loader import project_files
from headrace.workspace import Workspace

__all__ = ["is_unchanged", "record_build"]

_FILE = "built.json"
_KEPT = ("models", "metrics", "plots")
_WRITTEN = ("dvc.yaml", "dvc.lock", FILE, PARAMS_FILE)


def is_unchanged(workspace: Workspace) -> bool:
    """Whether nothing has changed since the last whole build, and no model's refresh is due."""
    settings = workspace.settings
    try:
        record = json.loads(settings.place(_FILE).read_bytes())
        heads, tables, due = record["heads"], record["tables"], record["due"]
        revisions, objects, published = record["revisions"], record["objects"], record["published"]
    except (FileNotFoundError, ValueError, KeyError):  # no record, or another version wrote it
        return False
    if due is not None and now() >= datetime.fromisoformat(due):
        return False
    return bool(
        all(find_revision(settings.root, name) == commit for name, commit in revisions.items())
        and current_snapshot_ids(workspace.lake, heads) == heads
        and rows_snapshot_ids(workspace.lake, tables) == tables
        and _digest(settings, record["files"], record["env"]) == record["digest"]
        and all(_objects_have(*recorded) for recorded in objects)
        and all(is_published(settings, *recorded) for recorded in published)
    )


def _objects_have(address: str, glob: str, versions: dict[str, str]) -> bool:
    """Whether the objects at the address still have these versions."""
    from headrace.tables.objects import object_versions

    try:
        return object_versions(address, glob, address) == versions
    except HeadraceError:  # the build reports it
        return False


def record_build(
    settings: Settings,
    *,
    heads: dict[str, int],
    tables: Mapping[str, int | None],
    files: list[str],
    revisions: dict[str, str],
    objects: list[list[Any]],
    published: list[list[Any]],
    env: list[str],
    due: datetime | None,
) -> None:
    """Records that everything is up to date.

    Args:
        settings: the settings of the project.
        heads: topic's table → the snapshot that was built on; there may be newer ones.
        tables: table → the snapshot in its pointer; and that of the record of what readers see.
        files: the paths of the sources, and of the files that tables declare to read.
        revisions: git revision that a source names → its commit.
        objects: address, glob and versions of the objects of each source in a store (tables.objects).
        published: name, database and snapshots of each publication.
        env: the environment variables that tables declare to read.
        due: when the next model will take the inputs that its refresh delays; None: no model waits.
    """
    record: dict[str, Any] = {
        "heads": heads,
        "tables": tables,
        "files": files,
        "revisions": revisions,
        "objects": objects,
        "published": published,
        "env": env,
        "due": None if due is None else due.isoformat(),
        "digest": _digest(settings, files, env),
    }
    settings.make_state()
    write_if_changed(settings.place(_FILE), json.dumps(record, sort_keys=True).encode())


def _digest(settings: Settings, files: list[str], env: list[str]) -> str:
    """The digest of everything but the lake."""
    root = settings.root
    written = [root / name for name in (*_WRITTEN, *LOCK_FILES) if (root / name).is_file()]
    paths = [*project_files(settings).values(), *written, *sorted((root / "pointers").rglob("*.json"))]
    texts = {str(path.relative_to(root)): path.read_text() for path in paths}
    drift = settings.place(DRIFT)
    texts[DRIFT] = drift.read_text() if drift.is_file() else ""
    profile = [settings.profile_name, settings.values, registry_digest(settings), filled_views(settings)]
    variables = external_digests(root, env=env).env
    has_git = find_git(root) is not None  # after `git init`, the next build tells DVC
    return digest_value([__version__, profile, texts, variables, has_git, file_stamps(root, [*files, *_KEPT])])
