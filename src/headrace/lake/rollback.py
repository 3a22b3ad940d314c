"""Rollback: a snapshot that is kept becomes the current one again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyiceberg.exceptions import BadRequestError, CommitFailedException
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    SetCurrentSchemaUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
)

from headrace.kernel.errors import Conflict
from headrace.lake.expiry import KEEP

__all__ = ["roll_back"]

_TRIES = 50


def roll_back(catalog: Any, load: Callable[[], Any], snapshot: int) -> Any:
    """PyIceberg's snapshot, which is now current, or None where it is not there. See LakeTable.roll_back.

    A tag that is set on it makes an expiry under way leave it.
    """
    for _ in range(_TRIES):
        table = load()
        former, current = table.snapshot_by_id(snapshot), table.current_snapshot()
        if former is None:
            return None
        facts = former.summary.additional_properties
        properties = {name: facts[name] for name in facts if name in table.properties}
        try:
            catalog.commit_table(
                table,
                (
                    AssertTableUUID(uuid=table.metadata.table_uuid),
                    AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=current.snapshot_id),
                ),
                (
                    SetSnapshotRefUpdate(ref_name=MAIN_BRANCH, type="branch", snapshot_id=snapshot),
                    SetSnapshotRefUpdate(ref_name=f"{KEEP}{snapshot}", type="tag", snapshot_id=snapshot),
                    SetCurrentSchemaUpdate(schema_id=former.schema_id),
                    SetPropertiesUpdate(updates=properties),
                ),
            )
        except (CommitFailedException, BadRequestError, ValueError):
            continue  # another commit was faster; the latter two where the snapshot has expired since
        return former
    raise Conflict(
        "other writers kept changing the table", where=f"table {table.name()[-1]}", remedy="Try again."
    )
