"""Conversions between a plan's dtypes and the types of Feast, Arrow, Polars and msgspec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec.inspect
import polars as pl
import pyarrow as pa
from feast import ValueType
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

from headrace.declare.event import Contract
from headrace.declare.table import Table

__all__ = ["arrow_columns", "dtype_of", "feast_type", "schema_columns", "value_type"]

# All other types of Feast are refused.
_FEAST: dict[str, Any] = {
    "int64": Int64,
    "float64": Float64,
    "string": String,
    "bool": Bool,
    "timestamp": UnixTimestamp,
    "bytes": Bytes,
}
_SHORT: dict[Any, str] = {Int32: "int64", Float32: "float64"}
_DTYPES: dict[Any, str] = {
    **{feast: name for name, feast in _FEAST.items()},
    **{Array(feast): f"list[{name}]" for name, feast in _FEAST.items()},
    **_SHORT,
    **{Array(feast): f"list[{name}]" for feast, name in _SHORT.items()},
}
_MSGSPEC: dict[type, str] = {
    msgspec.inspect.IntType: "int64",
    msgspec.inspect.FloatType: "float64",
    msgspec.inspect.BoolType: "bool",
    msgspec.inspect.StrType: "string",
    msgspec.inspect.BytesType: "bytes",
    msgspec.inspect.DateTimeType: "timestamp",
    msgspec.inspect.DateType: "timestamp",  # its midnight in UTC
    msgspec.inspect.DecimalType: "float64",  # exact in a table, a float as a feature
}


def dtype_of(feast_type: Any) -> str | None:
    """The plan's dtype for a Feast type; None if features of this type are not supported."""
    return _DTYPES.get(feast_type)


def feast_type(dtype: str) -> Any:
    """The Feast type for a plan's dtype."""
    return Array(_FEAST[dtype[5:-1]]) if dtype.startswith("list[") else _FEAST[dtype]


def value_type(dtype: str) -> ValueType:
    """Feast's value type for a plan's dtype; UNKNOWN if Feast has none."""
    try:
        return feast_type(dtype).to_value_type()
    except KeyError:
        return ValueType.UNKNOWN


def arrow_columns(schema: pa.Schema) -> dict[str, str]:
    """The columns of an Arrow schema, each with its dtype."""
    return {name: _of_polars(dtype) for name, dtype in pl.from_arrow(schema.empty_table()).schema.items()}  # type: ignore[union-attr]


def schema_columns(declared: Table | Contract) -> dict[str, str] | None:
    """The columns that the schema or the contract declares, each with its dtype; None without a schema."""
    if isinstance(declared, Contract):
        fields = msgspec.inspect.type_info(declared.struct).fields  # type: ignore[attr-defined]
        return {field.name: _of_msgspec(field.type) for field in fields}
    if declared.current and isinstance(declared.reads[0], Contract):
        return schema_columns(declared.reads[0])
    if declared.schema is None:
        return None
    schema: Mapping[str, Any] = declared.schema.columns()
    return {name: _of_polars(column.dtype) for name, column in schema.items()}


def _of_polars(dtype: Any) -> str:
    if isinstance(dtype, pl.List):
        return f"list[{_of_polars(dtype.inner)}]"
    if dtype in (pl.Datetime, pl.Date):  # a date is its midnight in UTC
        return "timestamp"
    if dtype == pl.Binary:
        return "bytes"
    if dtype.is_integer():
        return "int64"
    if dtype.is_float() or dtype.is_decimal():
        return "float64"
    return "bool" if dtype == pl.Boolean else "string"


def _of_msgspec(kind: Any) -> str:
    if isinstance(kind, msgspec.inspect.UnionType):
        kinds = [item for item in kind.types if not isinstance(item, msgspec.inspect.NoneType)]
        dtypes = {_of_msgspec(item) for item in kinds}
        return dtypes.pop() if len(dtypes) == 1 else "string"
    if isinstance(kind, msgspec.inspect.LiteralType):
        return "int64" if all(isinstance(value, int) for value in kind.values) else "string"
    if isinstance(kind, msgspec.inspect.ListType):
        return f"list[{_of_msgspec(kind.item_type)}]"
    return _MSGSPEC.get(type(kind), "string")
