"""Maintenance of a table: compacts small files, expires old snapshots, removes orphan files.

Every step is safe by itself. If a step is killed, or runs twice at once, the table stays intact, and a later
maintenance deletes any files that are left over. The lease only prevents duplicate work.
"""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from headrace.kernel.errors import CallError, Conflict
from headrace.kernel.faults import reach
from headrace.kernel.uptime import steady_micros
from headrace.lake.compaction import SMALL, compact, merge_manifests
from headrace.lake.errors import name_errors
from headrace.lake.expiry import expire_snapshots
from headrace.lake.lease import Lease
from headrace.lake.orphan_files import is_due, remove_orphan_files
from headrace.lake.table import LakeTable
from headrace.lake.tags import remove_stale_keeps

__all__ = ["MaintenanceReport", "maintain"]


class MaintenanceReport(Struct):
    """The results of a maintenance.

    Attributes:
        busy: whether another maintenance of this table held the lease, or took it meanwhile.
        compacted: the number of small files that were replaced by larger files.
        expired: the number of snapshots that expired.
        deleted: the number of orphan files that were deleted.
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
    """Compacts files, expires snapshots and removes orphan files, while readers and writers continue.

    Only one maintenance of a table runs at a time on all machines.

    Args:
        table: the table; without a snapshot nothing is done.
        older_than: a snapshot expires if it got a successor longer ago than this, unless it is tagged.
        grace: how long a file stays after it was found unreferenced. It must be longer than the longest read
            of a snapshot that is not tagged, and at least an hour if other processes write.
        longest_write: how old such a file must be if it may belong to a write in progress.
        small: bytes; files below this size, and below a row group, are compacted with others of their
            partition.

    Raises:
        CallError: the table does not exist, or its files lie outside the warehouse of an SQLite catalog.
        Unavailable: the catalog is locked or cannot be reached.
    """
    report = MaintenanceReport()
    with name_errors(table.where, table.name):
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
            lease.renew(now=True)  # moves the lease's tags, which would keep an old snapshot from expiring
            report.expired = _expire(table, older_than)
            iceberg = table.iceberg()
            properties: dict[str, str] = {}
            if is_due(iceberg, grace):
                report.deleted, properties = remove_orphan_files(
                    table.catalog, iceberg, grace, longest_write, lease.renew
                )
            lease.release(properties)
        except Conflict:
            report.busy = True  # the finished steps remain in effect
    return report


def _check_location(table: LakeTable) -> None:
    """Raises CallError if files lie outside the warehouse of a SQLite catalog: a copy of the catalog may need
    them, so they must not be deleted."""
    location = table.iceberg().location()
    warehouse = table.catalog.properties.get("warehouse", "").rstrip("/")
    if table.catalog.properties.get("type") != "sql" or location.startswith(f"{warehouse}/"):
        return
    raise CallError(
        f"its files are outside the warehouse {warehouse}, and may belong to another project",
        where=f"table {table.name}: {location}",
        remedy="None of its files was deleted. Name its warehouse in the profile, or create the table again.",
    )


def _expire(table: LakeTable, older_than: timedelta) -> int:
    before = (steady_micros() - older_than // timedelta(microseconds=1)) // 1000
    return expire_snapshots(table.catalog, table.iceberg(), 1, before)
