"""Home: the folder of the embedded lake. Rewrites the paths in its files after it was moved or copied.

Iceberg's metadata hold absolute paths, as every reader expects. So a lake whose folder is not the one that its
files name must not be used before the paths are rewritten: a moved lake would not find its files, and a copy
would write to, and delete in, the folder of the original.

A table in the catalog's file lists the folders that the lake's files may name: one folder, except while paths
are being rewritten. Each file is replaced in one step, and rewriting it twice has no further effect. The
catalog's rows come last, in one transaction. If the process is killed, the next opening continues the work.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from headrace.kernel.errors import ProjectError
from headrace.kernel.faults import reach
from headrace.kernel.files import write_file
from headrace.kernel.ids import new_id

if TYPE_CHECKING:
    from pyiceberg.typedef import Record
    from pyiceberg.types import StructType

__all__ = ["WAREHOUSE", "is_home", "update_paths"]

WAREHOUSE = "warehouse"  # beside the catalog's file
_BUSY_SECONDS = 15
_PATHS = ("manifest_path", "file_path", "referenced_data_file")  # of manifests and their lists
_ROWS = (
    "SELECT catalog_name, table_namespace, table_name, metadata_location, previous_metadata_location"
    " FROM iceberg_tables"
)
_UPDATE = (
    "UPDATE iceberg_tables SET metadata_location = ?, previous_metadata_location = ?"
    " WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?"
)


def is_home(connection: sqlite3.Connection, folder: Path) -> bool:
    """Whether the catalog's files name only this folder, in which the catalog lies.

    Two paths to one folder, through a symbolic link, are the same folder.
    """
    folders, _ = _read_home(connection)
    return len(folders) == 1 and _is_same(Path(folders[0]), folder)


def update_paths(catalog: Path) -> Path:
    """Rewrites the paths of a lake that was moved or copied, so that they name its current folder.

    Only one process may do this at a time. Commits of other processes meanwhile are not lost.

    Args:
        catalog: the catalog's SQLite file; it may be new.

    Returns:
        The folder, by the path that the files name.

    Raises:
        ProjectError: the lake is a copy that would share files outside its folder with the original; or a table
            has delete files of another engine, which cannot be rewritten.
        OSError: a file cannot be read or written.
    """
    here = catalog.parent
    with closing(sqlite3.connect(catalog, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS headrace_home (folder TEXT NOT NULL, lake TEXT NOT NULL)"
        )
        folders, lake = _read_home(connection)
        if len(folders) == 1 and _is_same(Path(folders[0]), here):
            return Path(folders[0])
        if folders:
            _check_files_outside(connection, [*folders, str(here)], lake)
        if str(here) not in folders:
            connection.execute("INSERT INTO headrace_home VALUES (?, ?)", [str(here), lake or new_id()])
        old = {f"{folder}/{WAREHOUSE}/": f"{here}/{WAREHOUSE}/" for folder in folders if folder != str(here)}
        while old and not _rewrite(connection, old, here):
            pass  # another process committed meanwhile: rewrite its files too
    return here


def _read_home(connection: sqlite3.Connection) -> tuple[list[str], str | None]:
    """The folders that the catalog's files may name, and the lake's id."""
    try:
        rows = connection.execute("SELECT folder, lake FROM headrace_home ORDER BY rowid").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return [], None
        raise
    return [folder for folder, _ in rows], rows[0][1] if rows else None


def _is_same(folder: Path, other: Path) -> bool:
    try:
        return folder == other or folder.samefile(other)
    except OSError:
        return False


def _tables(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    try:
        return connection.execute(_ROWS).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise


def _check_files_outside(connection: sqlite3.Connection, folders: list[str], lake: str | None) -> None:
    """Raises ProjectError if two catalogs would write to, and clean up, the same table's files."""
    inside = tuple(f"{folder}/" for folder in folders)
    outside = sorted(row[2] for row in _tables(connection) if not row[3].startswith(inside))
    if not outside:
        return
    original = next((folder for folder in folders[:-1] if _lake_in(Path(folder)) == lake), None)
    if original is not None:
        raise ProjectError(
            f"this lake is a copy of the lake in {original}, and files of {', '.join(outside)} are outside both"
            " folders: each lake would delete what the other writes there",
            where=folders[-1],
            remedy="Delete the state of the lake that you do not need: headrace clean. To share tables between "
            "two projects, name one catalog in both profiles.",
        )


