"""The files in the folder of a table, on any file system, and the referenced files that do not exist."""

from __future__ import annotations

from typing import Any

from pyarrow.fs import FileSelector

from headrace.lake import LakeTable


def _table_folder(table: LakeTable) -> tuple[Any, Any, str]:
    """The table as PyIceberg has it, its file system, and the path of its folder there."""
    iceberg = table.iceberg()
    scheme, netloc, path = iceberg.io.parse_location(iceberg.location())
    return iceberg, iceberg.io.fs_by_scheme(scheme, netloc), path


def files(table: LakeTable) -> dict[str, int]:
    """Path in the table's folder → its size in bytes."""
    _, system, path = _table_folder(table)
    infos = system.get_file_info(FileSelector(path, recursive=True))
    return {info.path.removeprefix(f"{path}/"): info.size for info in infos if info.is_file}


def write_file(table: LakeTable, path: str, content: bytes = b"left by a killed writer") -> None:
    """Writes a file into the table's folder."""
    iceberg, _, _ = _table_folder(table)
    with iceberg.io.new_output(f"{iceberg.location()}/{path}").create() as stream:
        stream.write(content)


def missing_files(table: LakeTable) -> set[str]:
    """Paths in the folder that a snapshot of the table refers to, and that do not exist."""
    iceberg, _, folder = _table_folder(table)
    references = set()
    for snapshot in iceberg.snapshots():
        references.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(iceberg.io):
            references.add(manifest.manifest_path)
            references |= {e.data_file.file_path for e in manifest.fetch_manifest_entry(iceberg.io)}
    paths = {str(iceberg.io.parse_location(location)[2]).removeprefix(f"{folder}/") for location in references}
    return paths - files(table).keys()
