"""Reads the rows of a database's table at a moment from its changelog, for notebooks."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.declare.event import contract_of
from headrace.kernel.errors import CallError
from headrace.tables.changelog import as_of
from headrace.tables.read import read_input
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_as_of"]


def read_as_of(workspace: Workspace, declared: Any, moment: datetime) -> pl.DataFrame:
    """The rows of a database's table at a moment (see OpenProject.as_of).

    Raises:
        CallError: the topic does not exist, has no changes, or none was ingested; or `moment` is naive.
    """
    if moment.tzinfo is None:
        raise CallError(f"{moment} has no time zone", remedy="Give it one: datetime(..., tzinfo=UTC).")
    project = workspace.project
    contract = contract_of(declared) or project.contract(declared)
    if not contract.row_key:
        raise CallError(f"topic {contract.topic!r} holds events, not the changes of a table's rows")
    rows = as_of(read_input(project, workspace.lake, contract), contract.row_key, moment)
    return rows.sort(contract.row_key).select(
        field.name for field in msgspec.structs.fields(contract.struct) if not field.name.startswith("_")
    )
