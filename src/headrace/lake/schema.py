"""Converts Arrow schemas to Iceberg schemas, and changes a table's schema so that it holds more columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from typing import Any

import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.transforms import parse_transform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from headrace.kernel.errors import ProjectError

__all__ = [
    "PartitionBy",
    "conflicts",
    "fits",
    "grow",
    "iceberg_schema",
    "partition_name",
    "partition_spec",
    "reorder",
    "stored_schema",
]

PartitionBy = Sequence[tuple[str, str]]
"""(column, transform) pairs: `identity`, `hour`, `day`, `month` or `bucket[N]`."""

_PLAIN: list[tuple[Callable[[Any], bool], type[IcebergType]]] = [
    (pa.types.is_boolean, BooleanType),
    (pa.types.is_int64, LongType),
    (pa.types.is_uint32, LongType),
    (lambda t: pa.types.is_integer(t) and t.bit_width <= 32, IntegerType),
    (lambda t: pa.types.is_float16(t) or pa.types.is_float32(t), FloatType),
    (pa.types.is_float64, DoubleType),
    (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t), StringType),
    (lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t), BinaryType),
    (pa.types.is_date, DateType),
    (pa.types.is_time, TimeType),
    (lambda t: pa.types.is_timestamp(t) and t.tz is not None, TimestamptzType),
    (pa.types.is_timestamp, TimestampType),
]
_WIDENING = {(IntegerType, LongType), (FloatType, DoubleType)}


def iceberg_schema(schema: pa.Schema, table: str) -> Schema:
    """The Iceberg schema of an Arrow one; every field is optional in storage.

    Raises:
        ProjectError: a column has a type that Iceberg cannot store (uint64, durations).
    """
    ids = count(1)
    top = [next(ids) for _ in schema]
    return Schema(
        *(
            NestedField(i, field.name, _type(field.type, ids, f"{table}.{field.name}"), required=False)
            for i, field in zip(top, schema, strict=True)
        )
    )


def stored_schema(schema: pa.Schema, table: str) -> pa.Schema:
    """The types that the columns have once they are stored: text for a dictionary, int64 for uint32.

    Raises:
        ProjectError: as `iceberg_schema`.
    """
    return schema_to_pyarrow(iceberg_schema(schema, table), include_field_ids=False)


def _type(arrow: pa.DataType, ids: Iterator[int], where: str) -> IcebergType:
    for matches, iceberg_type in _PLAIN:
        if matches(arrow):
            return iceberg_type()
    if pa.types.is_dictionary(arrow):
        return _type(arrow.value_type, ids, where)
    if pa.types.is_decimal(arrow):
        return DecimalType(arrow.precision, arrow.scale)
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow):
        element = next(ids)
        return ListType(element, _type(arrow.value_type, ids, where), element_required=False)
    if pa.types.is_struct(arrow):
        inner = [arrow.field(i) for i in range(arrow.num_fields)]
        return StructType(
            *(
                NestedField(next(ids), f.name, _type(f.type, ids, f"{where}.{f.name}"), required=False)
                for f in inner
            )
        )
    raise ProjectError(
        f"type {arrow} cannot be stored in a table",
        where=where,
        remedy="Cast it: Int64 for UInt64 and durations, String or a struct for anything else.",
    )


def partition_spec(schema: Schema, partition_by: PartitionBy) -> PartitionSpec:
    """The partition spec of (column, transform) pairs."""
    fields = []
    for number, (column, transform) in enumerate(partition_by):
        source = schema.find_field(column).field_id
        name = partition_name(column, transform)
        fields.append(PartitionField(source, 1000 + number, parse_transform(transform), name))
    return PartitionSpec(*fields)


def partition_name(column: str, transform: str) -> str:
    """The name of a partition field: a day is `<column>_day`, 64 buckets are `<column>_bucket_64`."""
    if transform == "identity":
        return column
    return f"{column}_{transform.replace('[', '_').rstrip(']')}"


def reorder(update: UpdateSchema, have: Schema, want: Schema) -> None:
    """Stages the order of `want` for a table of schema `have`, which has the same columns."""
    names = [field.name for field in want.fields]
    if [field.name for field in have.fields] != names:
        update.move_first(names[0])
        for before, name in pairwise(names):
            update.move_after(name, before)


def grow(update: UpdateSchema, have: Schema, want: Schema, table: str, *, exact: bool = False) -> None:
    """Stages the changes after which a table of schema `have` can hold the columns of `want`.

    New columns are added, also inside structs; int is widened to long, float to double, a decimal to more
    digits. Columns that `want` lacks stay; with `exact` they are removed, and a column whose type cannot be
    widened is replaced.

    Args:
        update: PyIceberg's open update of the table's schema.
        have: the table's schema.
        want: the columns to hold.
        table: the table's name, for errors.
        exact: whether the table must hold no other columns.

    Raises:
        ProjectError: a column would have to change to a type as which its files cannot be read.
    """
    stored = {field.name: field for field in have.fields}
    for field in want.fields:
        if field.name not in stored:
            update.add_column(field.name, field.field_type)
            continue
        old = stored[field.name].field_type
        if _holds(old, field.field_type):
            continue
        if _becomes(old, field.field_type):
            _grow_type(update, (field.name,), old, field.field_type)
        elif exact:
            update.delete_column(field.name).add_column(field.name, field.field_type)
        else:
            raise ProjectError(
                f"column {field.name!r} is {old} in the lake and would become {field.field_type}",
                where=f"table {table}",
                remedy="Give the column with the new type a new name.",
            )
    for name in stored.keys() - {field.name for field in want.fields}:
        if exact:
            update.delete_column(name)


def _grow_type(update: UpdateSchema, path: tuple[str, ...], old: IcebergType, new: IcebergType) -> None:
    """Stages the widening of a column's type."""
    if _holds(old, new):
        return
    if isinstance(old, ListType) and isinstance(new, ListType):
        _grow_type(update, (*path, "element"), old.element_type, new.element_type)
    elif isinstance(old, StructType) and isinstance(new, StructType):
        inner = {field.name: field.field_type for field in old.fields}
        for field in new.fields:
            if field.name in inner:
                _grow_type(update, (*path, field.name), inner[field.name], field.field_type)
            else:
                update.add_column((*path, field.name), field.field_type)
    else:
        update.update_column(path, new)


