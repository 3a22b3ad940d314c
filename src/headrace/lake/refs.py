"""Changes of a table's refs on conditions that the catalog checks: what pins and leases are made of.

Iceberg lets a commit assert what a ref of a given name is, or that there is none, and nothing about
properties. So what must be exact stands in the names of tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyiceberg.exceptions import BadRequestError, CommitFailedException
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotRefUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
)

__all__ = ["changed"]


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
