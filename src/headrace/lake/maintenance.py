"""Upkeep of a table: small files put together, old snapshots expired, unreferenced files deleted.

Every step is safe by itself: killed at any point, or done by two at once, it leaves a whole table and
at most files that a later upkeep deletes. The lease only saves two upkeeps from doing the same work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any

import pyarrow as pa
from msgspec import Struct
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile, ManifestEntry
from pyiceberg.table import FileScanTask

from headrace.kernel.errors import CallError, Conflict
from headrace.kernel.faults import reach
from headrace.kernel.properties import COMMIT_ID, MAINTENANCE, PREFIX, ROWS_OF
from headrace.kernel.time import now_micros
from headrace.lake import expiry
from headrace.lake.changes import COMPACTED, age, live_entries
from headrace.lake.commit import BRIEF, Change, commit, discard
from headrace.lake.failures import failures
from headrace.lake.files import ROW_GROUP, conform, write_file
from headrace.lake.lease import Lease
from headrace.lake.orphan_files import is_due, remove_orphan_files
from headrace.lake.pins import forget_keeps
from headrace.lake.table import LakeTable

__all__ = ["MaintenanceReport", "maintain"]

SMALL = 16 * 1024 * 1024  # bytes: a file below this, and a row group, may be put together with others
TOGETHER = 64 * 1024 * 1024  # bytes that are put into one file
_FEWEST = 8  # small files of one partition that are worth it
_GROUPS = 16  # files that one compaction makes
_MANIFESTS = 60


class MaintenanceReport(Struct):
    """What an upkeep did.

    Attributes:
        busy: another upkeep of this table held the lease, or took it meanwhile.
        compacted: small files that were put together.
        expired: snapshots.
        deleted: files that nothing referred to.
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
    """Does what the table needs; readers and writers go on meanwhile. One at a time a table, anywhere.

    Args:
        table: which; without a snapshot nothing is done.
        older_than: snapshots that were followed by another longer ago expire, but no pinned one.
        grace: how long a file stays after it was found that nothing refers to it: longer than the
            longest read of a snapshot that is not pinned. At least an hour, where others write.
        longest_write: how old such a file must be where it may belong to a write under way.
        small: bytes; files below, and below a row group, are put together, a partition's.

    Raises:
        CallError: the table is gone, or its files lie outside of the warehouse of an SQLite catalog.
        Unavailable: the catalog is locked or away.
    """
    kept = MaintenanceReport()
    with failures(table.where, table.name):
        _check_place(table)
        lease = Lease(table.catalog, table.iceberg)
        if table.iceberg().current_snapshot() is None:
            return kept
        try:
            if not lease.take():
                return MaintenanceReport(busy=True)
            reach("maintenance.leased")
            _run(table, lease, kept, older_than, grace, longest_write, small)
        except Conflict:
            kept.busy = True  # what was done is done
    return kept


def _check_place(table: LakeTable) -> None:
    """Of a catalog that is a file there may be a copy: what another one's tables need must not be deleted."""
    iceberg = table.iceberg()
    warehouse = table.catalog.properties.get("warehouse", "").rstrip("/")
    if table.catalog.properties.get("type") != "sql" or iceberg.location().startswith(f"{warehouse}/"):
        return
    raise CallError(
        f"its files lie outside of the warehouse {warehouse}, and may be another project's",
        where=f"table {table.name}: {iceberg.location()}",
        remedy="Nothing of it is cleaned up. Name its warehouse in the profile, or make the table again.",
    )


