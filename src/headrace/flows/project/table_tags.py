"""Tags of tables: names that a user gives to a table's snapshots, which then do not expire."""

from __future__ import annotations

import re
from datetime import datetime

from msgspec import Struct

from headrace.kernel.errors import CallError
from headrace.lake import Snapshot
from headrace.workspace import Workspace

__all__ = ["TableVersion", "list_versions", "tag_table", "untag_table"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PINS = ("headrace-", "input-of-", "training.")  # prefixes of tags that Headrace sets and removes by itself
_RESERVED = (*_PINS, "version.")


class TableVersion(Struct, frozen=True):
    """A snapshot of a table.

    Attributes:
        snapshot: its id.
        at: when it was committed, in UTC.
        rows: the number of rows.
        tags: its tags: a user's, and `version.MODEL.N` of each model version that was made from it.
        visible: whether it is the one that readers see.
    """

    snapshot: int
    at: datetime
    rows: int
    tags: list[str]
    visible: bool = False


def tag_table(workspace: Workspace, table: str, tag: str, at: int | str | datetime | None = None) -> Snapshot:
    """Tags a snapshot of the table, so that it does not expire. Returns the snapshot.

    Args:
        workspace: the project to work on.
        table: the name of the table.
        tag: letters, digits, `.`, `_` and `-`. A tag that exists does not move.
        at: the snapshot's id, one of its tags, or a moment at which readers saw it; None: what they see now.

    Raises:
        CallError: the tag is not valid or names another snapshot; the table or the snapshot does not exist.
        Conflict: other writers kept changing the table.
    """
    _check_name(tag)
    snapshot = workspace.visible.snapshot(table, at)
    if snapshot is None:
        raise CallError(f"table {table!r} has no rows yet", remedy="headrace build makes it.")
    workspace.lake.table(table).create_tag(tag, snapshot.id, move=False)
    return snapshot


def untag_table(workspace: Workspace, table: str, tag: str) -> None:
    """Removes a tag that a user set. Its snapshot may then expire.

    Raises:
        CallError: the table or the tag does not exist, or Headrace set the tag.
        Conflict: other writers kept changing the table.
    """
    _check_name(tag)
    lake_table = workspace.lake.table(table)
    if tag not in lake_table.tags():
        lake_table.snapshot(tag)  # raises CallError
    lake_table.remove_tag(tag)


def list_versions(workspace: Workspace, table: str) -> list[TableVersion]:
    """The snapshots of the table that have not expired, oldest first.

    Raises:
        CallError: the table does not exist.
    """
    lake_table = workspace.lake.table(table)
    try:
        visible = workspace.visible.snapshot(table)
    except CallError:  # it is not visible yet
        visible = None
    tags = {tag: tagged for tag, tagged in lake_table.tags().items() if not tag.startswith(_PINS)}
    return [
        TableVersion(
            snapshot.id,
            snapshot.at,
            snapshot.rows,
            sorted(tag for tag, tagged in tags.items() if tagged == snapshot.id),
            visible is not None and visible.id == snapshot.id,
        )
        for snapshot in lake_table.snapshots()
    ]


def _check_name(tag: str) -> None:
    if not _NAME.fullmatch(tag) or tag == "main" or tag.startswith(_RESERVED):
        raise CallError(
            f"{tag!r} is not a valid tag for a table",
            remedy="Use letters, digits, '.', '_' and '-', such as v1. Headrace's own tags begin with"
            f" {', '.join(_RESERVED)}; main is Iceberg's branch.",
        )
