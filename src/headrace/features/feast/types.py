"""The types of columns and features, in the plan's words, and what Feast and others call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec.inspect
import polars as pl
import pyarrow as pa
from feast import ValueType
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

from headrace.declare.event import Contract
from headrace.declare.table import Table

__all__ = ["declared_columns", "feast_type", "of_arrow", "value_type", "word"]

# The plan's word → Feast's type. Every other type that Feast has is refused by name.
_FEAST: dict[str, Any] = {
    "int64": Int64,
    "float64": Float64,
    "string": String,
    "bool": Bool,
    "timestamp": UnixTimestamp,
}
_WORDS: dict[Any, str] = {
    **{feast: name for name, feast in _FEAST.items()},
    **{Array(feast): f"list[{name}]" for name, feast in _FEAST.items()},
    Int32: "int64",
    Float32: "float64",
}
_MSGSPEC: dict[type, str] = {
    msgspec.inspect.IntType: "int64",
    msgspec.inspect.FloatType: "float64",
    msgspec.inspect.BoolType: "bool",
    msgspec.inspect.StrType: "string",
    msgspec.inspect.DateTimeType: "timestamp",
    msgspec.inspect.DecimalType: "float64",  # a feature is a number, whatever keeps it exact in a table
}


def word(dtype: Any) -> str | None:
    """The plan's word for a Feast type; None where features of this type are not supported."""
    return _WORDS.get(dtype)


def feast_type(name: str) -> Any:
    """The Feast type of one of the plan's words."""
    return Array(_FEAST[name[5:-1]]) if name.startswith("list[") else _FEAST[name]


def value_type(name: str) -> ValueType:
    """Feast's value type of a word, UNKNOWN where it has none."""
    try:
        return feast_type(name).to_value_type()
    except KeyError:
        return ValueType.UNKNOWN


def of_arrow(schema: pa.Schema) -> dict[str, str]:
    """Column → word, of an Arrow schema: what a table in the lake holds."""
    return {name: _of_polars(dtype) for name, dtype in pl.from_arrow(schema.empty_table()).schema.items()}  # type: ignore[union-attr]


def declared_columns(declared: Table | Contract) -> dict[str, str] | None:
    """Column → word, as the schema or the contract declares them; None for a table without a schema."""
    if isinstance(declared, Contract):
        fields = msgspec.inspect.type_info(declared.struct).fields  # type: ignore[attr-defined]
        return {field.name: _of_msgspec(field.type) for field in fields}
    if declared.current and isinstance(declared.reads[0], Contract):
        return declared_columns(declared.reads[0])
    if declared.schema is None:
        return None
    schema: Mapping[str, Any] = declared.schema.columns()
    return {name: _of_polars(column.dtype) for name, column in schema.items()}


def _of_polars(dtype: Any) -> str:
    if isinstance(dtype, pl.List):
        return f"list[{_of_polars(dtype.inner)}]"
    if dtype == pl.Datetime:
        return "timestamp"
    if dtype.is_integer():
        return "int64"
    if dtype.is_float() or dtype.is_decimal():
        return "float64"
    return "bool" if dtype == pl.Boolean else "string"


def _of_msgspec(kind: Any) -> str:
    if isinstance(kind, msgspec.inspect.UnionType):
        kinds = [one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)]
        words = {_of_msgspec(one) for one in kinds}
        return words.pop() if len(words) == 1 else "string"
    if isinstance(kind, msgspec.inspect.LiteralType):
        return "int64" if all(isinstance(value, int) for value in kind.values) else "string"
    if isinstance(kind, msgspec.inspect.ListType):
        return f"list[{_of_msgspec(kind.item_type)}]"
    return _MSGSPEC.get(type(kind), "string")