def _run(
    table: LakeTable,
    lease: Lease,
    kept: MaintenanceReport,
    older_than: timedelta,
    grace: timedelta,
    longest_write: timedelta,
    small: int,
) -> None:
    kept.compacted = _compact(table, small, lease)
    _merge_manifests(table)
    forget_keeps(table.catalog, table.iceberg())
    lease.renew(now=True)  # at the head, so that the lease itself holds no old snapshot
    before = (now_micros() - older_than // timedelta(microseconds=1)) // 1000
    kept.expired = expiry.expire(table.catalog, table.iceberg(), 1, before)
    iceberg = table.iceberg()
    done: dict[str, str] = {}
    if is_due(iceberg, grace):
        kept.deleted, done = remove_orphan_files(iceberg, grace, longest_write, lease.renew)
    lease.give_back(done)


# --- compaction ----------------------------------------------------------------------------------


def _compact(table: LakeTable, small: int, lease: Lease) -> int:
    """Puts small files of a partition together, some groups a commit; returns how many went."""
    iceberg = table.iceberg()
    groups = _groups(iceberg, small)
    went = 0
    while some := list(islice(groups, _GROUPS)):
        lease.renew()
        went += _put_together(table, iceberg, some)
        lease.renew(now=True)  # others need not wait any more
    pa.default_memory_pool().release_unused()  # an ingest beside it needs no such amount
    return went


def _put_together(table: LakeTable, iceberg: Any, groups: list[list[ManifestEntry]]) -> int:
    until = now_micros() + BRIEF
    gone: list[DataFile] = []
    made: list[DataFile] = []
    for group in groups:
        newest = max(age(entry) for entry in group)
        rows = (_rows(entry.data_file, iceberg) for entry in group)  # one by one: memory stays flat
        made.append(write_file(rows, group[0].data_file.partition, iceberg, prefix=f"{COMPACTED}{newest}-"))
        gone += [entry.data_file for entry in group]
    change = Change(made, lambda _: gone, facts=_facts("compaction"), until=until, first=True)
    try:
        commit(table.iceberg, change, where=f"table {table.name}")
    except Conflict:
        discard(iceberg, made)
        return 0
    return len(gone)


def _rows(file: DataFile, iceberg: Any) -> Any:
    scan = ArrowScan(iceberg.metadata, iceberg.io, iceberg.schema(), AlwaysTrue())
    return conform(scan.to_table([FileScanTask(file)]), iceberg)


def _groups(iceberg: Any, small: int) -> Iterator[list[ManifestEntry]]:
    """Small files of one partition, in the order in which their rows came, at most TOGETHER bytes."""
    partitions: dict[Any, list[ManifestEntry]] = defaultdict(list)
    for entry in live_entries(iceberg, iceberg.current_snapshot()):
        file = entry.data_file
        is_small = file.file_size_in_bytes < small and file.record_count < ROW_GROUP
        if is_small and file.spec_id == iceberg.spec().spec_id:
            partitions[file.partition].append(entry)
    for entries in partitions.values():
        group: list[ManifestEntry] = []
        size = 0
        for entry in sorted(entries, key=age):
            if group and size + entry.data_file.file_size_in_bytes > TOGETHER:
                yield from _worth(group)
                group, size = [], 0
            group.append(entry)
            size += entry.data_file.file_size_in_bytes
        yield from _worth(group)


def _worth(group: list[ManifestEntry]) -> Iterator[list[ManifestEntry]]:
    """The group without the first files that hold more rows than all after them; nothing where too few remain.

    So a row is written again only once its file's rows have doubled, however often upkeep comes.
    """
    after = sum(entry.data_file.record_count for entry in group)
    first = 0
    for entry in group:
        after -= entry.data_file.record_count
        if entry.data_file.record_count <= after:
            break
        first += 1
    if len(group) - first >= _FEWEST:
        yield group[first:]


def _facts(kind: str) -> Any:
    """The head's facts, carried on: the rows are the same, so what was said of them stays true."""

    def carried(iceberg: Any) -> Mapping[str, str]:
        head = iceberg.current_snapshot()
        said = head.summary.additional_properties if head is not None and head.summary is not None else {}
        kept = {n: v for n, v in said.items() if n.startswith(PREFIX) and n != COMMIT_ID}
        same = {} if head is None else {ROWS_OF: kept.get(ROWS_OF, str(head.snapshot_id))}
        return {**kept, **same, MAINTENANCE: kind}

    return carried


def _merge_manifests(table: LakeTable) -> None:
    """Replacing days leaves a manifest of what went each time; nothing but this takes them away."""
    iceberg = table.iceberg()
    head = iceberg.current_snapshot()
    if head is not None and len(head.manifests(iceberg.io)) > _MANIFESTS:
        commit(
            table.iceberg,
            Change([], facts=_facts("manifests"), merge=True, first=True),
            where=f"table {table.name}",
        )
