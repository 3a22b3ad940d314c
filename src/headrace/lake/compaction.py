"""Compaction: replaces small files of a partition by larger files, and many manifests by few."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

import pyarrow as pa
from pyiceberg.manifest import DataFile, ManifestEntry
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from headrace.kernel.errors import Conflict
from headrace.kernel.properties import COMMIT_ID, MAINTENANCE, PREFIX, ROWS_OF
from headrace.kernel.time import now_micros
from headrace.lake.changes import COMPACTED, newest_sequence
from headrace.lake.commit import BRIEF, FileChanges, commit, discard
from headrace.lake.entries import live_entries
from headrace.lake.files import ROW_GROUP, conform, write_file
from headrace.lake.lease import Lease
from headrace.lake.pyiceberg_internals import read_files
from headrace.lake.snapshot import newest_snapshot, summary_of
from headrace.lake.table import LakeTable

__all__ = ["SMALL", "compact", "merge_manifests"]

_logger = logging.getLogger(__name__)

SMALL = 16 * 1024 * 1024  # bytes: a file below this size, and below a row group, is compacted
TOGETHER = 64 * 1024 * 1024  # bytes of small files that become one file
_FEWEST = 8  # the fewest small files of one partition that are worth a compaction
_GROUPS = 16  # files that one commit writes
_FILES = 500  # files that one commit replaces: it must end long before BRIEF and the end of the lease
_MANIFESTS = 60


def compact(table: LakeTable, small: int, lease: Lease) -> int:
    """Compacts small files of each partition, several groups per commit; returns how many it replaced.

    Args:
        table: the table, with a snapshot.
        small: bytes below which a file is small.
        lease: renewed before and after each commit.
    """
    iceberg = table.iceberg()
    replaced = 0
    for batch in _batches(_groups(iceberg, small)):
        lease.renew()
        replaced += _replace(table, iceberg, batch)
        lease.renew(now=True)  # removes the mark for which other writers wait
    pa.default_memory_pool().release_unused()  # the ingest in this process needs far less memory
    return replaced


def merge_manifests(table: LakeTable) -> None:
    """Merges a table's manifests if there are many. Each overwrite leaves a manifest of removed files, which
    nothing else removes."""
    iceberg = table.iceberg()
    if len(newest_snapshot(iceberg).manifests(iceberg.io)) > _MANIFESTS:
        changes = FileChanges([], facts=_keep_facts("manifests"), merge=True, first=True)
        commit(table.iceberg, changes, where=f"table {table.name}")


def _replace(table: LakeTable, iceberg: Table, groups: list[list[ManifestEntry]]) -> int:
    """Replaces each group by one file, in one commit; returns how many files were replaced."""
    until = now_micros() + BRIEF
    removed: list[DataFile] = []
    added: list[DataFile] = []
    for group in groups:
        newest = max(_newest_sequence(entry) for entry in group)
        rows = (
            conform(read_files(iceberg, [entry.data_file]), iceberg) for entry in group
        )  # memory stays flat
        added.append(write_file(rows, group[0].data_file.partition, iceberg, prefix=f"{COMPACTED}{newest}-"))
        removed += [entry.data_file for entry in group]
    changes = FileChanges(added, lambda _: removed, facts=_keep_facts("compaction"), until=until, first=True)
    try:
        commit(table.iceberg, changes, where=f"table {table.name}")
    except Conflict as error:  # the next maintenance compacts what is left
        _logger.warning("small files of %s were not compacted: %s", table.name, error)
        discard(iceberg, [file.file_path for file in added])
        return 0
    return len(removed)


def _batches(groups: Iterable[list[ManifestEntry]]) -> Iterator[list[list[ManifestEntry]]]:
    """The groups of each commit: at most _GROUPS, of at most _FILES files together."""
    batch: list[list[ManifestEntry]] = []
    for group in groups:
        if batch and (len(batch) == _GROUPS or sum(map(len, batch)) + len(group) > _FILES):
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _groups(iceberg: Table, small: int) -> Iterator[list[ManifestEntry]]:
    """Groups of small files of one partition, in the order of their rows.

    Each has at most _FILES files, and at most TOGETHER bytes.
    """
    partitions: dict[Record, list[ManifestEntry]] = defaultdict(list)
    for entry in live_entries(iceberg, newest_snapshot(iceberg)):
        file = entry.data_file
        is_small = file.file_size_in_bytes < small and file.record_count < ROW_GROUP
        if is_small and file.spec_id == iceberg.spec().spec_id:
            partitions[file.partition].append(entry)
    for entries in partitions.values():
        group: list[ManifestEntry] = []
        size = 0
        for entry in sorted(entries, key=_newest_sequence):
            if group and (size + entry.data_file.file_size_in_bytes > TOGETHER or len(group) == _FILES):
                yield from _worthwhile(group)
                group, size = [], 0
            group.append(entry)
            size += entry.data_file.file_size_in_bytes
        yield from _worthwhile(group)


def _newest_sequence(entry: ManifestEntry) -> int:
    return newest_sequence(entry.data_file.file_path, entry.sequence_number or 0)


def _worthwhile(group: list[ManifestEntry]) -> Iterator[list[ManifestEntry]]:
    """The group without its first files that hold more rows than all later files; nothing if too few remain.

    So a row is written again only when its file at least doubles, however often maintenance runs.
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


def _keep_facts(kind: str) -> Callable[[Table], Mapping[str, str]]:
    """Copies the newest snapshot's facts to the next one: the rows are the same, so the facts stay true."""

    def facts(iceberg: Table) -> Mapping[str, str]:
        newest = newest_snapshot(iceberg)
        kept = {n: v for n, v in summary_of(newest).items() if n.startswith(PREFIX) and n != COMMIT_ID}
        return {**kept, ROWS_OF: kept.get(ROWS_OF, str(newest.snapshot_id)), MAINTENANCE: kind}

    return facts
