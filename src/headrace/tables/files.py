"""Reads the files of a source: lists them, digests them, and returns their rows as one frame."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl

from headrace.code.source_files import list_files
from headrace.config.settings import Settings
from headrace.declare.source import Source
from headrace.kernel.digest import digest_value, short_digest
from headrace.kernel.errors import ProjectError
from headrace.projects.checkout import resolve_revision
from headrace.projects.project import Project
from headrace.tables.formats import FORMATS
from headrace.tables.objects import fetch_objects, object_versions

__all__ = ["digest_of", "read_files", "revision_folder"]


def revision_folder(settings: Settings, commit: str, path: str) -> Path:
    """The folder that has the files of a path as they were in a commit; flows.build.revisions fetches them."""
    return settings.place("revisions", f"{commit}-{short_digest(path)}")


def _folder_of(project: Project, source: Source) -> Path:
    """The folder that the source's path is relative to."""
    if source.revision is None:
        return project.settings.root
    commit = resolve_revision(project.settings.root, source.revision, str(source.place))
    return revision_folder(project.settings, commit, source.path)


def digest_of(project: Project, source: Source) -> str:
    """The digest of the files' paths and contents (of objects: of their names and entity tags): `sha256:...`.

    Raises:
        ProjectError: the source has no files, or they are of several formats or of another.
    """
    if source.is_remote:
        return f"sha256:{digest_value(object_versions(source.path, source.glob, str(source.place)))}"
    whole, folder = hashlib.sha256(), _folder_of(project, source)
    for path in _source_files(project, source):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        whole.update(path.relative_to(folder).as_posix().encode() + b"\0" + content)
    return f"sha256:{whole.hexdigest()}"


def read_files(project: Project, source: Source) -> pl.LazyFrame:
    """The rows of a source's files as a lazy frame. The files are checked, and their columns matched by name.

    A column that a file lacks is null in its rows. The types are the declared ones; else those of the files
    (see tables.formats).

    Raises:
        ProjectError: a file is broken, a value is not of its declared type, a declared column is in no file, or
            a column has types in two files that do not go together. The error names the files, and the
            row where there is one.
    """
    files = _source_files(project, source)
    try:
        return pl.concat(FORMATS[next(iter(files)).suffix.lower()](source, files))
    except ProjectError as error:
        for file, name in files.items():
            error.what = error.what.replace(str(file), name)
            error.where = error.where and error.where.replace(str(file), name)
        raise


def _source_files(project: Project, source: Source) -> dict[Path, str]:
    """The files of a source, sorted and all of one format → what errors name them: those of a git revision as
    git does, `v1:data/iris.csv`, and an object by its address.

    Raises:
        ProjectError: the source has no files, or they are of several formats or of another.
    """
    where = f"{source.place}: source {source.name!r}"
    if source.is_remote:
        files = fetch_objects(project.settings, source)
    else:
        folder = _folder_of(project, source)
        path, revision = folder / source.path, source.revision
        files = {
            file: str(file) if revision is None else f"{revision}:{file.relative_to(folder)}"
            for file in list_files(path, source.glob)
        }
        if not files:
            which = "" if source.glob == "*" else f" whose names match {source.glob!r}"
            raise ProjectError(
                f"source {source.name!r} has no files at {source.path}{which}",
                where=str(source.place),
                remedy=f"Put its files at {path}, or correct the path.",
            )
    ends = {file.suffix.lower() for file in files}
    if len({FORMATS.get(end) for end in ends}) > 1 or not ends <= FORMATS.keys():
        raise ProjectError(
            f"{source.path} holds {', '.join(sorted(end or 'names without an end' for end in ends))}",
            where=where,
            remedy=f"Keep files of one format there, or choose them: source(..., glob=...). The formats are"
            f" {', '.join(FORMATS)}.",
        )
    return files
