"""Iceberg's metadata of a table, as the table specification defines its JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = [
    "PartitionSpec",
    "SchemaField",
    "StoredSchema",
    "StoredSnapshot",
    "TableMetadata",
    "decode_metadata",
    "decode_snapshot",
    "metadata_of",
]


class StoredSnapshot(Struct, frozen=True, rename="kebab"):
    """A snapshot. `sequence_number` is 0 in table format 1, which has no sequence numbers."""

    snapshot_id: int
    timestamp_ms: int
    manifest_list: str | None = None
    sequence_number: int = 0
    parent_snapshot_id: int | None = None
    schema_id: int | None = None
    summary: dict[str, str] = {}


class SchemaField(Struct, frozen=True):
    """A column, or a field of a struct. `type` is a type's name, or the object of a struct, list or map."""

    id: int
    name: str
    type: Any
    required: bool = False


class StoredSchema(Struct, frozen=True, rename="kebab"):
    """The columns of a table while this schema was its current one."""

    schema_id: int
    fields: tuple[SchemaField, ...]


class PartitionField(Struct, frozen=True, rename="kebab"):
    """A field by whose value rows are partitioned: `transform` of the column `source_id`."""

    source_id: int
    name: str
    transform: str


class PartitionSpec(Struct, frozen=True, rename="kebab"):
    """How rows are partitioned."""

    spec_id: int
    fields: tuple[PartitionField, ...]


class Ref(Struct, frozen=True, rename="kebab"):
    """A branch or a tag."""

    snapshot_id: int
    type: str


class LogEntry(Struct, frozen=True, rename="kebab"):
    """A snapshot that became the current one, and when."""

    snapshot_id: int
    timestamp_ms: int


class TableMetadata(Struct, frozen=True, rename="kebab"):
    """What an Iceberg table's metadata file says, as far as reading needs it."""

    format_version: int
    table_uuid: str
    schemas: tuple[StoredSchema, ...]
    current_schema_id: int
    partition_specs: tuple[PartitionSpec, ...]
    default_spec_id: int
    properties: dict[str, str] = {}
    current_snapshot_id: int | None = None
    snapshots: tuple[StoredSnapshot, ...] = ()
    snapshot_log: tuple[LogEntry, ...] = ()
    refs: dict[str, Ref] = {}

    def snapshot(self, snapshot_id: int | None) -> StoredSnapshot | None:
        """The snapshot with this id; None if the table does not have it."""
        return next((s for s in self.snapshots if s.snapshot_id == snapshot_id), None)

    def current_snapshot(self) -> StoredSnapshot | None:
        """The newest snapshot; None if nothing was ever written."""
        return self.snapshot(self.current_snapshot_id)

    def ordered_snapshots(self) -> list[StoredSnapshot]:
        """The snapshots, oldest first."""
        return sorted(self.snapshots, key=lambda snapshot: snapshot.sequence_number)

    def schema(self) -> StoredSchema:
        """The current columns."""
        return next(s for s in self.schemas if s.schema_id == self.current_schema_id)

    def find_schema(self, schema_id: int | None) -> StoredSchema | None:
        """The columns of this id; None if there are none."""
        return next((s for s in self.schemas if s.schema_id == schema_id), None)

    def spec(self) -> PartitionSpec:
        """How rows are partitioned now."""
        return next(s for s in self.partition_specs if s.spec_id == self.default_spec_id)

    def partition_by(self, spec: int | None = None) -> tuple[tuple[str, str], ...]:
        """(column, transform) for each field of a partition, by the spec of this id (default: the current one).

        A former spec may name a column that the table no longer has.
        """
        names = {field.id: field.name for schema in self.schemas for field in schema.fields}
        names.update((field.id, field.name) for field in self.schema().fields)
        fields = self.spec() if spec is None else next(s for s in self.partition_specs if s.spec_id == spec)
        return tuple((names.get(field.source_id, ""), field.transform) for field in fields.fields)


decode_metadata = msgspec.json.Decoder(TableMetadata).decode
decode_snapshot = msgspec.json.Decoder(StoredSnapshot).decode


def metadata_of(table: Table) -> TableMetadata:
    """The metadata of PyIceberg's table."""
    from pyiceberg.typedef import IcebergBaseModel

    # Not by the model's own method, which refuses format 3, since PyIceberg cannot write it.
    return decode_metadata(IcebergBaseModel.model_dump_json(table.metadata))
