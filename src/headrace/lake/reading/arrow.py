"""Converts the schemas in Iceberg's metadata to Arrow schemas, as PyIceberg does."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pyarrow as pa

from headrace.lake.metadata import SchemaField, StoredSchema
from headrace.lake.reading.unknown import UnknownFormat

__all__ = ["arrow_schema"]

_PLAIN: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "string": pa.large_string(),
    "binary": pa.large_binary(),
}
_DECIMAL = re.compile(r"decimal\((\d+), ?(\d+)\)")
_ID = b"PARQUET:field_id"


def arrow_schema(schema: StoredSchema, *, ids: bool) -> pa.Schema:
    """The Arrow schema of a table's columns.

    Args:
        schema: the columns.
        ids: whether the fields have Iceberg's ids in their metadata, as in Parquet files.

    Raises:
        UnknownFormat: a column has a type that the lake does not store.
    """
    return pa.schema([_field(field, ids) for field in schema.fields])


def _field(field: SchemaField, ids: bool) -> pa.Field[Any]:
    metadata = {_ID: str(field.id).encode()} if ids else None
    return pa.field(field.name, _type(field.type, ids), nullable=not field.required, metadata=metadata)


def _type(stored: Any, ids: bool) -> pa.DataType:
    match stored:
        case str() if stored in _PLAIN:
            return _PLAIN[stored]
        case str() if (decimal := _DECIMAL.fullmatch(stored)) is not None:
            return pa.decimal128(int(decimal.group(1)), int(decimal.group(2)))
        case {"type": "struct", "fields": fields}:
            return pa.struct([_field(msgspec.convert(field, SchemaField), ids) for field in fields])
        case {"type": "list", "element-id": id, "element": element, "element-required": required}:
            return pa.large_list(_field(SchemaField(id, "element", element, required), ids))
    raise UnknownFormat(f"a column has type {stored}")