def conflicts(have: Schema, want: Schema) -> dict[str, tuple[str, str]]:
    """Column → its type in `have` and in `want`, where the first can neither hold nor become the second."""
    stored = {field.name: field.field_type for field in have.fields}
    return {
        field.name: (str(stored[field.name]), str(field.field_type))
        for field in want.fields
        if field.name in stored and not _becomes(stored[field.name], field.field_type)
    }


def fits(have: Schema, want: Schema, *, exact: bool = False) -> bool:
    """Whether a table of schema `have` already holds every column of `want`, and with `exact` these alone, in
    this order."""
    if exact and [f.name for f in have.fields] != [f.name for f in want.fields]:
        return False
    stored = {field.name: field.field_type for field in have.fields}
    return all(f.name in stored and _holds(stored[f.name], f.field_type) for f in want.fields)


def _holds(old: IcebergType, new: IcebergType) -> bool:
    """Whether values of type `new` can be written to a column of type `old` without a change."""
    if isinstance(old, ListType) and isinstance(new, ListType):
        return _holds(old.element_type, new.element_type)
    if isinstance(old, StructType) and isinstance(new, StructType):
        inner = {f.name: f.field_type for f in old.fields}
        return all(f.name in inner and _holds(inner[f.name], f.field_type) for f in new.fields)
    return bool(old == new) or _widens(new, old)


def _becomes(old: IcebergType, new: IcebergType) -> bool:
    """Whether a column of type `old` can be made to hold `new` without rewriting its files."""
    if isinstance(old, ListType) and isinstance(new, ListType):
        return _becomes(old.element_type, new.element_type)
    if isinstance(old, StructType) and isinstance(new, StructType):
        inner = {f.name: f.field_type for f in old.fields}
        return all(_becomes(inner[f.name], f.field_type) for f in new.fields if f.name in inner)
    return _holds(old, new) or _widens(old, new)


def _widens(old: IcebergType, new: IcebergType) -> bool:
    """Whether Iceberg can widen type `old` to type `new` (its "Schema evolution")."""
    if isinstance(old, DecimalType) and isinstance(new, DecimalType):
        return bool(old.scale == new.scale and old.precision < new.precision)
    return (type(old), type(new)) in _WIDENING
