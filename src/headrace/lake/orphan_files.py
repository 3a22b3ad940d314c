"""The sweep: deletes the files of a table that nothing refers to, after a grace.

A file that no snapshot refers to is one of two things. It was read once, and a reader that began then
may still want it: so it goes only when sweeps have found it unreferenced for the whole grace. What
they found is kept in a file beside the table's metadata, which a property of the table names.

Or it belongs to a write that has not been committed yet. Those of most commits are brief, and refused
after BRIEF (lake/commit.py). So once the head is younger than such a file by the grace, no commit
that is under way can use the file: it would stand on an older head, and the catalog refuses it. Other
files, such as those of a table that is built for hours, are told from what was left behind by their
age alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileType

from headrace.kernel.faults import reach
from headrace.kernel.properties import ORPHANS_REMOVED
from headrace.kernel.time import now_micros
from headrace.lake.changes import COMPACTED
from headrace.lake.files import APPENDED

__all__ = ["is_due", "remove_orphan_files"]

_OFTEN = 10  # sweeps in a grace
_TOGETHER = 1000  # files that are deleted between two looks at the lease
_AT_ONCE = 8  # deletions; an object store takes a while for each
_NOTE = "metadata/unreferenced-"
_MICROS = timedelta(microseconds=1)
# Manifests, their lists and metadata; and data files that are committed as soon as they are written.
_BRIEF = re.compile(rf"metadata/.*|data/({APPENDED}|{COMPACTED})[^/]*")


@dataclass(frozen=True)
class _Folder:
    """Where a table's files lie: in `system`, under `path`, which ends with a slash."""

    io: Any
    location: str
    system: Any
    path: str


def is_due(iceberg: Any, grace: timedelta) -> bool:
    """Whether the last sweep of the table is a tenth of the grace ago."""
    return now_micros() - int(iceberg.properties.get(ORPHANS_REMOVED, 0)) >= grace // _MICROS // _OFTEN


def remove_orphan_files(
    iceberg: Any, grace: timedelta, longest_write: timedelta, alive: Callable[[], None]
) -> tuple[int, dict[str, str]]:
    """Deletes what may go, and notes what may not go yet.

    Its memory grows with the number of files that lie in the table's folder, about 0.5 kB for each.

    Args:
        iceberg: PyIceberg's table, fresh from the catalog, with a snapshot.
        grace: how long a file must have been unreferenced.
        longest_write: how old a file must be that may belong to a write that takes long.
        alive: called now and then; it raises where the sweep is to end.

    Returns:
        How many files were deleted; and the properties to set once this is done.
    """
    began = now_micros()
    folder = _folder(iceberg)
    last = iceberg.properties.get(ORPHANS_REMOVED)
    waits, old = began - grace // _MICROS, began - longest_write // _MICROS
    behind_head = iceberg.current_snapshot().timestamp_ms * 1000 - grace // _MICROS
    # Listed first, looked up after: what a commit makes use of in between is seen as referred to.
    ages = _listed(folder)
    reach("maintenance.listed")
    for path in _referenced(iceberg.refresh(), folder):
        ages.pop(path, None)
    notes = [path for path in ages if path.startswith(_NOTE)]
    current = None if last is None else f"{_NOTE}{last}.parquet"
    since = _noted(folder, current) if current in notes else {}
    unreferenced = {path: since.get(path, began) for path in ages.keys() - set(notes)}
    gone = [
        path
        for path, first in unreferenced.items()
        if first <= waits and (ages[path] <= old or (_BRIEF.fullmatch(path) and ages[path] <= behind_head))
    ]
    reach("maintenance.delete")
    _delete(folder, [*gone, *(note for note in notes if note != current)], alive)
    for path in gone:
        del unreferenced[path]
    _note(folder, f"{_NOTE}{began}.parquet", unreferenced)
    return len(gone), {ORPHANS_REMOVED: str(began)}


def _folder(iceberg: Any) -> _Folder:
    scheme, netloc, path = iceberg.io.parse_location(iceberg.location())
    system = iceberg.io.fs_by_scheme(scheme, netloc)
    return _Folder(iceberg.io, iceberg.location().rstrip("/"), system, path.rstrip("/") + "/")


def _listed(folder: _Folder) -> dict[str, int]:
    """Path in the table's folder → when it was last written, in microseconds since 1970."""
    found: dict[str, int] = {}
    for top in folder.system.get_file_info(FileSelector(folder.path.rstrip("/"), allow_not_found=True)):
        infos: list[FileInfo] = [top]
        if top.type == FileType.Directory:
            infos = folder.system.get_file_info(FileSelector(top.path, recursive=True))
        for info in infos:
            if info.is_file and info.mtime_ns is not None:
                found[info.path.removeprefix(folder.path)] = info.mtime_ns // 1000
    return found


def _referenced(iceberg: Any, folder: _Folder) -> Iterator[str]:
    """Every path in the table's folder that its metadata refer to; some of them more than once."""

    def inside(location: str) -> str:
        return str(folder.io.parse_location(location)[2]).removeprefix(folder.path)

    metadata = iceberg.metadata
    yield inside(iceberg.metadata_location)
    yield from (inside(log.metadata_file) for log in metadata.metadata_log)
    yield from (inside(one.statistics_path) for one in (*metadata.statistics, *metadata.partition_statistics))
    seen: set[str] = set()
    for snapshot in iceberg.snapshots():
        yield inside(snapshot.manifest_list)
        for manifest in snapshot.manifests(iceberg.io):
            if manifest.manifest_path not in seen:
                seen.add(manifest.manifest_path)
                yield inside(manifest.manifest_path)
                for entry in manifest.fetch_manifest_entry(iceberg.io, discard_deleted=True):
                    yield inside(entry.data_file.file_path)


def _delete(folder: _Folder, paths: list[str], alive: Callable[[], None]) -> None:
    def delete(path: str) -> None:
        try:
            folder.system.delete_file(folder.path + path)
        except FileNotFoundError:
            return  # an upkeep whose time was over has come to the same

    with ThreadPoolExecutor(_AT_ONCE, "orphan-files") as threads:
        for start in range(0, len(paths), _TOGETHER):
            alive()
            list(threads.map(delete, paths[start : start + _TOGETHER]))


def _noted(folder: _Folder, path: str | None) -> dict[str, int]:
    """What the last sweep noted: path → since when it has been unreferenced."""
    with folder.io.new_input(f"{folder.location}/{path}").open() as stream:
        noted: Any = pq.read_table(stream)
    return dict(zip(noted["path"].to_pylist(), noted["since"].to_pylist(), strict=True))


def _note(folder: _Folder, path: str, unreferenced: Mapping[str, int]) -> None:
    paths, since = pa.array(unreferenced.keys(), pa.string()), pa.array(unreferenced.values(), pa.int64())
    with folder.io.new_output(f"{folder.location}/{path}").create(overwrite=True) as stream:
        pq.write_table(pa.table({"path": paths, "since": since}), stream, compression="zstd")
