"""Commits that change a table's refs on conditions that the catalog checks: the basis of tags and leases.

Iceberg lets a commit assert which snapshot a ref points to, or that the ref does not exist. A commit cannot
assert anything about properties. So state that must be exact is stored in the names of tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import BadRequestError, CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotRefUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from headrace.kernel.errors import Conflict

__all__ = ["TRIES", "assert_ref", "commit_updates", "set_branch", "set_tag", "too_many_tries", "update_refs"]

TRIES = 50  # attempts to commit before a Conflict is raised


def assert_ref(name: str, snapshot: int | None) -> AssertRefSnapshotId:
    """The requirement that a ref points to a snapshot, or (None) does not exist."""
    return AssertRefSnapshotId.model_validate({"ref": name, "snapshot-id": snapshot})


def set_tag(name: str, snapshot: int) -> SetSnapshotRefUpdate:
    """The update that sets a tag."""
    return _set_ref(name, "tag", snapshot)


def set_branch(name: str, snapshot: int) -> SetSnapshotRefUpdate:
    """The update that sets a branch."""
    return _set_ref(name, "branch", snapshot)


def _set_ref(name: str, kind: str, snapshot: int) -> SetSnapshotRefUpdate:
    return SetSnapshotRefUpdate.model_validate({"ref-name": name, "type": kind, "snapshot-id": snapshot})


def commit_updates(
    catalog: Catalog, table: Table, requirements: Sequence[TableRequirement], updates: Sequence[TableUpdate]
) -> bool:
    """Commits updates of a table's metadata in one step, without writing a snapshot.

    Returns:
        False if a requirement was not met or another commit was faster: load the table again.
    """
    same_table = AssertTableUUID(uuid=table.metadata.table_uuid)
    try:
        catalog.commit_table(table, (same_table, *requirements), tuple(updates))
    except (CommitFailedException, BadRequestError, ValueError):
        return False  # the last two errors: a snapshot expired after the table was loaded
    return True


def update_refs(
    catalog: Catalog,
    table: Table,
    *,
    set_tags: Mapping[str, int] | None = None,
    remove: Sequence[str] = (),
    properties: Mapping[str, str] | None = None,
    expect: Mapping[str, int | None],
) -> bool:
    """Sets and removes tags, and sets properties, in one commit without a snapshot.

    Args:
        catalog: PyIceberg's catalog.
        table: the table, fresh from the catalog.
        set_tags: tag → snapshot id.
        remove: tags to remove, if they exist.
        properties: set in the same commit.
        expect: ref → the snapshot that it must point to; None: the ref must not exist.

    Returns:
        False if a ref was not as expected or another commit was faster: load the table again.
    """
    updates: list[TableUpdate] = [RemoveSnapshotRefUpdate.model_validate({"ref-name": name}) for name in remove]
    updates += [set_tag(name, snapshot) for name, snapshot in (set_tags or {}).items()]
    if properties:
        updates.append(SetPropertiesUpdate(updates=dict(properties)))
    requirements = [assert_ref(name, snapshot) for name, snapshot in expect.items()]
    return commit_updates(catalog, table, requirements, updates)


def too_many_tries(table: Table) -> Conflict:
    """The error of a commit that failed TRIES times because other writers were faster."""
    return Conflict(
        "other writers kept changing the table", where=f"table {table.name()[-1]}", remedy="Try again."
    )
