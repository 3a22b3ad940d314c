"""Reads the lists of a snapshot's data files: a manifest list and its manifests, which are Avro files."""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO
from pathlib import Path

import polars as pl
from msgspec import Struct

from headrace.lake.metadata import TableMetadata
from headrace.lake.reading.port import StoredFile
from headrace.lake.reading.unknown import UnknownFormat

__all__ = ["ManifestFile", "list_files", "read_entries", "read_manifests"]

_ADDED, _DELETED = 1, 2  # an entry's status
_DATA = 0  # the content of a manifest, or of a file, that has no deletes


class ManifestFile(Struct, frozen=True):
    """A manifest: a file that lists data files.

    Attributes:
        path: its path.
        sequence: the sequence number of the commit that wrote it.
        spec: the id of the partition spec of its files.
    """

    path: str
    sequence: int
    spec: int


def read_manifests(metadata: TableMetadata, snapshot: int) -> tuple[ManifestFile, ...]:
    """The manifests of a snapshot of the table.

    Raises:
        UnknownFormat: the snapshot has delete files, or its list has another form.
        FileNotFoundError: the list was removed.
    """
    stored = metadata.snapshot(snapshot)
    if stored is None or stored.manifest_list is None:
        raise UnknownFormat(f"snapshot {snapshot} has no manifest list")
    manifests = _read_avro(
        stored.manifest_list, ["manifest_path", "sequence_number", "content", "partition_spec_id"]
    )
    if (manifests["content"] != _DATA).any():
        raise UnknownFormat(f"snapshot {snapshot} has delete files")
    return tuple(ManifestFile(path, sequence, spec) for path, sequence, _, spec in manifests.iter_rows())


def read_entries(manifest: ManifestFile) -> pl.DataFrame:
    """The live data files in a manifest: the fields of Iceberg's `data_file`, and `sequence_number`.

    Raises:
        UnknownFormat: a file is not a plain Parquet file, or the manifest has another form.
        FileNotFoundError: the manifest was removed.
    """
    entries = _read_avro(manifest.path, ["status", "sequence_number", "data_file"])
    inherited = pl.when(pl.col("status") == _ADDED).then(manifest.sequence)
    files = (
        entries.filter(pl.col("status") != _DELETED)
        .with_columns(pl.col("sequence_number").fill_null(inherited))
        .unnest("data_file")
    )
    plain = (
        (pl.col("content") == _DATA)
        & (pl.col("file_format").str.to_uppercase() == "PARQUET")
        & pl.col("file_path").str.starts_with("/")
        & pl.col("key_metadata").is_null()
    )
    if not files.select(plain.fill_null(False).all()).item():
        raise UnknownFormat(f"{manifest.path} lists a file that is not a local Parquet file")
    return files


def list_files(manifests: Collection[ManifestFile], without: Collection[ManifestFile]) -> list[StoredFile]:
    """The live data files in the manifests, except those in `without`. Raises as `read_entries`."""
    excluded = {manifest.path for manifest in without}
    return [
        StoredFile(*row, manifest.spec)
        for manifest in manifests
        if manifest.path not in excluded
        for row in _file_rows(read_entries(manifest))
    ]


def _file_rows(files: pl.DataFrame) -> list[tuple[str, tuple[object, ...], int, int]]:
    partitions = files["partition"].struct.unnest()
    if partitions.width:
        dates = pl.col(pl.Date).cast(pl.Int32)
        instants = pl.col(pl.Datetime).dt.epoch("us")
        values = partitions.with_columns(dates, instants, pl.col(pl.Time).to_physical() // 1000).rows()
    else:
        values = [()] * files.height
    others = files.select("file_path", "record_count", "sequence_number").rows()
    return [
        (path, partition, rows, sequence)
        for (path, rows, sequence), partition in zip(others, values, strict=True)
    ]


def _read_avro(path: str, columns: list[str]) -> pl.DataFrame:
    if not path.startswith("/"):
        raise UnknownFormat(f"a file is named {path!r}")
    try:
        return pl.read_avro(BytesIO(Path(path).read_bytes())).select(columns)
    except pl.exceptions.PolarsError as error:
        raise UnknownFormat(f"{path}: {error}") from error
