"""The types of a text file's columns: checks the declared types, and detects the others from the whole file.

A column gets another type than text only if every cell is written as that type writes its values, so that
nothing is lost: `0870`, `+1` and a number that 64 bits cannot hold stay text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import polars as pl

from headrace.kernel.errors import ProjectError
from headrace.tables.csv_file import CsvFile

__all__ = [
    "ALL_KINDS",
    "KIND_TYPES",
    "Kind",
    "Kinds",
    "TextFile",
    "as_type",
    "check_types",
    "detect_kinds",
    "find_odd_cells",
    "type_of_kinds",
]


Kind = Literal["boolean", "integer", "float", "date", "datetime", "instant"]
Kinds = frozenset[Kind]
"""The kinds of values that all cells of a column can be read as; empty if only as text."""

KIND_TYPES: dict[Kind, pl.DataType] = {
    "boolean": pl.Boolean(),
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "date": pl.Date(),
    "datetime": pl.Datetime("us"),
    "instant": pl.Datetime("us", "UTC"),
}
"""Each kind of values, in the order in which a column takes it, and its type."""

ALL_KINDS: Kinds = frozenset(KIND_TYPES)
"""The kinds of a column without cells."""

_SAMPLE = 1_000
_YEARS = (-62_135_596_800_000_000, 253_402_300_799_999_999)  # 1 to 9999, in microseconds since 1970

_WHOLE = r"0|-?[1-9][0-9]{0,14}"  # a 64-bit float holds each of them
_FRACTION = r"-?(0|[1-9][0-9]*)\.[0-9]+"
_POWER = r"-?[1-9](\.[0-9]+)?e[+-]?[0-9]+"
_DECIMAL = f"^({_WHOLE}|{_FRACTION}|{_POWER}|NaN|-?inf)$"
_DAY = r"([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-[0-9]{2}-[0-9]{2}"
_TIME = r"[T ][0-9]{2}:[0-9]{2}(:[0-5][0-9](\.[0-9]{1,6})?)?"
_ZONE = r"(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])"


class TextFile(Protocol):
    """A file whose values are read as text.

    Attributes:
        path: the path of the file.
        columns: the names of its columns.
        decimal: the character before the fraction of a number.
    """

    @property
    def path(self) -> Path: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def decimal(self) -> str: ...

    def scan(self) -> pl.LazyFrame:
        """The rows in order, each column as text."""

    def row_number(self, index: int) -> int:
        """The number in the file of the row at this index of `scan`."""


def type_of_kinds(kinds: Iterable[Kinds]) -> pl.DataType:
    """The type of a column from its kinds in each file; text if the column has no cells."""
    common = ALL_KINDS.intersection(*kinds)
    if common in (ALL_KINDS, frozenset()):
        return pl.String()
    return next(dtype for kind, dtype in KIND_TYPES.items() if kind in common)


def as_type(column: str, dtype: pl.DataType, decimal: str = ".") -> pl.Expr:
    """Converts the column's text to the type; null where the text is blank or not of that type.

    Booleans are `true` and `false`; dates and times are ISO 8601 (a time without a zone is UTC if the type has
    a zone); `decimal` is the character before the fraction of a number.
    """
    text = pl.col(column)
    is_number = dtype.is_float() or dtype.is_decimal()
    return _value(_with_point(text, decimal) if is_number else text, dtype).alias(column)


def _with_point(text: pl.Expr, decimal: str) -> pl.Expr:
    """The text of a number with a decimal point; `-`, which is not a number, if a point is where `decimal` is
    due."""
    if decimal == ".":
        return text
    has_point = text.str.contains(".", literal=True)
    return pl.when(has_point).then(pl.lit("-")).otherwise(text.str.replace(decimal, ".", literal=True))


def _value(text: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype == pl.String:
        return text
    if dtype == pl.Boolean:
        lower = text.str.to_lowercase()
        return pl.when(lower == "true").then(True).when(lower == "false").then(False)
    if dtype == pl.Date:
        return _days(text)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return _datetimes(text)
        return pl.coalesce(_instants(text), _datetimes(text).dt.replace_time_zone("UTC"))
    number = text.cast(dtype, strict=False)
    if isinstance(dtype, pl.Decimal):
        return pl.when(_has_decimals(text, dtype.scale)).then(number)
    if dtype.is_float():
        return pl.when(number.is_finite() | text.str.contains("(?i)^[+-]?(nan|inf)")).then(number)
    return number


_SCIENTIFIC = r"^[+-]?([0-9]+)(?:\.([0-9]+))?[eE]([+-]?[0-9]{1,9})$"


def _has_decimals(text: pl.Expr, scale: int) -> pl.Expr:
    """Whether the text is a number of at most `scale` decimals: the cast would round any others away."""
    fraction = rf"\.[0-9]{{1,{scale}}}0*" if scale else r"\.0*"
    is_plain = text.str.contains(f"^[+-]?[0-9]+({fraction})?$")
    scientific = pl.when(~is_plain).then(text)  # few, if any: the rest is null, which costs nothing
    whole, decimals, exponent = (scientific.str.extract(_SCIENTIFIC, group) for group in (1, 2, 3))
    significant = (whole + decimals.fill_null("")).str.strip_chars_end("0")
    needed = significant.str.len_bytes().cast(pl.Int64) - whole.str.len_bytes() - exponent.cast(pl.Int64)
    return is_plain | (significant == "") | (needed <= scale)


def check_types(file: TextFile, declared: Mapping[str, pl.DataType]) -> None:
    """Checks that every cell of the declared columns is of its declared type.

    Raises:
        ProjectError: a cell is not; the error names the file, the row and the value.
    """
    typed = {name: dtype for name, dtype in declared.items() if dtype != pl.String}
    if not typed:
        return
    invalid = {
        name: ~_is_blank(pl.col(name)) & as_type(name, dtype, file.decimal).is_null()
        for name, dtype in typed.items()
    }
    first = file.scan().select(
        is_invalid.arg_true().first().alias(name) for name, is_invalid in invalid.items()
    )
    rows = first.collect().row(0, named=True)
    first_invalid = {name: row for name, row in rows.items() if row is not None}
    if first_invalid:
        name = min(first_invalid, key=lambda column: first_invalid[column])
        value = file.scan().select(name).slice(first_invalid[name], 1).collect().item()
        raise ProjectError(
            f"column {name!r} is declared as {typed[name]}, and {value!r} is not a valid value",
            where=f"{file.path}, row {file.row_number(first_invalid[name]):,}",
            remedy=f"Correct the file or the schema= of its source. If the text means that there is no value:"
            f" source(..., null_values=[{value!r}]).",
        )


class _Test(NamedTuple):
    """A kind to test a column for."""

    column: str
    kind: Kind


def detect_kinds(file: CsvFile, columns: Iterable[str]) -> dict[str, Kinds]:
    """The kinds of values that all cells of each column can be read as, over the whole file."""
    names = list(columns)
    if not names:
        return {}
    sample = file.scan().select(names).head(_SAMPLE).collect().lazy()
    likely = _passing_tests(file, sample, [_Test(name, kind) for name in names for kind in KIND_TYPES])
    passing = _passing_tests(file, file.scan(), likely)
    return {name: frozenset(test.kind for test in passing if test.column == name) for name in names}


def _passing_tests(file: CsvFile, rows: pl.LazyFrame, tests: list[_Test]) -> list[_Test]:
    """The tests that every cell of their column passes."""
    if not tests:
        return []
    # Each converted column is computed once, however often its test uses it.
    values = {f"value {number}": test for number, test in enumerate(tests)}
    typed = rows.with_columns(
        as_type(t.column, KIND_TYPES[t.kind], file.decimal).alias(name) for name, t in values.items()
    )
    results = typed.select(
        _all_are(test.kind, _text_for(test.kind, test.column, file.decimal), pl.col(name)).alias(name)
        for name, test in values.items()
    )
    row = results.collect(engine="streaming").row(0)
    return [test for test, passed in zip(tests, row, strict=True) if passed]


def _text_for(kind: Kind, column: str, decimal: str) -> pl.Expr:
    """The text of a column's cells, as a test for the kind reads it."""
    return _with_point(pl.col(column), decimal) if kind == "float" else pl.col(column)


