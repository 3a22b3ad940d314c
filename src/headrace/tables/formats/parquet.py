"""Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from headrace.declare.source import Source
from headrace.lake.reading.parquet import scan_parquet
from headrace.tables.formats.port import check_declared, conflict, name_file_in_errors

__all__ = ["scan_parquet_files"]


def scan_parquet_files(source: Source, paths: Mapping[Path, str]) -> list[pl.LazyFrame]:
    """See port.Scan. The types are the declared ones, else the widest of the files' own."""
    schemas: dict[Path, pl.Schema] = {}
    for path in paths:
        with name_file_in_errors(path):
            schemas[path] = scan_parquet(path).collect_schema()
    columns = list(dict.fromkeys(name for schema in schemas.values() for name in schema))
    check_declared(source, columns)
    types = {name: _common_type(name, source.schema.get(name), schemas) for name in columns}

    def scan(path: Path) -> pl.LazyFrame:
        return scan_parquet(path).select(
            (pl.col(name).cast(dtype) if name in schemas[path] else pl.lit(None, dtype)).alias(name)
            for name, dtype in types.items()
        )

    return [scan(path) for path in paths]


def _common_type(name: str, declared: pl.DataType | None, schemas: Mapping[Path, pl.Schema]) -> pl.DataType:
    """The type of a column for all files: the declared one, else the widest of the files' types."""
    common, first = declared, "the schema= of its source"
    for path, schema in schemas.items():
        own = schema.get(name)
        if own is None:
            continue
        if common is None or (declared is None and _holds(own, common)):
            common, first = own, str(path)
        elif not (_holds(common, own) or (declared is not None and _is_castable(own, common))):
            raise conflict(name, str(own), str(path), str(common), first)
    assert common is not None
    return common


def _holds(wide: pl.DataType, narrow: pl.DataType) -> bool:
    """Whether a column of the wide type can hold every value of the narrow one unchanged."""
    if narrow in (wide, pl.Null):
        return True
    if wide.is_integer() and narrow.is_integer():
        return _bits(wide) > _bits(narrow) and (wide.is_signed_integer() or narrow.is_unsigned_integer())
    if wide.is_float() and narrow.is_float():
        return _bits(wide) > _bits(narrow)
    return wide == pl.String and isinstance(narrow, (pl.Categorical, pl.Enum))


def _is_castable(own: pl.DataType, declared: pl.DataType) -> bool:
    """Whether the file's own type may be declared as another one: a wider number, another unit."""
    if isinstance(declared, pl.Datetime) and isinstance(own, pl.Datetime):
        return declared.time_zone == own.time_zone
    if isinstance(declared, pl.Decimal) and isinstance(own, pl.Decimal):
        return declared.scale >= own.scale
    return own.is_integer() and (declared.is_float() or declared.is_decimal())


def _bits(dtype: pl.DataType) -> int:
    return int(str(dtype).lstrip("UIntFloa"))
