"""Upkeep of a table: small files put together, old snapshots expired, unreferenced files deleted.

Every step is safe by itself: killed at any point it leaves a whole table and at most files that a
later upkeep deletes. The lease only saves two upkeeps from doing the same work at once. It is a lock
on a file, which the kernel gives back when its holder dies.
"""

from __future__ import annotations

import fcntl
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct
from pyarrow.fs import FileInfo, FileSelector
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile, ManifestEntry
from pyiceberg.table import FileScanTask

from headrace.kernel.errors import Conflict
from headrace.kernel.time import now_micros
from headrace.lake import expiry
from headrace.lake.changes import COMPACTED, age, live_entries, live_files
from headrace.lake.commit import BATCH, Change, commit, discard
from headrace.lake.failures import failures
from headrace.lake.files import conform, write_files
from headrace.lake.pins import forget_keeps
from headrace.lake.table import LakeTable

__all__ = ["Kept", "keep"]

SMALL = 16 * 1024 * 1024  # bytes: a file below this may be put together with others
TOGETHER = 64 * 1024 * 1024  # bytes that are put into one file
_FEWEST = 8  # small files of one partition that are worth it
_MANIFESTS = 60


class Kept(Struct, frozen=True):
    """What an upkeep did.

    Attributes:
        busy: another upkeep of this table held the lease, and nothing was done.
        compacted: small files that were put together.
        expired: snapshots.
        deleted: files that nothing referred to.
    """

    busy: bool = False
    compacted: int = 0
    expired: int = 0
    deleted: int = 0


def keep(
    table: LakeTable,
    *,
    older_than: timedelta = timedelta(hours=1),
    grace: timedelta = timedelta(days=1),
    small: int = SMALL,
) -> Kept:
    """Does what the table needs; readers and writers go on meanwhile.

    Args:
        table: which.
        older_than: snapshots that are older expire, but never the head nor a pinned one.
        grace: files that no snapshot refers to are deleted when they are older: longer than the
            longest read of an expired snapshot, and than the longest write before its commit.
        small: bytes; files below are put together, a partition's.

    Raises:
        CallError: the table is gone.
        Unavailable: the catalog is locked or away.
    """
    with _lease(table.folder / f"upkeep-{table.name}.lock") as held:
        if not held:
            return Kept(busy=True)
        with failures(table.where, table.name):
            compacted = _compact(table, small)
            _merge_manifests(table)
            forget_keeps(table.catalog, table.iceberg())
            before = (now_micros() - older_than // timedelta(microseconds=1)) // 1000
            expired = expiry.expire(table.catalog, table.iceberg(), 1, before)
            deleted = _delete_unreferenced(table, grace)
    return Kept(compacted=compacted, expired=expired, deleted=deleted)


@contextmanager
def _lease(path: Path) -> Iterator[bool]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


# --- compaction ----------------------------------------------------------------------------------


def _compact(table: LakeTable, small: int) -> int:
    """Puts small files of a partition together in one commit; returns how many went."""
    iceberg = table.iceberg()
    if iceberg.current_snapshot() is None:
        return 0
    gone: list[DataFile] = []
    made: list[DataFile] = []
    for group in _groups(iceberg, small):
        newest = max(age(entry) for entry in group)
        tasks = [FileScanTask(entry.data_file) for entry in group]
        scan = ArrowScan(iceberg.metadata, iceberg.io, iceberg.schema(), AlwaysTrue())
        rows = conform(scan.to_table(tasks), iceberg)
        made += write_files(rows, iceberg, prefix=f"{COMPACTED}{newest}-")
        gone += [entry.data_file for entry in group]
    if not gone:
        return 0
    paths = {data_file.file_path for data_file in gone}

    def removed(now: Any) -> list[DataFile]:
        live = [f for f in live_files(now, now.current_snapshot()) if f.file_path in paths]
        if len(live) < len(paths):
            raise Conflict("the files were replaced meanwhile", where=f"table {table.name}")
        return live

    try:
        commit(table.iceberg, Change(made, removed, facts=_facts("compaction")), where=f"table {table.name}")
    except Conflict:
        discard(iceberg, made)
        return 0
    return len(gone)


def _groups(iceberg: Any, small: int) -> Iterator[list[ManifestEntry]]:
    """Small files of one partition, in the order in which their rows came, at most TOGETHER bytes."""
    partitions: dict[Any, list[ManifestEntry]] = defaultdict(list)
    for entry in live_entries(iceberg, iceberg.current_snapshot()):
        if entry.data_file.file_size_in_bytes < small and entry.data_file.spec_id == iceberg.spec().spec_id:
            partitions[entry.data_file.partition].append(entry)
    for entries in partitions.values():
        group: list[ManifestEntry] = []
        size = 0
        for entry in sorted(entries, key=age):
            if group and size + entry.data_file.file_size_in_bytes > TOGETHER:
                if len(group) >= _FEWEST:
                    yield group
                group, size = [], 0
            group.append(entry)
            size += entry.data_file.file_size_in_bytes
        if len(group) >= _FEWEST:
            yield group


def _facts(kind: str) -> Any:
    """The head's facts, carried on: the rows are the same, so what was said of them stays true."""

    def carried(iceberg: Any) -> Mapping[str, str]:
        head = iceberg.current_snapshot()
        said = head.summary.additional_properties if head is not None and head.summary is not None else {}
        kept = {n: v for n, v in said.items() if n.startswith("headrace.") and n != BATCH}
        return {**kept, "headrace.upkeep": kind}

    return carried


def _merge_manifests(table: LakeTable) -> None:
    """Replacing days leaves a manifest of what went each time; nothing but this takes them away."""
    iceberg = table.iceberg()
    head = iceberg.current_snapshot()
    if head is not None and len(head.manifests(iceberg.io)) > _MANIFESTS:
        commit(table.iceberg, Change([], facts=_facts("manifests"), merge=True), where=f"table {table.name}")


# --- expiry and deletion -------------------------------------------------------------------------


def _delete_unreferenced(table: LakeTable, grace: timedelta) -> int:
    """Deletes files of the table's folder that are past the grace and that no snapshot refers to."""
    iceberg = table.iceberg()
    scheme, netloc, folder = iceberg.io.parse_location(iceberg.location())
    system = iceberg.io.fs_by_scheme(scheme, netloc)
    oldest = now_micros() / 1e6 - grace.total_seconds()
    # Listed first, looked up after: what a commit makes use of in between is seen as referred to.
    listed = system.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    aged = [info for info in listed if _is_aged(info, oldest)]
    if not aged:
        return 0
    used = {iceberg.io.parse_location(path)[2] for path in _referenced(table.iceberg())}
    gone = [info.path for info in aged if info.path not in used]
    for path in gone:
        system.delete_file(path)
    return len(gone)


def _is_aged(info: FileInfo, oldest: float) -> bool:
    return bool(info.is_file and info.mtime is not None and info.mtime.timestamp() < oldest)


def _referenced(iceberg: Any) -> set[str]:
    paths = {iceberg.metadata_location, *(log.metadata_file for log in iceberg.metadata.metadata_log)}
    paths |= {statistics.statistics_path for statistics in iceberg.metadata.statistics}
    manifests: dict[str, Any] = {}
    for snapshot in iceberg.snapshots():
        paths.add(snapshot.manifest_list)
        manifests.update((m.manifest_path, m) for m in snapshot.manifests(iceberg.io))
    for path, manifest in manifests.items():
        paths.add(path)
        entries = manifest.fetch_manifest_entry(iceberg.io, discard_deleted=True)
        paths.update(entry.data_file.file_path for entry in entries)
    return paths
