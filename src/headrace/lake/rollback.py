"""Rollback: makes a former snapshot the current one again."""

from __future__ import annotations

from collections.abc import Callable

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.table.update import (
    SetCurrentSchemaUpdate,
    SetDefaultSpecUpdate,
    SetPropertiesUpdate,
    TableUpdate,
)

from headrace.lake.refs import TRIES, assert_ref, commit_updates, set_branch, set_tag, too_many_tries
from headrace.lake.snapshot import newest_snapshot, summary_of
from headrace.lake.tag_names import KEEP

__all__ = ["rollback_to_snapshot"]


def rollback_to_snapshot(catalog: Catalog, load: Callable[[], Table], snapshot: int) -> IcebergSnapshot | None:
    """Makes the snapshot current and returns it; None if the table does not have it.

    See LakeTable.rollback_to_snapshot. A tag in the same commit prevents an expiry in progress from removing
    the snapshot.

    Raises:
        Conflict: other writers kept changing the table.
    """
    for _ in range(TRIES):
        table = load()
        former = table.snapshot_by_id(snapshot)
        if former is None:
            return None
        facts = summary_of(former)
        properties = {name: facts[name] for name in facts if name in table.properties}
        updates: list[TableUpdate] = [
            set_branch(MAIN_BRANCH, snapshot),
            set_tag(f"{KEEP}{snapshot}", snapshot),
            SetCurrentSchemaUpdate.model_validate({"schema-id": former.schema_id}),
            SetPropertiesUpdate(updates=properties),
            *_set_spec(table, former),
        ]
        current = assert_ref(MAIN_BRANCH, newest_snapshot(table).snapshot_id)
        if commit_updates(catalog, table, [current], updates):
            return former
    raise too_many_tries(table)


def _set_spec(table: Table, former: IcebergSnapshot) -> list[TableUpdate]:
    """The update that makes the table partitioned as the snapshot's files are."""
    manifests = former.manifests(table.io)
    specs = {
        manifest.partition_spec_id
        for manifest in manifests
        if manifest.has_existing_files() or manifest.has_added_files()
    }
    if len(specs) != 1 or specs == {table.spec().spec_id}:
        return []
    return [SetDefaultSpecUpdate.model_validate({"spec-id": specs.pop()})]
