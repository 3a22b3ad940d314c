"""Changes of a table's refs on conditions that the catalog checks: what pins and leases are made of.

Iceberg lets a commit assert what a ref of a given name is, or that there is none, and nothing about
properties. So what must be exact stands in the names of tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyiceberg.exceptions import BadRequestError, CommitFailedException
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotRefUpdate,
    SetCurrentSchemaUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
)

__all__ = ["changed", "set_head"]


def changed(
    catalog: Any,
    table: Any,
    *,
    set_tags: Mapping[str, int] | None = None,
    gone: tuple[str, ...] = (),
    properties: Mapping[str, str] | None = None,
    still: Mapping[str, int | None],
) -> bool:
    """Sets and removes tags, and sets properties, in one commit without a snapshot.

    Args:
        catalog, table: PyIceberg's.
        set_tags: tag → snapshot id.
        gone: tags that go, where they are there.
        properties: set in the same commit.
        still: ref → the snapshot that it must be at, or None where it must not be.

    Returns:
        False where something else had changed, or another commit was faster: look again.
    """
    asserted = (AssertRefSnapshotId(ref=name, snapshot_id=snapshot) for name, snapshot in still.items())
    tags = (
        SetSnapshotRefUpdate(ref_name=name, type="tag", snapshot_id=snapshot)
        for name, snapshot in (set_tags or {}).items()
    )
    removed = (RemoveSnapshotRefUpdate(ref_name=name) for name in gone)
    said = (SetPropertiesUpdate(updates=dict(properties)),) if properties else ()
    try:
        catalog.commit_table(
            table,
            (AssertTableUUID(uuid=table.metadata.table_uuid), *asserted),
            (*removed, *tags, *said),
        )
    except (CommitFailedException, BadRequestError, ValueError):
        return False  # the latter two where a snapshot was expired since the table was loaded
    return True


def set_head(catalog: Any, table: Any, snapshot: Any, properties: Mapping[str, str], *, keep: str) -> bool:
    """Makes a snapshot the current one again, with the schema it was written in, in one commit.

    Args:
        catalog, table: PyIceberg's.
        snapshot: which; the table has it.
        properties: set in the same commit.
        keep: a tag that is set on it, so that an expiry under way leaves it.

    Returns:
        False where another commit was faster: look again.
    """
    current = table.current_snapshot()
    try:
        catalog.commit_table(
            table,
            (
                AssertTableUUID(uuid=table.metadata.table_uuid),
                AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=current and current.snapshot_id),
            ),
            (
                SetSnapshotRefUpdate(ref_name=MAIN_BRANCH, type="branch", snapshot_id=snapshot.snapshot_id),
                SetSnapshotRefUpdate(ref_name=keep, type="tag", snapshot_id=snapshot.snapshot_id),
                SetCurrentSchemaUpdate(schema_id=snapshot.schema_id),
                SetPropertiesUpdate(updates=dict(properties)),
            ),
        )
    except (CommitFailedException, BadRequestError, ValueError):
        return False
    return True
