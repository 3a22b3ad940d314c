"""Maintenance of a table: compacts small files, expires old snapshots, removes orphan files.

Every step is safe by itself. Killed at any point, or done by two at once, it leaves a whole table and
at most files that a later maintenance deletes. The lease only saves two from doing the same work.
"""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from headrace.kernel.errors import CallError, Conflict
from headrace.kernel.faults import reach
from headrace.kernel.time import now_micros
from headrace.lake.compaction import SMALL, compact, merge_manifests
from headrace.lake.expiry import expire_snapshots
from headrace.lake.failures import failures
from headrace.lake.lease import Lease
from headrace.lake.orphan_files import is_due, remove_orphan_files
from headrace.lake.table import LakeTable
from headrace.lake.tags import remove_stale_keeps

__all__ = ["MaintenanceReport", "maintain"]


class MaintenanceReport(Struct):
    """What a maintenance did.

    Attributes:
        busy: another maintenance of this table held the lease, or took it meanwhile.
        compacted: small files that were replaced by larger ones.
        expired: snapshots that expired.
        deleted: orphan files that were deleted.
    """

    busy: bool = False
    compacted: int = 0
    expired: int = 0
    deleted: int = 0


def maintain(
    table: LakeTable,
    *,
    older_than: timedelta = timedelta(hours=1),
    grace: timedelta = timedelta(hours=1),
    longest_write: timedelta = timedelta(days=1),
    small: int = SMALL,
) -> MaintenanceReport:
    """Compacts files, expires snapshots and removes orphan files, while readers and writers go on.

    Only one maintenance of a table runs at a time, on whatever machine.

    Args:
        table: the table; without a snapshot nothing is done.
        older_than: snapshots that had a successor longer ago expire, except tagged ones.
        grace: how long a file stays after it was found unreferenced: longer than the longest read of a
            snapshot that is not tagged. At least an hour, where others write.
        longest_write: how old such a file must be where it may belong to a write under way.
        small: bytes; files below this size, and below a row group, are compacted with others of their
            partition.

    Raises:
        CallError: the table does not exist, or its files lie outside of the warehouse of an SQLite catalog.
        Unavailable: the catalog is locked or away.
    """
    report = MaintenanceReport()
    with failures(table.where, table.name):
        _check_location(table)
        lease = Lease(table.catalog, table.iceberg)
        if table.iceberg().current_snapshot() is None:
            return report
        try:
            if not lease.take():
                return MaintenanceReport(busy=True)
            reach("maintenance.leased")
            report.compacted = compact(table, small, lease)
            merge_manifests(table)
            remove_stale_keeps(table.catalog, table.iceberg())
            lease.renew(now=True)  # at the newest snapshot, so that the lease itself keeps no old one
            report.expired = _expire(table, older_than)
            iceberg = table.iceberg()
            properties: dict[str, str] = {}
            if is_due(iceberg, grace):
                report.deleted, properties = remove_orphan_files(
                    table.catalog, iceberg, grace, longest_write, lease.renew
                )
            lease.give_back(properties)
        except Conflict:
            report.busy = True  # the steps that were done remain done
    return report


def _check_location(table: LakeTable) -> None:
    """Raises where files lie outside of the warehouse: of a catalog that is a file there may be a copy, and
    what that copy's tables need must not be deleted."""
    location = table.iceberg().location()
    warehouse = table.catalog.properties.get("warehouse", "").rstrip("/")
    if table.catalog.properties.get("type") != "sql" or location.startswith(f"{warehouse}/"):
        return
    raise CallError(
        f"its files lie outside of the warehouse {warehouse}, and may be another project's",
        where=f"table {table.name}: {location}",
        remedy="No file of it is deleted. Name its warehouse in the profile, or make the table again.",
    )


def _expire(table: LakeTable, older_than: timedelta) -> int:
    before = (now_micros() - older_than // timedelta(microseconds=1)) // 1000
    return expire_snapshots(table.catalog, table.iceberg(), 1, before)
