"""Expires snapshots, so that a table's metadata stays small and a small commit stays cheap.

PyIceberg's own expiry would also remove a snapshot that was tagged after it listed the tags. So here every tag
has a second tag, named after the snapshot, and an expiry is committed on the condition that none of its
snapshots has such a second tag. The files of an expired snapshot stay for a grace period
(lake/orphan_files.py), so that readers that have started can finish.
"""

from __future__ import annotations

import logging
from itertools import islice, pairwise

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from pyiceberg.table.update import RemoveSnapshotsUpdate

from headrace.kernel.errors import HeadraceError
from headrace.kernel.faults import reach
from headrace.lake.errors import name_errors
from headrace.lake.refs import assert_ref, commit_updates
from headrace.lake.snapshot import sequence_of
from headrace.lake.tag_names import KEEP

__all__ = ["expire_after_commit", "expire_snapshots"]

_logger = logging.getLogger(__name__)
NEWEST = 20  # snapshots that are always kept: PyIceberg reads and writes them all at each commit
_SLACK = 5  # so that not every commit expires


def expire_after_commit(catalog: Catalog, table: Table, where: str) -> None:
    """Expires snapshots if a table has too many. A failure is only logged: the next commit tries again.

    Args:
        catalog: PyIceberg's catalog.
        table: the table as it was before the commit.
        where: the catalog's address, for errors.
    """
    if len(table.metadata.snapshots) < NEWEST + _SLACK:
        return
    name = table.name()[-1]
    try:
        with name_errors(where, name):
            expire_snapshots(catalog, catalog.load_table(table.name()), NEWEST)
    except HeadraceError as error:
        _logger.warning("snapshots of %s were not expired: %s", name, error)


def expire_snapshots(catalog: Catalog, table: Table, newest: int, before_millis: int | None = None) -> int:
    """Expires all but the newest snapshots and those a ref points to; returns how many.

    If a tag is created or another commit is faster meanwhile, nothing is expired: a later expiry tries again.

    Args:
        catalog: PyIceberg's catalog.
        table: the table, fresh from the catalog.
        newest: how many of the newest snapshots are always kept.
        before_millis: if given, only snapshots with a successor before this instant (milliseconds since 1970)
            expire: an old snapshot may have been current until a moment ago.
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
