"""Reads the rows of a query from a database, through the database's ADBC driver.

A driver is the Python package `adbc_driver_NAME`, which the address names by its scheme.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config.settings import Settings
from headrace.kernel.addresses import check_postgres_password
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.extras import is_installed
from headrace.kernel.secrets import clean_text

__all__ = ["Database", "open_database"]

_DRIVERS = {"postgres": "postgresql"}
_PARAMETERS = {"postgresql": "$1"}  # other drivers take ?
_SAMPLES = {"integer": "0", "real": "0.0", "text": "''", "blob": "x''"}  # SQLite's types → a value of each
_SCALE, _SCALE_SIGN = 0x7FF, 0x400  # the bits of a numeric's modifier that are its scale, and its sign
_MAX_DIGITS = 38  # of a Decimal
_UNEQUAL = ("money", "oid")  # types of PostgreSQL that are read as numbers of other values
_NO_MOMENT = "that is infinite, or outside of the years 1 to 9999"
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAYS = tuple(day.toordinal() - date(1970, 1, 1).toordinal() + n for day, n in ((date.min, 0), (date.max, 1)))
_SECONDS = _DAYS[0] * 86_400, _DAYS[1] * 86_400
"""From the first moment that Python has to the first after its last."""


class Database:
    """An open database. All its queries see one state of it, where the database can show one."""

    def __init__(self, driver: str, connection: Any, where: str) -> None:
        self._driver = driver
        self._connection = connection
        self._where = where

    def read(self, sql: str, *, since: tuple[str, Any] | None = None) -> Iterator[pl.DataFrame]:
        """The rows of a query, a batch at a time; at least one batch, which may be empty.

        Args:
            sql: the query.
            since: a column and its least value. Rows where it is null are read too.

        Raises:
            ProjectError: the database refuses the query, or returns a type that cannot be read exactly.
        """
        arguments: Sequence[Any] = ()
        sql = f"{sql}\n"  # its last line may be a comment
        if since is not None:
            column, parameter = _quote(since[0]), _PARAMETERS.get(self._driver, "?")
            wanted = f"{column} >= {parameter} or {column} is null"
            sql = f"select * from ({sql}) as headrace_query where {wanted}"  # noqa: S608
            arguments = (since[1],)
        if self._driver == "sqlite":
            yield from self._read_sqlite(sql, arguments)
            return
        with self._cursor(sql, arguments) as reader:
            yield from self._frames(reader)

    def column_names(self, sql: str, arguments: Sequence[Any] = ()) -> list[str]:
        """The names of the columns of a query, which has these arguments.

        Raises:
            ProjectError: the database refuses the query.
        """
        with self._cursor(f"select * from ({sql}\n) as headrace_query limit 0", arguments) as reader:  # noqa: S608
            return reader.schema.names

    def _read_sqlite(self, sql: str, arguments: Sequence[Any]) -> Iterator[pl.DataFrame]:
        """SQLite's driver takes a column's type from the first rows, and converts other values to it. So the
        types are read first, and a row of these types leads the query."""
        names = self.column_names(sql, arguments)
        columns = ", ".join(f"group_concat(distinct nullif(typeof({_quote(name)}), 'null'))" for name in names)
        with self._cursor(f"select {columns} from ({sql})", arguments) as reader:  # noqa: S608
            (types,) = zip(*reader.read_all().to_pydict().values(), strict=True)
        samples = []
        for name, type_ in zip(names, types, strict=True):
            if type_ is not None and type_ not in _SAMPLES:
                type_name = "integer) or as real" if set(type_.split(",")) == {"integer", "real"} else "text)"
                raise ProjectError(
                    f"column {name!r} of the query has values of the types {type_.replace(',', ' and ')}",
                    where=self._where,
                    remedy=f"Convert them in the query: cast({name} as {type_name}. A cursor of numbers must"
                    " remain a number: as text, 10 comes before 9.",
                )
            samples.append(f"{_SAMPLES[type_ or 'text']} as {_quote(name)}")
        first = f"select {', '.join(samples)}"
        both = f"select * from ({first}) union all select * from ({sql})"  # noqa: S608
        with self._cursor(both, arguments) as reader:
            frames = self._frames(reader)
            yield next(frames)[1:]
            yield from frames

    @contextmanager
    def _cursor(self, sql: str, arguments: Sequence[Any]) -> Iterator[pa.RecordBatchReader]:
        from adbc_driver_manager import Error

        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, arguments)
                with cursor.fetch_record_batch() as reader:
                    yield reader
        except (Error, pa.ArrowException, OSError) as error:
            raise _name_error(error, self._where) from error

    def _frames(self, reader: pa.RecordBatchReader) -> Iterator[pl.DataFrame]:
        casts = {field.name: _reading(field, self._where) for field in reader.schema}
        if len(casts) < len(reader.schema):
            raise ProjectError("two columns of the query have the same name", where=self._where)
        empty = True
        for batch in reader:
            empty = False
            yield _to_frame(pa.Table.from_batches([batch]), casts, self._where)
        if empty:
            yield _to_frame(reader.schema.empty_table(), casts, self._where)


def _reading(field: pa.Field[Any], where: str) -> pa.DataType | None:
    """The Arrow type to read a column as, if it is not its own.

    Raises:
        ProjectError: the values are of a type that has no equal here: the driver returns the database's own
            bytes, or for money and oid a number that means another one.
    """
    own, metadata = field.type, field.metadata or {}
    declared = metadata.get(b"POSTGRESQL:type", b"").decode()
    item = own
    while pa.types.is_list(item):
        item = item.value_type
    if pa.types.is_interval(item) or declared.removeprefix("_") in _UNEQUAL:
        raise _type_error(field.name, declared or "interval", where)
    if not isinstance(item, pa.BaseExtensionType):
        return None
    is_text = pa.types.is_string(item.storage_type) or item.extension_name == "arrow.uuid"
    if item is not own or not is_text:
        raise _type_error(field.name, declared or str(own), where)
    if declared == "numeric":
        size = int(metadata.get(b"POSTGRESQL:typmod", b"-1")) - 4
        scale = ((size & _SCALE) ^ _SCALE_SIGN) - _SCALE_SIGN
        digits = max((size >> 16) - min(scale, 0), scale)  # numeric(3, -2) holds 99900, numeric(1, 2) 0.09
        is_known = size >= 0 and digits <= _MAX_DIGITS
        return pa.decimal128(digits, max(scale, 0)) if is_known else pa.string()
    return None


def _to_frame(batch: pa.Table, casts: dict[str, pa.DataType | None], where: str) -> pl.DataFrame:
    columns: list[pl.Series] = []
    for name, dtype in casts.items():
        values: Any = batch[name].combine_chunks()
        if isinstance(values.type, pa.BaseExtensionType):
            is_uuid = values.type.extension_name == "arrow.uuid"
            values = pa.array([str(v) for v in values.to_pylist()]) if is_uuid else values.storage
        if dtype is not None and values.type != dtype:
            try:
                values = values.cast(dtype)
            except pa.ArrowInvalid as error:  # a numeric can be NaN
                raise _value_error(name, f"that {dtype} cannot hold: {error}", where) from error
        _check_range(name, values, where)
        columns.append(pl.Series(name, values))
    return pl.DataFrame(columns)


def _check_range(name: str, values: pa.Array[Any], where: str) -> None:
    """Refuses dates and times that a database has and Python has not: they would be read as others, or null."""
    while pa.types.is_list(values.type):
        values = values.flatten()  # type: ignore[attr-defined]
    type_ = values.type
    if pa.types.is_date32(type_):
        limits, what = _DAYS, _NO_MOMENT
    elif pa.types.is_timestamp(type_):
        scale = _PER_SECOND[type_.unit]
        limits, what = (_SECONDS[0] * scale, _SECONDS[1] * scale), _NO_MOMENT
    elif pa.types.is_time(type_):
        limits, what = (0, 86_400 * _PER_SECOND[type_.unit]), "outside of a day: 24:00:00"
    else:
        return
    numbers = values.cast(pa.int32() if type_.bit_width == 32 else pa.int64())
    extremes: Any = pc.min_max(numbers).as_py()
    if extremes["min"] is not None and not limits[0] <= extremes["min"] <= extremes["max"] < limits[1]:
        raise _value_error(name, what, where)


def _value_error(name: str, what: str, where: str) -> ProjectError:
    return ProjectError(
        f"column {name!r} of the query has a value {what}",
        where=where,
        remedy=f"Convert it in the query: cast({name} as text), or nullif({name}, 'infinity').",
    )


def _type_error(name: str, type_: str, where: str) -> ProjectError:
    return ProjectError(
        f"column {name!r} of the query is of the type {type_}",
        where=where,
        remedy=f"Convert it in the query: cast({name} as text), or as numeric(18, 2).",
    )


@contextmanager
def open_database(settings: Settings, name: str, where: str) -> Iterator[Database]:
    """Opens a database of the setting `databases`.

    Args:
        settings: the settings of the project.
        name: the name of the database.
        where: the declaration that names it, for errors.

    Raises:
        ProjectError: the setting has no such name, or the password in it has a sign that must be encoded.
        Unavailable: the driver is not installed, or the database cannot be reached.
    """
    address = settings.databases.addresses.get(name)
    if address is None:
        raise ProjectError(
            f"database {name!r} has no address",
            where=where,
            remedy=f'Write it into headrace.toml: databases = {{ {name} = "postgresql://..." }}.',
        )
    scheme, _, rest = address.partition(":")
    driver, is_named, _ = scheme.partition("+")
    driver = _DRIVERS.get(driver, driver)
    uri = address.partition("+")[2] if is_named else address
    if driver == "postgresql":
        check_postgres_password(uri, f"databases.{name}")
    if driver == "sqlite":
        uri = str(settings.root / rest.removeprefix("//"))
    package = f"adbc_driver_{driver}"
    if not is_installed(package):
        raise Unavailable(
            f"database {name!r} at {clean_text(address)} needs the package {package}, which is not installed",
            where=where,
            remedy="pip install 'headrace[databases]' brings those of PostgreSQL and SQLite. Others have their"
            " own packages, such as adbc-driver-snowflake.",
        )
    from adbc_driver_manager import Error

    try:
        connection = importlib.import_module(f"{package}.dbapi").connect(uri)
    except (Error, OSError) as error:
        raise _name_error(error, f"{where}: database {name!r}") from error
    with connection:
        yield Database(driver, connection, where)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _name_error(error: Exception, where: str) -> ProjectError | Unavailable:
    """The error of a driver: the database is away, or refuses what it was asked."""
    from adbc_driver_manager import OperationalError

    message = clean_text(" ".join(str(error).split()))
    if isinstance(error, OperationalError):
        return Unavailable(f"the database cannot be read: {message}", where=where, remedy="Build again.")
    return ProjectError(f"the database refuses the query: {message}", where=where)
