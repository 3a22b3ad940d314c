"""Removal of orphan files: files in a table's folder that no snapshot refers to, deleted after a grace.

An orphan is one of two things. Either snapshots referred to it once, and a reader that began then may
still need it: it is deleted only when removals have found it unreferenced for the whole grace. What
they found is kept in a file beside the table's metadata, which a property of the table names.

Or it belongs to a write that has not been committed yet. Most commits follow their files at once, and
are refused after BRIEF (lake/commit.py). So once the newest snapshot is younger than such a file by the
grace, no commit under way can use the file: it would stand on an older snapshot, and the catalog
refuses it. Other files, such as those of a table that is built for hours, are told from leftovers by
their age alone.
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
from headrace.kernel.time import now_micros
from headrace.lake.changes import COMPACTED, live_entries
from headrace.lake.files import APPENDED
from headrace.lake.pyiceberg_internals import filesystem_of
from headrace.lake.snapshot import newest_snapshot

__all__ = ["is_due", "remove_orphan_files"]

_OFTEN = 10  # removals in a grace
_TOGETHER = 1000  # files that are deleted between two renewals of the lease
_AT_ONCE = 8  # deletions; an object store takes a while for each
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
        """The path within the folder of a location that metadata name."""
        return self.io.parse_location(location)[2].removeprefix(self.path)


def is_due(table: Table, grace: timedelta) -> bool:
    """Whether the last removal of the table's orphans is a tenth of the grace ago."""
    return now_micros() - int(table.properties.get(ORPHANS_REMOVED, 0)) >= grace // _MICROS // _OFTEN


def remove_orphan_files(
    catalog: Catalog, table: Table, grace: timedelta, longest_write: timedelta, renew: Callable[[], None]
) -> tuple[int, dict[str, str]]:
    """Deletes orphans whose time has come, and notes the others.

    Memory grows with the number of files in the table's folder, by about 0.5 kB for each.

    Args:
        catalog: PyIceberg's catalog.
        table: the table, fresh from the catalog, with a snapshot.
        grace: how long a file must have been unreferenced.
        longest_write: how old a file must be that may belong to a write that takes long.
        renew: called now and then; it raises where the removal must end.

    Returns:
        How many files were deleted; and the properties to set once this is done.
    """
    began = now_micros()
    folder = _Folder.of(catalog, table)
    last = table.properties.get(ORPHANS_REMOVED)
    waits, old = began - grace // _MICROS, began - longest_write // _MICROS
    behind_newest = newest_snapshot(table).timestamp_ms * 1000 - grace // _MICROS
    # First listed, then looked up: a file that a commit begins to use in between is seen as referenced.
    written = _list_files(folder)
    reach("maintenance.listed")
    for path in _list_referenced(table.refresh(), folder):
        written.pop(path, None)
    notes = [path for path in written if path.startswith(_NOTE)]
    note = f"{_NOTE}{last}.parquet"
    since = _read_note(folder, note) if note in notes else {}
    orphans = {path: since.get(path, began) for path in written.keys() - set(notes)}
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
    """Every path in the table's folder that its metadata refer to; some of them more than once."""
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
            return  # a maintenance whose lease was over has deleted it too

    with ThreadPoolExecutor(_AT_ONCE, "orphan-files") as threads:
        for start in range(0, len(paths), _TOGETHER):
            renew()
            list(threads.map(delete, paths[start : start + _TOGETHER]))


def _read_note(folder: _Folder, path: str) -> dict[str, int]:
    """What the last removal noted: path → since when the file has been unreferenced."""
    with folder.system.open_input_file(folder.path + path) as file:
        rows: dict[str, list[Any]] = pq.read_table(file).to_pydict()
    return dict(zip(rows["path"], rows["since"], strict=True))


def _write_note(folder: _Folder, path: str, orphans: Mapping[str, int]) -> None:
    paths, since = pa.array(orphans.keys(), pa.string()), pa.array(orphans.values(), pa.int64())
    with folder.system.open_output_stream(folder.path + path, compression=None) as stream:
        pq.write_table(pa.table({"path": paths, "since": since}), stream, compression="zstd")
