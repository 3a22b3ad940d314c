"""What every format of files has: a function from a source's files to their rows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError

from headrace.declare.source import Source
from headrace.kernel.errors import ProjectError

__all__ = ["Scan", "check_declared", "conflict", "name_file_in_errors"]

Scan = Callable[[Source, Mapping[Path, str]], list[pl.LazyFrame]]
"""The rows of each file, with the same columns of the same types. Gets the files, and for each its name in
messages. The files are checked when it is called.

Raises ProjectError if a file is broken, a value is not of its declared type, a declared column is in no file,
or a column has types in two files that do not go together. The error names the files, and the row if there is
one.
"""


def check_declared(source: Source, columns: Sequence[str]) -> None:
    """Checks that every column of `schema=` is one of the files' columns.

    Raises:
        ProjectError: a column is in no file.
    """
    for name in source.schema:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            hint = f"Is it {near[0]!r} there? " if near else ""
            raise ProjectError(
                f"schema= names the column {name!r}, which no file of source {source.name!r} has",
                where=f"{source.place}: {source.path}",
                remedy=f"{hint}The files have the columns {', '.join(columns)}."
                " Correct their header or the schema=.",
            )


def conflict(column: str, here: str, path: str, there: str, other: str) -> ProjectError:
    """The error for a column that is of one type here, and of another in another file or declaration."""
    return ProjectError(
        f"column {column!r} is {here} here, and {there} in {other}",
        where=path,
        remedy="Write the files alike, or declare a type that holds both: source(..., schema=...).",
    )


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Raises the errors of polars for a broken file with the name of the file."""
    try:
        yield
    except (PolarsError, PanicException, OSError) as error:
        message = str(error).partition("\n")[0]
        raise ProjectError(f"the file cannot be read: {message}", where=str(path)) from error