def find_odd_cells(file: CsvFile, columns: Iterable[str]) -> dict[str, tuple[int, str, str]]:
    """Finds the cell that makes a column text, of each text column whose other cells mostly have another type.

    Only columns are searched of whose first 1,000 rows with a value more than half can be read as that type.

    Returns:
        Column → the number of the row, its text, and the type that most other cells have.
    """
    names = list(columns)
    sample = file.scan().select(names).head(_SAMPLE).collect()
    odd = {}
    for name in names:
        cells = sample.filter(~_is_blank(pl.col(name)))
        for kind, dtype in KIND_TYPES.items():
            fits = _fits(kind, _text_for(kind, name, file.decimal), as_type(name, dtype, file.decimal))
            passing = cells.select(fits.fill_null(False).sum()).item()
            if passing * 2 <= len(cells):
                continue
            misfit = ~fits.fill_null(False) & ~_is_blank(pl.col(name))
            rows = file.scan().select(pl.col(name), row=pl.int_range(pl.len())).filter(misfit).head(1).collect()
            if len(rows):
                odd[name] = (file.row_number(rows["row"].item()), rows[name].item(), str(dtype))
            break
    return odd


def _all_are(kind: Kind, text: pl.Expr, value: pl.Expr) -> pl.Expr:
    """Whether every cell is blank or written as values of that kind are."""
    every = (_fits(kind, text, value).fill_null(False) | _is_blank(text)).all()
    return every & _digits_agree(text, value) & _has_point(text) if kind == "float" else every


