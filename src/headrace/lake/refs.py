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

__all__ = ["update_refs"]


def update_refs(
    catalog: Any,
    table: Any,
    *,
    set_tags: Mapping[str, int] | None = None,
    remove: tuple[str, ...] = (),
    properties: Mapping[str, str] | None = None,
    expect: Mapping[str, int | None],
) -> bool:
    """Sets and removes tags, and sets properties, in one commit without a snapshot.

    Args:
        catalog, table: PyIceberg's.
        set_tags: tag → snapshot id.
        remove: tags to remove, where they exist.
        properties: set in the same commit.
        expect: ref → the snapshot it must point to, or None where the ref must not exist.

    Returns:
        False where something else had changed, or another commit was faster: look again.
    """
    asserted = (AssertRefSnapshotId(ref=name, snapshot_id=snapshot) for name, snapshot in expect.items())
    tags = (
        SetSnapshotRefUpdate(ref_name=name, type="tag", snapshot_id=snapshot)
        for name, snapshot in (set_tags or {}).items()
    )
    removed = (RemoveSnapshotRefUpdate(ref_name=name) for name in remove)
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
