"""The entries of a snapshot's data files, as PyIceberg reads and commits them."""

from __future__ import annotations

from collections.abc import Iterator

from pyiceberg.manifest import DataFile, ManifestEntry
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

__all__ = ["live_entries", "live_files"]


def live_entries(
    table: Table, snapshot: IcebergSnapshot, without: frozenset[str] = frozenset()
) -> Iterator[ManifestEntry]:
    """The entries of a snapshot's data files, except those in the manifests named in `without`."""
    for manifest in snapshot.manifests(table.io):
        if manifest.manifest_path not in without:
            yield from manifest.fetch_manifest_entry(table.io, discard_deleted=True)


def live_files(table: Table, snapshot: IcebergSnapshot) -> Iterator[DataFile]:
    """The data files of a snapshot."""
    return (entry.data_file for entry in live_entries(table, snapshot))
