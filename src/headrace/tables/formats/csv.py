"""CSV files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import polars as pl

from headrace.declare.source import Source
from headrace.tables.csv_file import CsvFile, check_csv
from headrace.tables.csv_types import (
    ALL_KINDS,
    Kinds,
    as_type,
    check_types,
    detect_kinds,
    find_odd_cells,
    type_of_kinds,
)
from headrace.tables.formats.port import check_declared, conflict, name_file_in_errors

__all__ = ["scan_csv_files"]

_logger = logging.getLogger(__name__)


def scan_csv_files(source: Source, paths: Mapping[Path, str]) -> list[pl.LazyFrame]:
    """See port.Scan. The types are the declared ones, else those that all cells of all files are written as."""
    files = [
        check_csv(path, source.encoding, source.delimiter)._replace(
            decimal=source.decimal, null_values=source.null_values
        )
        for path in paths
    ]
    columns = list(dict.fromkeys(name for file in files for name in file.columns))
    check_declared(source, columns)
    kinds: dict[str, dict[Path, Kinds]] = {name: {} for name in columns}
    for file in files:
        with name_file_in_errors(file.path):
            check_types(file, {n: t for n, t in source.schema.items() if n in file.columns})
            undeclared = [name for name in file.columns if name not in source.schema]
            detected = detect_kinds(file, undeclared)
            _report_odd_cells(
                file, paths[file.path], [name for name, of_file in detected.items() if not of_file]
            )
        for name, of_file in detected.items():
            kinds[name][file.path] = of_file
    types = {name: source.schema.get(name) or _common_type(name, kinds[name]) for name in columns}

    def scan(file: CsvFile) -> pl.LazyFrame:
        return file.scan().select(
            as_type(name, dtype, file.decimal) if name in file.columns else pl.lit(None, dtype).alias(name)
            for name, dtype in types.items()
        )

    return [scan(file) for file in files]


def _common_type(column: str, kinds: Mapping[Path, Kinds]) -> pl.DataType:
    """The type of a column for all files.

    Raises:
        ProjectError: the cells of one file are of a type that those of another file are not.
    """
    common = type_of_kinds(kinds.values())
    if common == pl.String:
        with_cells = [path for path, of_file in kinds.items() if of_file != ALL_KINDS]
        for path, other in combinations(with_cells, 2):
            if not kinds[path] & kinds[other] and (kinds[path] or kinds[other]):
                here, there = (str(type_of_kinds([kinds[file]])) for file in (other, path))
                raise conflict(column, here, str(other), there, str(path))
    return common


def _report_odd_cells(file: CsvFile, file_name: str, columns: Sequence[str]) -> None:
    """Warns of a cell that makes a whole column text."""
    for name, (row, text, dtype) in find_odd_cells(file, columns).items():
        _logger.warning(
            "%s, row %s: column %r is text because of %r here; most of its cells are %s. Declare which is"
            " meant: source(..., schema=...) or source(..., null_values=[...])",
            file_name,
            f"{row:,}",
            name,
            text,
            dtype,
        )
