"""Reads the files of a source: lists them, digests them, and returns their rows as one frame."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError

from headrace.code.source_files import list_files
from headrace.config.settings import Settings
from headrace.declare.source import Source
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import ProjectError
from headrace.projects.checkout import resolve_revision
from headrace.projects.project import Project
from headrace.tables.csv_file import CsvFile, check_csv
from headrace.tables.csv_types import Kinds, as_type, check_types, detect_kinds, type_of_kinds

__all__ = ["digest_of", "read_files", "revision_folder", "source_files"]


def source_files(project: Project, source: Source) -> list[Path]:
    """The files of a source, sorted: CSV or Parquet, of one kind.

    Raises:
        ProjectError: the source has no files, or they are of several kinds or of another kind.
    """
    folder = _folder_of(project, source)
    path = folder / source.path
    where = f"{source.place}: source {source.name!r}"
    files = list_files(path)
    if not files:
        raise ProjectError(
            f"source {source.name!r} has no files at {source.path}",
            where=str(source.place),
            remedy=f"Put its files at {path}, or correct the path.",
        )
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1 or not kinds <= {".csv", ".parquet"}:
        raise ProjectError(
            f"{source.path} holds {', '.join(sorted(kinds))}",
            where=where,
            remedy="Keep only .csv or only .parquet there.",
        )
    return files


def revision_folder(settings: Settings, commit: str, path: str) -> Path:
    """The folder that has the files of a path as they were in a commit; flows.build.revisions fetches them."""
    return settings.place("revisions", f"{commit}-{short_digest(path)}")


def _folder_of(project: Project, source: Source) -> Path:
    """The folder that the source's path is relative to."""
    if source.revision is None:
        return project.settings.root
    commit = resolve_revision(project.settings.root, source.revision, str(source.place))
    return revision_folder(project.settings, commit, source.path)


def digest_of(project: Project, source: Source) -> str:
    """The digest of the files' paths and contents: `sha256:...`.

    Raises:
        ProjectError: as `source_files`.
    """
    whole, folder = hashlib.sha256(), _folder_of(project, source)
    for path in source_files(project, source):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        whole.update(path.relative_to(folder).as_posix().encode() + b"\0" + content)
    return f"sha256:{whole.hexdigest()}"


def read_files(project: Project, source: Source) -> pl.LazyFrame:
    """The rows of a source's files as a lazy frame. The files are checked, and their columns matched by name.

    A column that a file lacks is null in its rows. The types are the declared ones; else those of the Parquet
    files, or those that the cells of all CSV files are written as.

    Raises:
        ProjectError: a file is broken, a value is not of its declared type, a declared column is in no file, or
            a column has incompatible types in several Parquet files. The error names the file (that of a git
            revision as git does, `v1:data/iris.csv`), and for CSV the row.
    """
    files = source_files(project, source)
    parquet = files[0].suffix.lower() == ".parquet"
    try:
        return pl.concat(_parquet_frames(source, files) if parquet else _csv_frames(source, files))
    except ProjectError as error:
        if source.revision is not None and error.where is not None:
            error.where = error.where.replace(f"{_folder_of(project, source)}/", f"{source.revision}:")
        raise


def _csv_frames(source: Source, paths: list[Path]) -> list[pl.LazyFrame]:
    files = [check_csv(path, source.encoding)._replace(null_values=source.null_values) for path in paths]
    columns = list(dict.fromkeys(name for file in files for name in file.columns))
    _check_declared(source, columns)
    kinds: dict[str, list[Kinds]] = {name: [] for name in columns}
    for file in files:
        with _name_file_in_errors(file.path):
            check_types(file, {n: t for n, t in source.schema.items() if n in file.columns})
            for name, detected in detect_kinds(
                file, [n for n in file.columns if n not in source.schema]
            ).items():
                kinds[name].append(detected)
    types = {name: source.schema.get(name) or type_of_kinds(kinds[name]) for name in columns}

    def scan(file: CsvFile) -> pl.LazyFrame:
        return file.scan().select(
            as_type(name, dtype) if name in file.columns else pl.lit(None, dtype).alias(name)
            for name, dtype in types.items()
        )

    return [scan(file) for file in files]


def _parquet_frames(source: Source, paths: list[Path]) -> list[pl.LazyFrame]:
    schemas: dict[Path, pl.Schema] = {}
    for path in paths:
        with _name_file_in_errors(path):
            schemas[path] = pl.scan_parquet(path, glob=False).collect_schema()
    columns = list(dict.fromkeys(name for schema in schemas.values() for name in schema))
    _check_declared(source, columns)
    types = {name: _common_type(name, source.schema.get(name), schemas) for name in columns}

    def scan(path: Path) -> pl.LazyFrame:
        return pl.scan_parquet(path, glob=False).select(
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
            raise ProjectError(
                f"column {name!r} is {own} here, and {common} in {first}",
                where=str(path),
                remedy="Write the files alike, or declare a type that holds both: source(..., schema=...).",
            )
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


@contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    """Raises the errors of polars for a broken file with the name of the file."""
    try:
        yield
    except (PolarsError, PanicException, OSError) as error:
        message = str(error).partition("\n")[0]
        raise ProjectError(f"the file cannot be read: {message}", where=str(path)) from error


def _check_declared(source: Source, columns: list[str]) -> None:
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