def _lake_in(folder: Path) -> str | None:
    """The id of the lake in another folder, if there is one."""
    catalog = folder / "catalog.db"
    if not catalog.is_file():
        return None
    with closing(sqlite3.connect(catalog, timeout=_BUSY_SECONDS)) as connection:
        return _read_home(connection)[1]


def _rewrite(connection: sqlite3.Connection, old: Mapping[str, str], here: Path) -> bool:
    """Rewrites every path that begins with a key of `old`; False if the catalog has changed meanwhile."""
    rows = _tables(connection)
    for row in rows:
        location = _replace_prefix(row[3], old)
        if location.startswith(f"{here}/"):
            _rewrite_table(Path(location), old)
    reach("lake.home_rewritten")
    connection.execute("BEGIN IMMEDIATE")
    if _tables(connection) != rows:
        connection.execute("ROLLBACK")
        return False
    for *name, current, previous in rows:
        moved = [_replace_prefix(current, old), previous and _replace_prefix(previous, old)]
        connection.execute(_UPDATE, [*moved, *name])
    connection.execute("DELETE FROM headrace_home")
    connection.execute("INSERT INTO headrace_home VALUES (?, ?)", [str(here), new_id()])
    connection.execute("COMMIT")
    return True


def _rewrite_table(metadata: Path, old: Mapping[str, str]) -> None:
    """Rewrites the files that a metadata file refers to, then older metadata files and itself."""
    document = _replace_prefixes(json.loads(metadata.read_bytes()), old)
    rewritten: set[str] = set()
    for snapshot in document["snapshots"]:
        manifest_list = snapshot["manifest-list"]
        manifests = _manifests(manifest_list, old)
        for manifest in manifests - rewritten:
            _rewrite_avro(Path(manifest), old)
        rewritten |= manifests
        _rewrite_avro(Path(manifest_list), old)
        reach("lake.home_snapshot")
    older = (Path(entry["metadata-file"]) for entry in document["metadata-log"])
    for path in [*(path for path in older if path.is_file()), metadata]:
        write_file(path, json.dumps(_replace_prefixes(json.loads(path.read_bytes()), old)))


def _manifests(manifest_list: str, old: Mapping[str, str]) -> set[str]:
    """The manifests in a list. Raises ProjectError if a manifest lists delete files."""
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.manifest import ManifestContent, read_manifest_list

    manifests = list(read_manifest_list(PyArrowFileIO().new_input(manifest_list)))
    if any(manifest.content == ManifestContent.DELETES for manifest in manifests):
        raise ProjectError(
            "another engine has deleted rows by delete files, which name data files by their old folder",
            where=manifest_list,
            remedy="Move the project back, let that engine rewrite the table's data files, and move it again.",
        )
    return {_replace_prefix(manifest.manifest_path, old) for manifest in manifests}


def _rewrite_avro(path: Path, old: Mapping[str, str]) -> None:
    """Rewrites the paths in a manifest, or in a list of manifests that are rewritten already."""
    from headrace.lake.pyiceberg_internals import rewrite_avro

    rewrite_avro(path, lambda record, struct: _replace_paths(record, struct, old))


def _replace_paths(record: Record, struct: StructType, old: Mapping[str, str]) -> None:
    for position, field in enumerate(struct.fields):
        if field.name in _PATHS and record[position] is not None:
            record[position] = _replace_prefix(record[position], old)
        elif field.name == "manifest_length":
            record[position] = os.path.getsize(
                record[struct.fields.index(struct.field_by_name("manifest_path"))]
            )
        elif field.name == "data_file":
            _replace_paths(record[position], cast("StructType", field.field_type), old)


def _replace_prefixes(value: Any, old: Mapping[str, str]) -> Any:
    """A JSON value with the prefix of every path in it replaced."""
    if isinstance(value, dict):
        return {name: _replace_prefixes(item, old) for name, item in value.items()}
    if isinstance(value, list):
        return [_replace_prefixes(item, old) for item in value]
    return _replace_prefix(value, old) if isinstance(value, str) else value


def _replace_prefix(path: str, old: Mapping[str, str]) -> str:
    for before, now in old.items():
        if path.startswith(before):
            return now + path.removeprefix(before)
    return path
