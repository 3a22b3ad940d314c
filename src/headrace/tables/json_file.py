"""Reads files of JSON objects: one a line (NDJSON), or an array of them (JSON).

Each value is read as its text, so that no digit of a number is lost before its column has a type. The type of a
column is that of its values: text is never taken for a number or a date.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import polars as pl
from polars.io.plugins import register_io_source

from headrace.kernel.errors import ProjectError
from headrace.tables.csv_file import without_null_values

__all__ = ["JsonFile", "JsonKind", "check_json"]

JsonKind = Literal["boolean", "integer", "long", "float", "huge", "text", "nested"]
"""The kind of a value. `long`: a whole number that a 64-bit float may not hold; `huge`: a number that neither a
64-bit integer nor a 64-bit float holds; `nested`: a list or an object."""

_BATCH = 20_000  # rows that are Python objects at once
_INTEGERS = range(-(2**63), 2**63)
_LONGEST = 20  # characters of a 64-bit integer
_SAFE_DIGITS = 15  # numbers of at most so many digits have distinct 64-bit floats
_EXACT = 2**53  # a 64-bit float holds every whole number up to here


class JsonFile(NamedTuple):
    """A JSON file whose every value has been checked.

    Attributes:
        path: the path of the file.
        columns: the keys of its objects, in the order in which they first appear.
        kinds: column → the kinds of its values, and the first row with a value of each kind.
        encoding: Python's name of the encoding.
        null_values: the texts that mean "no value".
        decimal: the character before the fraction of a number.
    """

    path: Path
    columns: tuple[str, ...]
    kinds: Mapping[str, Mapping[JsonKind, int]]
    encoding: str
    null_values: tuple[str, ...] = ()
    decimal: str = "."

    def scan(self) -> pl.LazyFrame:
        """The rows in order, each value as text: a list or an object as JSON. `null` and a missing key are
        null."""
        schema = pl.Schema(dict.fromkeys(self.columns, pl.String()))

        def read(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            names = list(self.columns) if with_columns is None else with_columns
            objects = (values for _, values in islice(_objects(self.path, self.encoding), n_rows))
            while batch := list(islice(objects, _BATCH)):
                texts = {name: [_text(values.get(name)) for values in batch] for name in names}
                frame = pl.DataFrame(texts, {name: schema[name] for name in names})
                yield frame if predicate is None else frame.filter(predicate)

        rows = register_io_source(read, schema=schema)
        return without_null_values(rows, self.null_values)

    def row_number(self, index: int) -> int:
        """The line of an object in NDJSON, the number of an element in JSON, from 1 on."""
        return next(islice(_objects(self.path, self.encoding), index, None))[0]


class _Number(str):
    """A number as the file writes it."""


def check_json(path: Path, encoding: str, null_values: tuple[str, ...]) -> JsonFile:
    """Checks every value of the file.

    Raises:
        ProjectError: it is not valid JSON in this encoding, a row is not an object or names a key twice, or the
            file has no row.
    """
    kinds: dict[str, dict[JsonKind, int]] = {}
    for row, values in _objects(path, encoding):
        for name, value in values.items():
            of_column = kinds.setdefault(name, {})
            if value is not None and value not in null_values:
                of_column.setdefault(_kind(value), row)
    if not kinds:
        _refuse("the file has no values", path, 1, "Write one JSON object for each row.")
    return JsonFile(path, tuple(kinds), kinds, encoding, null_values)


def _kind(value: Any) -> JsonKind:
    if isinstance(value, _Number):
        return _kind_of_number(value)
    if isinstance(value, str):
        return "text"
    return "boolean" if isinstance(value, bool) else "nested"


def _kind_of_number(text: str) -> JsonKind:
    if text.lstrip("-").isdigit():
        if len(text) > _LONGEST or int(text) not in _INTEGERS:
            return "huge"
        return "integer" if abs(int(text)) <= _EXACT else "long"
    value = float(text)
    digits, shortest = _digits(text), _digits(repr(value))
    is_exact = (
        math.isfinite(value) and (len(digits) <= _SAFE_DIGITS or digits == shortest) and (value or not digits)
    )
    return "float" if is_exact else "huge"


def _digits(number: str) -> str:
    """The digits of a number without zeros at both ends, and without its exponent."""
    return number.lower().partition("e")[0].lstrip("-").replace(".", "").strip("0")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return _dump(value)


def _dump(value: Any) -> str:
    """The JSON text of a value, with each number as the file writes it."""
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _objects(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of the file and their numbers."""
    if path.suffix.lower() == ".json":
        text = _decode(path.read_bytes(), path, encoding, 1)
        elements = _parse(text, path, 1)
        if not isinstance(elements, list):
            remedy = "Write an array of objects; or name a file with an object a line .ndjson."
            _refuse("the file is not an array of objects", path, 1, remedy)
        numbered: Iterator[tuple[int, Any]] = enumerate(elements, 1)
    else:
        numbered = _lines(path, encoding)
    for row, values in numbered:
        if not isinstance(values, dict):
            _refuse(f"{_dump(values)[:60]} is not an object", path, row, 'Each row is an object: {"id": 1}.')
        yield row, values


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        is_bytewise = "\n".encode(encoding) == b"\n"
        lines: Any = file if is_bytewise else io.TextIOWrapper(file, encoding, newline="\n")
        row = 0
        try:
            for line in lines:
                row += 1
                text = _decode(line, path, encoding, row) if is_bytewise else line.removeprefix("\ufeff")
                if text.strip():
                    yield row, _parse(text.rstrip(), path, row)
        except UnicodeError as error:
            _refuse(f"the file is not valid {encoding}: {error}", path, row, _ENCODING)


def _decode(raw: bytes, path: Path, encoding: str, row: int) -> str:
    try:
        return raw.decode(encoding).removeprefix("\ufeff") if row == 1 else raw.decode(encoding)
    except UnicodeDecodeError as error:
        row += raw.count(b"\n", 0, error.start)
        _refuse(f"byte {raw[error.start]:02x} is not valid {encoding}", path, row, _ENCODING)


_ENCODING = "Declare the encoding of the file: source(..., encoding=...)."
_JSON = "Write strict JSON: strings in double quotes, numbers without NaN and Infinity."


def _parse(text: str, path: Path, row: int) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        _refuse(
            f"it is not valid JSON: {error.msg} at column {error.colno}", path, row + error.lineno - 1, _JSON
        )
    except RecursionError:
        _refuse("its values are nested too deeply", path, row, "Flatten the values.")
    except ValueError as error:
        _refuse(str(error), path, row, _JSON)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    for key, value in pairs:
        if isinstance(value, str):
            value.encode()
        key.encode()
    return values


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


def _refuse(what: str, path: Path, row: int, remedy: str) -> NoReturn:
    raise ProjectError(what, where=f"{path}, row {row:,}", remedy=remedy)