def _fits(kind: Kind, text: pl.Expr, value: pl.Expr) -> pl.Expr:
    """Whether a cell is written as values of that kind are."""
    fits = value.is_not_null()
    if kind == "boolean":
        fits = text.is_in(["true", "false"])
    elif kind == "integer":
        fits = value.cast(pl.String) == text
    elif kind == "float":
        fits &= text.str.contains(_DECIMAL)
    elif kind == "instant":
        fits &= text.str.contains(f"{_ZONE}$")
    return fits


def _is_blank(text: pl.Expr) -> pl.Expr:
    """Whether a cell is empty or has spaces only: then it has no value, unless its column is text."""
    return text.is_null() | (text.str.strip_chars() == "")


def _digits_agree(text: pl.Expr, value: pl.Expr) -> pl.Expr:
    """Whether the shortest way to write each 64-bit number has the digits of its text."""

    def digits(number: pl.Expr) -> pl.Expr:
        bare = number.str.replace_all(r"e.*$|[-.]", "")
        return bare.str.strip_chars_start("0").str.strip_chars_end("0")

    # Numbers of at most 15 digits have distinct 64-bit floats.
    short = (text.str.len_bytes() <= 16) & ~text.str.contains("e", literal=True)
    shortest = value.cast(pl.String)
    doubtful = ~short & (shortest != text)
    return (digits(text.filter(doubtful)) == digits(shortest.filter(doubtful))).all()


def _has_point(text: pl.Expr) -> pl.Expr:
    """Whether a cell has a point, if any has an exponent: without one, 1e5 and 2e3 are taken for codes."""
    return ~text.str.contains("e", literal=True).any() | text.str.contains(".", literal=True).any()


def _days(text: pl.Expr) -> pl.Expr:
    days = text.str.to_date("%Y-%m-%d", strict=False)
    return pl.when(text.str.contains(f"^{_DAY}$")).then(days)


def _datetimes(text: pl.Expr) -> pl.Expr:
    times = (_minutes(text) + _seconds(text)).cast(pl.Datetime("us"))
    return pl.when(text.str.contains(f"^{_DAY}{_TIME}$")).then(times)


def _instants(text: pl.Expr) -> pl.Expr:
    zone = text.str.tail(6).str.replace(r"^.*?([+-])([0-9]{2}):?([0-9]{2})$", "$1$2$3")
    offset = zone.cast(pl.Int64, strict=False).fill_null(0)  # +0230 as 230
    east = offset - (offset / 100).cast(pl.Int64) * 40
    micros = _minutes(text) + _seconds(text) - east * 60_000_000
    shape = text.str.contains(f"^{_DAY}{_TIME}{_ZONE}$")
    return pl.when(shape & micros.is_between(*_YEARS)).then(micros).cast(pl.Datetime("us", "UTC"))


def _minutes(text: pl.Expr) -> pl.Expr:
    """Microseconds since 1970 of a text that begins like `2024-01-31T10:30`. Reading a time in parts is far
    faster than parsing it whole."""
    day = text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    hour, minute = (text.str.slice(at, 2).cast(pl.Int64, strict=False) for at in (11, 14))
    return pl.when((hour < 24) & (minute < 60)).then((day * 1_440 + hour * 60 + minute) * 60_000_000)


def _seconds(text: pl.Expr) -> pl.Expr:
    """Microseconds of what follows the minutes: `:59.25`, or nothing."""
    whole = pl.when(text.str.slice(16, 1) == ":").then(text.str.slice(17, 2).cast(pl.Int64, strict=False))
    fraction = text.str.slice(19).str.extract(r"^\.([0-9]{1,6})").str.pad_end(6, "0").cast(pl.Int64)
    return whole.fill_null(0) * 1_000_000 + fraction.fill_null(0)
