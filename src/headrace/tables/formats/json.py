"""JSON files: an object a line (NDJSON), or an array of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import polars as pl

from headrace.declare.source import Source
from headrace.kernel.errors import ProjectError
from headrace.tables.csv_types import as_type, check_types
from headrace.tables.formats.port import check_declared, conflict, name_file_in_errors
from headrace.tables.json_file import JsonFile, JsonKind, check_json

__all__ = ["scan_json_files"]

_TYPES: dict[frozenset[JsonKind], pl.DataType] = {
    frozenset(): pl.String(),
    frozenset({"text"}): pl.String(),
    frozenset({"boolean"}): pl.Boolean(),
    frozenset({"integer"}): pl.Int64(),
    frozenset({"long"}): pl.Int64(),
    frozenset({"integer", "long"}): pl.Int64(),
    frozenset({"float"}): pl.Float64(),
    frozenset({"integer", "float"}): pl.Float64(),
}
"""The kinds of a column's values → its type. Others do not go together, or need a declared type."""

_NUMBERS: frozenset[JsonKind] = frozenset({"integer", "long", "float", "huge"})

_WORDS: dict[JsonKind, str] = {
    "boolean": "a boolean",
    "integer": "a whole number",
    "long": "a whole number of more than 53 bits",
    "float": "a fraction",
    "huge": "a number that 64 bits do not hold",
    "text": "a text",
    "nested": "a list or an object",
}


def scan_json_files(source: Source, paths: Mapping[Path, str]) -> list[pl.LazyFrame]:
    """See port.Scan. The types are the declared ones, else those of the values in all files."""
    files = [check_json(path, source.encoding, source.null_values) for path in paths]
    columns = list(dict.fromkeys(name for file in files for name in file.columns))
    check_declared(source, columns)
    for file in files:
        with name_file_in_errors(file.path):
            check_types(file, {name: t for name, t in source.schema.items() if name in file.columns})
    types = {name: source.schema.get(name) or _common_type(name, files) for name in columns}

    def scan(file: JsonFile) -> pl.LazyFrame:
        return file.scan().select(
            as_type(name, dtype) if name in file.columns else pl.lit(None, dtype).alias(name)
            for name, dtype in types.items()
        )

    return [scan(file) for file in files]


def _common_type(column: str, files: Sequence[JsonFile]) -> pl.DataType:
    """The type of a column for all files.

    Raises:
        ProjectError: its values are of kinds that do not go together, or of one that needs a declared type.
    """
    places: dict[JsonKind, str] = {}
    for file in files:
        for kind, row in file.kinds.get(column, {}).items():
            places.setdefault(kind, f"{file.path}, row {row:,}")
    kinds = frozenset(places)
    if kinds in _TYPES:
        return _TYPES[kinds]
    text = f'source(..., schema={{"{column}": str}}) reads its text'
    if "huge" in kinds and kinds <= _NUMBERS:
        remedy = f"{text}; a pl.Decimal reads a number exactly."
        raise ProjectError(f"column {column!r} has {_WORDS['huge']}", where=places["huge"], remedy=remedy)
    if kinds == {"nested"}:
        message = f"column {column!r} has {_WORDS['nested']}"
        raise ProjectError(message, where=places["nested"], remedy=f"{text} as JSON.")
    first, other = next(pair for pair in combinations(places, 2) if frozenset(pair) not in _TYPES)
    raise conflict(column, _WORDS[other], places[other], _WORDS[first], places[first])
