"""Fetches the data of a git revision into the state folder, whether git or DVC tracks them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from dvc.repo import Repo

from headrace.config.settings import Settings
from headrace.flows.build.dvc_lock import translate_errors
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.sources import SourceState, locate_errors, sources_read
from headrace.kernel.errors import ProjectError
from headrace.kernel.files import move_into_place, remove_path
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private
from headrace.kernel.time import now
from headrace.projects.checkout import resolve_revision
from headrace.tables.files import revision_folder
from headrace.workspace import Workspace

__all__ = ["fetch_revision", "fetch_revisions"]

_KEPT = 7 * 86_400.0  # seconds


def fetch_revisions(
    workspace: Workspace, code: ProjectCode, states: Mapping[str, SourceState]
) -> dict[str, SourceState]:
    """Fetches the data of every revision that a source names. The state of a source whose data cannot be had
    becomes the problem. Data that nothing has read for a week are removed."""
    fetched = dict(states)
    for name, source in sources_read(code).items():
        pointer = Pointers.path("sources", name)
        if source.revision and states[pointer].problem is None:
            try:
                with locate_errors(workspace, name):
                    fetch_revision(workspace.settings, source.path, source.revision, source.describe(name))
            except ProjectError as error:
                fetched[pointer] = SourceState(problem=error)
    _remove_unused(workspace.settings)
    return fetched


def fetch_revision(settings: Settings, path: str, revision: str, where: str) -> None:
    """Copies the file or folder as it was at the revision to where `tables.files` reads it, unless it is there.

    Data that DVC tracks come from its cache, else from its remote.

    Args:
        settings: the settings of the project.
        path: the file or folder, relative to the project.
        revision: a git tag, branch or commit.
        where: what names the revision, for errors.

    Raises:
        ProjectError: the repository has no such revision, the revision has no such path, or its data are
            neither in DVC's cache nor in its remote.
    """
    commit = resolve_revision(settings.root, revision, where)
    folder = revision_folder(settings, commit, path)
    if folder.is_dir():
        os.utime(folder)  # it is in use
        return
    draft = make_private(folder.parent) / f".{new_id()}"
    try:
        make_private((draft / path).parent)
        _copy(settings.root, commit, path, draft / path, f"{path} at revision {revision}", where)
        move_into_place(draft, folder)
    except OSError:
        if not folder.is_dir():  # another process may have fetched it
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_unused(settings: Settings) -> None:
    """Removes the folders of revisions that were last read before `_KEPT`, and what a killed fetch has left."""
    for folder in settings.place("revisions").glob("*"):
        if folder.stat().st_mtime < now().timestamp() - _KEPT:
            doomed = folder.with_name(f".{new_id()}")  # a kill leaves no folder with a part of its files
            folder.rename(doomed)
            remove_path(doomed)


def _copy(root: Path, commit: str, path: str, target: Path, data: str, where: str) -> None:
    with translate_errors(root), Repo(str(root)) as repo, repo.switch(commit):
        files = repo.dvcfs
        if not files.exists(path):
            raise ProjectError(
                f"{data} does not exist",
                where=where,
                remedy=f"git ls-tree -r --name-only {commit[:12]} lists the files of the revision.",
            )
        try:
            files.get(path, str(target), recursive=files.isdir(path))
        except FileNotFoundError as error:
            raise ProjectError(
                f"the content of {data} is neither in DVC's cache nor in its remote",
                where=where,
                remedy="dvc fetch --all-tags gets it where a remote has it; dvc push --all-tags puts it there.",
            ) from error
