"""source: files that a table reads, in addition to events."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from headrace.declare.convert import to_tuple
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Source", "source"]

_NAME = re.compile(r"[^\W\d_][\w-]*")  # part of a stage and of a file's name
_REVISION = re.compile(r"[^\s-]\S*")  # git would take one that begins with - for an option


@attrs.frozen(eq=False)
class Source:
    """Files that a table reads (see `source`).

    Attributes:
        name: the name of the source.
        path: a file, or a folder of files, relative to the project.
        place: the line of the declaration.
        schema: column → polars type, for the columns whose type is declared.
        encoding: the encoding of CSV files, as Python names it.
        null_values: texts of a CSV file's cells that mean "no value", besides the empty cell.
        revision: the git tag or revision whose data are read; None: the files in the project's folder.
    """

    name: str
    path: str
    place: Place
    schema: Mapping[str, pl.DataType] = attrs.Factory(dict)
    encoding: str = "utf-8"
    null_values: tuple[str, ...] = ()
    revision: str | None = None


def source(
    name: str,
    path: str,
    *,
    schema: Mapping[str, Any] | None = None,
    encoding: str = "utf-8",
    null_values: str | Sequence[str] = (),
    revision: str | None = None,
) -> Source:
    """Declares files as a source that tables can read.

        catalogue = source("catalogue", "data/catalogue.csv", schema={"code": str})
        iris = source("iris", "data/iris.csv", revision="v1")

    Args:
        name: its name in errors, lineage and the build: a letter, then letters, digits, `_` and `-`.
        path: a file, or a folder of files, relative to the project. Files whose names end in `.csv` are read as
            CSV, those in `.parquet` as Parquet.
        schema: column → type, for some of the columns: a polars type, or `str`, `int`, `float`, `bool`, `date`
            or `datetime`. The types of the other columns are detected (CSV) or read from the file (Parquet).
        encoding: the encoding of CSV files: `utf-8`, `latin-1`, `cp1252`, `utf-16` or another that Python
            knows.
        null_values: how CSV files write "no value" besides the empty cell, such as `NA`: a cell that is exactly
            one of these texts is null, in every column. A blank cell (spaces only) is null in a column that is
            not text.
        revision: a git tag, a branch or a commit: the files are read as they were then, whether git or DVC
            tracks them. None: as they are in the project's folder.

    Raises:
        ProjectError: the name is not valid, the path is absolute or leads out of the project, a type cannot be
            read from a file, the encoding is not known, or `null_values` are not texts.
    """
    place = Place.of_caller()
    _check_files(name, path, revision, place)
    try:
        "".encode(encoding)  # refuses codecs that do not encode text (base64)
        codec = codecs.lookup(encoding).name
    except (LookupError, TypeError) as error:
        raise ProjectError(
            f"encoding={encoding!r} is not an encoding that Python knows",
            where=str(place),
            remedy='For example "utf-8", "latin-1", "cp1252" or "utf-16".',
        ) from error
    if schema is not None and not isinstance(schema, Mapping):
        raise ProjectError(
            f"schema={schema!r} is not a dict", where=str(place), remedy='Write it as schema={"code": str}.'
        )
    nulls = to_tuple(null_values)
    if not all(isinstance(value, str) and value for value in nulls):
        raise ProjectError(
            f"null_values={null_values!r} must be texts, and not empty",
            where=str(place),
            remedy='Write them as in the file: null_values=["NA", "n/a"]. An empty cell is always null.',
        )
    types = {column: _to_polars(column, type_, place) for column, type_ in (schema or {}).items()}
    return Source(name, path, place, types, codec, nulls, revision)


def _check_files(name: str, path: str, revision: Any, place: Place) -> None:
    if not _NAME.fullmatch(name):
        raise ProjectError(
            f"{name!r} is not a valid source name",
            where=str(place),
            remedy="Begin it with a letter; then letters, digits, _ and - may follow.",
        )
    if revision is not None and not (isinstance(revision, str) and _REVISION.fullmatch(revision)):
        raise ProjectError(
            f"revision={revision!r} is not a valid git revision",
            where=str(place),
            remedy='Name a tag, a branch or a commit, such as revision="v1".',
        )
    if path.startswith("/") or ".." in path.split("/"):
        raise ProjectError(f"path={path!r} must be in the project", where=str(place))


def _to_polars(column: str, type_: Any, place: Place) -> pl.DataType:
    import polars as pl

    try:
        dtype = pl.Schema({column: type_})[column]
    except Exception as error:
        raise _type_error(column, type_, place) from error
    plain = (pl.String, pl.Boolean, pl.Date)
    sized = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.Float32, pl.Float64)
    instant = isinstance(dtype, pl.Datetime) and dtype.time_unit == "us" and dtype.time_zone in (None, "UTC")
    decimal = isinstance(dtype, pl.Decimal) and dtype.precision is not None
    if not (instant or decimal or isinstance(dtype, (*plain, *sized))):
        raise _type_error(column, type_, place)
    return dtype


def _type_error(column: str, type_: Any, place: Place) -> ProjectError:
    return ProjectError(
        f"schema={{{column!r}: {type_!r}}}: a file's column cannot be read as this type",
        where=str(place),
        remedy="Use str, int, float, bool, date, datetime, or a polars type: pl.String, pl.Int64, pl.Float64,"
        ' pl.Decimal(18, 2), pl.Boolean, pl.Date, pl.Datetime("us", "UTC").',
    )
