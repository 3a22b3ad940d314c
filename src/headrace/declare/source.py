"""source: files that a table reads, in addition to events."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from headrace.declare.convert import to_tuple
from headrace.declare.place import Place
from headrace.kernel.addresses import is_remote
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Source", "column_types", "source"]

_NAME = re.compile(r"[^\W\d_][\w-]*")  # part of a stage and of a file's name
_OBJECTS = re.compile(r"s3://[a-z0-9][a-z0-9.-]+/[^/\s][^\s]*")
_REVISION = re.compile(r"[^\s-]\S*")  # git would take one that begins with - for an option


@attrs.frozen(eq=False)
class Source:
    """Files that a table reads (see `source`).

    Attributes:
        name: the name of the source.
        path: a file, or a folder of files: relative to the project, or an address in an object store.
        place: the line of the declaration.
        schema: column → polars type, for the columns whose type is declared.
        encoding: the encoding of text files, as Python names it.
        null_values: texts in a text file that mean "no value", besides the empty cell.
        delimiter: the character between the cells of CSV files.
        decimal: the character before the fraction of numbers in CSV files, `.` or `,`.
        glob: a pattern that the names of a folder's files match.
        revision: the git tag or revision whose data are read; None: the files as they are now.
    """

    name: str
    path: str
    place: Place
    schema: Mapping[str, pl.DataType] = attrs.Factory(dict)
    encoding: str = "utf-8"
    null_values: tuple[str, ...] = ()
    delimiter: str = ","
    decimal: str = "."
    glob: str = "*"
    revision: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the files are in an object store."""
        return is_remote(self.path)


def source(
    name: str,
    path: str,
    *,
    schema: Mapping[str, Any] | None = None,
    encoding: str = "utf-8",
    null_values: str | Sequence[str] = (),
    delimiter: str = ",",
    decimal: str = ".",
    glob: str = "*",
    revision: str | None = None,
) -> Source:
    """Declares files as a source that tables can read.

        catalogue = source("catalogue", "data/catalogue.csv", schema={"code": str})
        iris = source("iris", "data/iris.csv", revision="v1")

    Args:
        name: its name in errors, lineage and the build: a letter, then letters, digits, `_` and `-`.
        path: a file, or a folder of files, relative to the project; or an object or a prefix of objects in S3,
            such as `s3://bucket/orders`. The ends of the names tell the format: `.csv`, `.parquet`, `.ndjson`
            or `.jsonl` (a JSON object a line), `.json` (an array of objects).
        schema: column → type, for some of the columns: a polars type, or `str`, `int`, `float`, `bool`, `date`
            or `datetime`. Other columns have the types of the file (Parquet, JSON), or detected ones (CSV).
        encoding: the encoding of CSV and JSON files: `utf-8`, `latin-1`, `cp1252`, `utf-16` or another that
            Python knows.
        null_values: how CSV and JSON files write "no value" besides the empty cell or `null`, such as `NA`: a
            text that is exactly one of these is null, in every column. A blank cell (spaces only) is null in a
            column that is not text.
        delimiter: the character between the cells of CSV files, such as `;` or a tab.
        decimal: the character before the fraction of numbers in CSV files: `.` or `,`.
        glob: a pattern for the names of a folder's files, such as `orders-*.csv`. Other files are left out.
        revision: a git tag, a branch or a commit: the files are read as they were then, whether git or DVC
            tracks them. None: as they are in the project's folder.

    Raises:
        ProjectError: the name is not valid, the path is absolute or leads out of the project, a type cannot be
            read from a file, the encoding is not known, `null_values` are not texts, `delimiter` or
            `decimal` is not such a character, or a revision is named of files in an object store.
    """
    place = Place.of_caller()
    _check_files(name, path, revision, place)
    codec = _find_codec(encoding, place)
    nulls = to_tuple(null_values)
    if not all(isinstance(value, str) and value for value in nulls):
        raise ProjectError(
            f"null_values={null_values!r} must be texts, and not empty",
            where=str(place),
            remedy='Write them as in the file: null_values=["NA", "n/a"]. An empty cell is always null.',
        )
    types = column_types(schema, place)
    _check_characters(delimiter, decimal, place)
    _check_glob(glob, place)
    return Source(name, path, place, types, codec, nulls, delimiter, decimal, glob, revision)


def _check_glob(glob: Any, place: Place) -> None:
    if not isinstance(glob, str) or not glob or "/" in glob:
        raise ProjectError(
            f"glob={glob!r} is not a pattern for the names of files",
            where=str(place),
            remedy='For example glob="orders-*.csv". All folders in the path are searched.',
        )


def _find_codec(encoding: Any, place: Place) -> str:
    """Python's own name of the encoding."""
    try:
        "".encode(encoding)  # refuses codecs that do not encode text (base64)
        return codecs.lookup(encoding).name
    except (LookupError, TypeError) as error:
        raise ProjectError(
            f"encoding={encoding!r} is not an encoding that Python knows",
            where=str(place),
            remedy='For example "utf-8", "latin-1", "cp1252" or "utf-16".',
        ) from error


def _check_characters(delimiter: Any, decimal: Any, place: Place) -> None:
    if (
        not (isinstance(delimiter, str) and len(delimiter) == 1 and delimiter.isascii())
        or delimiter in '"\r\n\0'
    ):
        raise ProjectError(
            f"delimiter={delimiter!r} must be one ASCII character, and neither a quote nor a line end",
            where=str(place),
            remedy='For example delimiter=";" or delimiter="\\t".',
        )
    if decimal not in (".", ","):
        raise ProjectError(f'decimal={decimal!r} must be "." or ","', where=str(place))


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
    if is_remote(path):
        if not _OBJECTS.fullmatch(path):
            raise ProjectError(
                f"path={path!r} is not an address of objects that Headrace reads",
                where=str(place),
                remedy="Write s3://BUCKET/PATH. The keys come from the environment (AWS_ACCESS_KEY_ID, ...).",
            )
        if revision is not None:
            raise ProjectError(
                f"revision={revision!r}: git and DVC do not track the objects at {path}",
                where=str(place),
                remedy="Put each version at a path of its own, or name files of the project that DVC tracks.",
            )
    elif path.startswith("/") or ".." in path.split("/"):
        raise ProjectError(f"path={path!r} must be in the project", where=str(place))


def column_types(schema: Any, place: Place) -> dict[str, pl.DataType]:
    """The polars types of a `schema=`.

    Raises:
        ProjectError: it is not a dict, or a type cannot be read.
    """
    if schema is not None and not isinstance(schema, Mapping):
        raise ProjectError(
            f"schema={schema!r} is not a dict", where=str(place), remedy='Write it as schema={"code": str}.'
        )
    return {column: _to_polars(column, type_, place) for column, type_ in (schema or {}).items()}


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
