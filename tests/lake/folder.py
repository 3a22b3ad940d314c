"""The files in a table's folder, on whatever file system, and which of the referenced ones are missing."""

from __future__ import annotations

from typing import Any

from pyarrow.fs import FileSelector

from headrace.lake import LakeTable


def _place(table: LakeTable) -> tuple[Any, Any, str]:
    iceberg = table.iceberg()
    scheme, netloc, path = iceberg.io.parse_location(iceberg.location())
    return iceberg, iceberg.io.fs_by_scheme(scheme, netloc), path


def files(table: LakeTable) -> dict[str, int]:
    """Path in the table's folder → its size in bytes."""
    _, system, path = _place(table)
    infos = system.get_file_info(FileSelector(path, recursive=True))
    return {info.path.removeprefix(f"{path}/"): info.size for info in infos if info.is_file}


def put(table: LakeTable, path: str, content: bytes = b"left by a writer that was killed") -> None:
    """Writes a file into the table's folder."""
    iceberg, _, _ = _place(table)
    with iceberg.io.new_output(f"{iceberg.location()}/{path}").create() as stream:
        stream.write(content)


def missing(table: LakeTable) -> set[str]:
    """Paths that a snapshot of the table refers to and that do not exist."""
    iceberg, _, folder = _place(table)
    named = set()
    for snapshot in iceberg.snapshots():
        named.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(iceberg.io):
            named.add(manifest.manifest_path)
            named |= {e.data_file.file_path for e in manifest.fetch_manifest_entry(iceberg.io)}
    paths = {str(iceberg.io.parse_location(location)[2]).removeprefix(f"{folder}/") for location in named}
    return paths - files(table).keys()
