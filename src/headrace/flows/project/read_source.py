"""Reads the rows of a source at any git revision, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from headrace.declare.source import source
from headrace.tables.files import read_files
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_source"]


def read_source(workspace: Workspace, name: str, revision: str | None = None) -> pl.LazyFrame:
    """The rows of a source's files, as tables read them (see OpenProject.source).

    Raises:
        CallError: the source does not exist.
        ProjectError: the files are missing or broken, or the revision is not valid or does not exist.
    """
    project = workspace.project
    declared = project.source(name)
    if revision is not None:
        checked = source(name, declared.path, revision=revision)
        declared = attrs.evolve(declared, revision=checked.revision, place=checked.place)
    if declared.revision is not None:
        from headrace.flows.build.revisions import fetch_revision

        fetch_revision(workspace.settings, declared.path, declared.revision, str(declared.place))
    return read_files(project, declared)
