"""Removes orphan files: files in a table's folder that no snapshot refers to, after a grace period.

There are two kinds of orphan. The first was referred to by snapshots that have expired, and a reader that
started before may still need it. It is deleted only after removals have found it unreferenced for the whole
grace period. Their findings are stored in a file beside the table's metadata, which a property of the table
names.

The second belongs to a write that is not committed yet. Most commits follow their files at once, and are
refused after BRIEF (lake/commit.py). So if the newest snapshot is younger than such a file by the grace period,
no commit in progress can use the file: the commit would be based on an older snapshot, and the catalog refuses
it. Other files, such as those of a table whose build takes hours, count as orphans by their age alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType
from pyiceberg.catalog import Catalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from headrace.kernel.faults import reach
from headrace.kernel.properties import ORPHANS_REMOVED
from headrace.kernel.uptime import steady_micros
from headrace.lake.changes import COMPACTED
from headrace.lake.entries import live_entries
from headrace.lake.files import APPENDED
from headrace.lake.pyiceberg_internals import filesystem_of
from headrace.lake.snapshot import newest_snapshot

__all__ = ["is_due", "remove_orphan_files"]

_OFTEN = 10  # removals per grace period
_TOGETHER = 1000  # files that are deleted between two renewals of the lease
_AT_ONCE = 8  # parallel deletions, because each takes a while on an object store
_NOTE = "metadata/unreferenced-"
_MICROS = timedelta(microseconds=1)
# Manifests, their lists and metadata; and data files that are committed as soon as they are written.
_BRIEF = re.compile(rf"metadata/.*|data/({APPENDED}|{COMPACTED})[^/]*")


class _Folder(Struct, frozen=True):
    """A table's folder: in `system`, under `path`, which ends with a slash."""

    io: PyArrowFileIO
    system: FileSystem
    path: str

    @classmethod
    def of(cls, catalog: Catalog, table: Table) -> _Folder:
        io, system = filesystem_of(catalog, table)
        path = io.parse_location(table.location())[2]
        return cls(io, system, path.rstrip("/") + "/")

    def relative(self, location: str) -> str:
        """The path within the folder of a location in the metadata."""
        return self.io.parse_location(location)[2].removeprefix(self.path)


def is_due(table: Table, grace: timedelta) -> bool:
    """Whether the last removal of the table's orphans was a tenth of the grace period ago."""
    age = steady_micros() - int(table.properties.get(ORPHANS_REMOVED, 0))
    return not 0 <= age < grace // _MICROS // _OFTEN  # below 0: a clock that was ahead stored it


def remove_orphan_files(
    catalog: Catalog, table: Table, grace: timedelta, longest_write: timedelta, renew: Callable[[], None]
) -> tuple[int, dict[str, str]]:
    """Deletes the orphans whose grace period is over, and stores the list of the others.

    Memory grows with the number of files in the table's folder, by about 0.5 kB for each.

    Args:
        catalog: PyIceberg's catalog.
        table: the table, fresh from the catalog, with a snapshot.
        grace: how long a file must have been unreferenced.
        longest_write: the age at which a file cannot belong to a long write any more.
        renew: called between deletions; it raises to stop the removal.

    Returns:
        The number of deleted files, and the properties to set afterwards.
    """
    began = steady_micros()
    folder = _Folder.of(catalog, table)
    last = table.properties.get(ORPHANS_REMOVED)
    waits, old = began - grace // _MICROS, began - longest_write // _MICROS
    behind_newest = newest_snapshot(table).timestamp_ms * 1000 - grace // _MICROS
    # Files are listed before the references, so that a file that a commit uses meanwhile counts as referenced.
    written = _list_files(folder)
    reach("maintenance.listed")
    for path in _list_referenced(table.refresh(), folder):
        written.pop(path, None)
    notes = [path for path in written if path.startswith(_NOTE)]
    note = f"{_NOTE}{last}.parquet"
    since = _read_note(folder, note) if note in notes else {}
    orphans = {path: min(since.get(path, began), began) for path in written.keys() - set(notes)}
    due = [
        path
        for path, first_seen in orphans.items()
        if first_seen <= waits
        and (written[path] <= old or (_BRIEF.fullmatch(path) and written[path] <= behind_newest))
    ]
    reach("maintenance.delete")
    _delete(folder, [*due, *(path for path in notes if path != note)], renew)
    for path in due:
        del orphans[path]
    _write_note(folder, f"{_NOTE}{began}.parquet", orphans)
    return len(due), {ORPHANS_REMOVED: str(began)}


def _list_files(folder: _Folder) -> dict[str, int]:
    """Path in the table's folder → when it was last written, in microseconds since 1970."""
    written: dict[str, int] = {}
    for top in folder.system.get_file_info(FileSelector(folder.path.rstrip("/"), allow_not_found=True)):
        infos: list[FileInfo] = [top]
        if top.type == FileType.Directory:
            infos = folder.system.get_file_info(FileSelector(top.path, recursive=True))
        for info in infos:
            if info.is_file and info.mtime_ns is not None:
                written[info.path.removeprefix(folder.path)] = info.mtime_ns // 1000
    return written


def _list_referenced(table: Table, folder: _Folder) -> Iterator[str]:
    """Lists every path in the table's folder that its metadata refers to; some paths more than once."""
    metadata = table.metadata
    yield folder.relative(table.metadata_location)
    yield from (folder.relative(entry.metadata_file) for entry in metadata.metadata_log)
    for statistics in (*metadata.statistics, *metadata.partition_statistics):
        yield folder.relative(statistics.statistics_path)
    seen: set[str] = set()
    for snapshot in table.snapshots():
        yield folder.relative(snapshot.manifest_list)
        for entry in live_entries(table, snapshot, frozenset(seen)):
            yield folder.relative(entry.data_file.file_path)
        manifests = {manifest.manifest_path for manifest in snapshot.manifests(table.io)}
        yield from (folder.relative(path) for path in manifests - seen)
        seen |= manifests


def _delete(folder: _Folder, paths: list[str], renew: Callable[[], None]) -> None:
    def delete(path: str) -> None:
        try:
            folder.system.delete_file(folder.path + path)
        except FileNotFoundError:
            return  # another maintenance, whose lease had expired, has deleted it too

    with ThreadPoolExecutor(_AT_ONCE, "orphan-files") as threads:
        for start in range(0, len(paths), _TOGETHER):
            renew()
            list(threads.map(delete, paths[start : start + _TOGETHER]))


def _read_note(folder: _Folder, path: str) -> dict[str, int]:
    """Reads the list of the last removal: path → since when the file has been unreferenced."""
    with folder.system.open_input_file(folder.path + path) as file:
        rows: dict[str, list[Any]] = pq.read_table(file).to_pydict()
    return dict(zip(rows["path"], rows["since"], strict=True))


def _write_note(folder: _Folder, path: str, orphans: Mapping[str, int]) -> None:
    paths, since = pa.array(orphans.keys(), pa.string()), pa.array(orphans.values(), pa.int64())
    with folder.system.open_output_stream(folder.path + path, compression=None) as stream:
        pq.write_table(pa.table({"path": paths, "since": since}), stream, compression="zstd")
