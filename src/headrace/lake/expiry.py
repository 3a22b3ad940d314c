"""Expiry of snapshots: what keeps the table's metadata small, so that a small commit stays cheap.

PyIceberg's own expiry would also remove a snapshot that was pinned after it looked. Here every pin
sets a second tag, named after the snapshot, and an expiry is committed on the condition that none of
the snapshots it removes has one. The files of an expired snapshot stay for
the grace of lake/orphan_files.py, so that a reader that has begun finishes.
"""

from __future__ import annotations

import logging
from itertools import islice, pairwise
from typing import Any

from pyiceberg.exceptions import BadRequestError, CommitFailedException
from pyiceberg.table.update import AssertRefSnapshotId, AssertTableUUID, RemoveSnapshotsUpdate

from headrace.kernel.errors import HeadraceError
from headrace.kernel.faults import reach
from headrace.lake.failures import failures

__all__ = ["KEEP", "as_it_goes", "expire"]

KEEP = "headrace-keep-"
_logger = logging.getLogger(__name__)
NEWEST = 20  # snapshots that are always kept: PyIceberg reads and writes them all at each commit
_SLACK = 5  # so that not every commit expires


def as_it_goes(catalog: Any, table: Any, where: str) -> None:
    """After a commit: expires where there are too many. `table` is the handle of before the commit.

    What was committed stays so, whatever comes of this: the next commit does it then.
    """
    if len(table.metadata.snapshots) < NEWEST + _SLACK:
        return
    name = table.name()[-1]
    try:
        with failures(where, name):
            expire(catalog, catalog.load_table(table.name()), NEWEST)
    except HeadraceError as error:
        _logger.warning("snapshots of %s were not expired: %s", name, error)


def expire(catalog: Any, table: Any, newest: int, before_millis: int | None = None) -> int:
    """Expires all but the `newest` newest snapshots, heads and pinned ones; returns how many.

    Args:
        catalog, table: PyIceberg's; the table fresh from the catalog.
        newest: how many are kept in any case.
        before_millis: where given, only those that had a newer one by this instant (milliseconds
            since 1970): what was the head a moment ago is not old, whenever it was made.

    A pin or commit that comes in between makes it do nothing: it comes again.
    """
    held = {ref.snapshot_id for ref in table.refs().values()}
    ordered = sorted(table.metadata.snapshots, key=lambda s: s.sequence_number)
    gone = [
        s.snapshot_id
        for s, after in islice(pairwise(ordered), max(0, len(ordered) - newest))
        if s.snapshot_id not in held and (before_millis is None or after.timestamp_ms < before_millis)
    ]
    if not gone:
        return 0
    unpinned = tuple(AssertRefSnapshotId(ref=f"{KEEP}{i}", snapshot_id=None) for i in gone)
    reach("maintenance.expire")
    try:
        catalog.commit_table(
            table,
            (AssertTableUUID(uuid=table.metadata.table_uuid), *unpinned),
            (RemoveSnapshotsUpdate(snapshot_ids=gone),),
        )
    except (CommitFailedException, BadRequestError, ValueError):
        return 0  # the latter two where another expiry took them first
    return len(gone)
