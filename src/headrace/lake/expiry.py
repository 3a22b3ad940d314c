"""Expiry of snapshots: keeps a table's metadata small, so that a small commit stays cheap.

PyIceberg's own expiry would also remove a snapshot that was tagged after it looked. Here every tag
has a second one, named after the snapshot, and an expiry is committed on the condition that none of
the snapshots it removes has one. The files of an expired snapshot stay for a grace
(lake/orphan_files.py), so that a reader that has begun finishes.
"""

from __future__ import annotations

import logging
from itertools import islice, pairwise

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from pyiceberg.table.update import RemoveSnapshotsUpdate

from headrace.kernel.errors import HeadraceError
from headrace.kernel.faults import reach
from headrace.lake.failures import failures
from headrace.lake.refs import assert_ref, commit_updates
from headrace.lake.snapshot import sequence_of

__all__ = ["KEEP", "expire_after_commit", "expire_snapshots"]

KEEP = "headrace-keep-"
_logger = logging.getLogger(__name__)
NEWEST = 20  # snapshots that are always kept: PyIceberg reads and writes them all at each commit
_SLACK = 5  # so that not every commit expires


def expire_after_commit(catalog: Catalog, table: Table, where: str) -> None:
    """Expires snapshots where a table has too many. A failure is logged: the next commit tries again.

    Args:
        catalog: PyIceberg's catalog.
        table: the table as it was before the commit.
        where: the catalog's address, for errors.
    """
    if len(table.metadata.snapshots) < NEWEST + _SLACK:
        return
    name = table.name()[-1]
    try:
        with failures(where, name):
            expire_snapshots(catalog, catalog.load_table(table.name()), NEWEST)
    except HeadraceError as error:
        _logger.warning("snapshots of %s were not expired: %s", name, error)


def expire_snapshots(catalog: Catalog, table: Table, newest: int, before_millis: int | None = None) -> int:
    """Expires all but the newest snapshots and those a ref points to; returns how many.

    Where a tag or commit comes in between, nothing is expired: a later expiry does it.

    Args:
        catalog: PyIceberg's catalog.
        table: the table, fresh from the catalog.
        newest: how many snapshots are kept in any case.
        before_millis: where given, only those expire that had a successor by this instant
            (milliseconds since 1970). What was current a moment ago is not old, whenever it was made.
    """
    referenced = {ref.snapshot_id for ref in table.refs().values()}
    ordered = sorted(table.metadata.snapshots, key=sequence_of)
    expired = [
        snapshot.snapshot_id
        for snapshot, successor in islice(pairwise(ordered), max(0, len(ordered) - newest))
        if snapshot.snapshot_id not in referenced
        and (before_millis is None or successor.timestamp_ms < before_millis)
    ]
    if not expired:
        return 0
    untagged = [assert_ref(f"{KEEP}{snapshot}", None) for snapshot in expired]
    reach("maintenance.expire")
    removal = RemoveSnapshotsUpdate.model_validate({"snapshot-ids": expired})
    return len(expired) if commit_updates(catalog, table, untagged, [removal]) else 0
