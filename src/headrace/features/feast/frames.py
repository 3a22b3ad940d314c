"""Converts frames from Feast's callers to a plan's types. A value that cannot be converted is refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from pandas.api.extensions import ExtensionDtype

from headrace.features.plan import AsOfView
from headrace.features.values.columns import POLARS
from headrace.kernel.errors import CallError

__all__ = ["to_instants", "to_pandas", "to_polars", "to_view_rows", "utc"]

_EXACT = 1 << 53  # up to it, a float holds each whole number
_NULLABLE: dict[pa.DataType, ExtensionDtype] = {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}


def to_polars(frame: pd.DataFrame, what: str) -> pl.DataFrame:
    """Converts a pandas frame to polars; NaN and NaT become null.

    Args:
        frame: the frame.
        what: the frame's name in an error.

    Raises:
        CallError: a column holds values of several types.
    """
    try:
        return pl.from_pandas(frame)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise CallError(f"{what} cannot be read: {error}", remedy="Give each column one type.") from error


def to_pandas(rows: pa.Table) -> pd.DataFrame:
    """Converts rows to pandas, without a change of a value.

    A column of whole numbers with nulls becomes one of floats, as in Feast's other stores; where a float does
    not hold each of its numbers it becomes `Int64` (or `UInt64`), and items of lists become objects.
    """
    frame = rows.to_pandas()
    for name in rows.column_names:
        if _loses_digits(rows[name]):
            column = rows.select([name]).to_pandas(
                types_mapper=lambda dtype: _NULLABLE.get(dtype), integer_object_nulls=True
            )
            frame[name] = column[name]
    return frame


def _loses_digits(column: pa.ChunkedArray[Any]) -> bool:
    """Whether it has nulls and whole numbers that no float holds."""
    items = _items_of(pl.Series(column))
    if not (items.dtype.is_integer() and 0 < items.null_count() < len(items)):
        return False
    low, high = int(items.min()), int(items.max())  # type: ignore[arg-type]
    return max(high, -low) > _EXACT


def to_instants(column: pl.Series, what: str) -> pl.Series:
    """Converts a column of datetimes, dates, or ISO 8601 text to UTC microseconds. A time without a zone is
    UTC.

    Args:
        column: the column.
        what: the frame's name in an error.

    Raises:
        CallError: the column holds other values.
    """
    if column.dtype == pl.String:
        column = pl.Series(
            column.name,
            [_instant(text, column.name, what) for text in column.to_list()],
            pl.Datetime("us", "UTC"),
        )
    if column.null_count() == len(column):  # of no rows, whatever type pandas gave it
        column = column.clear(len(column)).cast(pl.Null)
    if column.dtype in (pl.Date, pl.Null):
        column = column.cast(pl.Datetime("us"))
    if not isinstance(column.dtype, pl.Datetime):
        raise CallError(
            f"{column.name!r} of {what} holds {column.dtype}, not times",
            remedy="Give datetimes, or text such as 2026-03-01T12:00:00Z.",
        )
    if column.dtype.time_zone is None:
        column = column.dt.replace_time_zone("UTC")
    return column.cast(pl.Datetime("us", "UTC"))


def to_view_rows(frame: pl.DataFrame, view: AsOfView, keys: Mapping[str, str]) -> pl.DataFrame:
    """Converts rows to those of an as-of view: its keys, time and features, of its types; and the column that
    decides between rows of one key and time, if they have it.

    Args:
        frame: the rows, with the view's columns and any others.
        view: the view.
        keys: join key → its dtype.

    Raises:
        CallError: a column is missing, a value is not of its type, or a row has no key or time.
    """
    what = f"the rows for feature view {view.name!r}"
    types = {**keys, view.time: "timestamp", **{field.name: field.dtype for field in view.features}}
    missing = [name for name in types if name not in frame.columns]
    if missing:
        raise CallError(
            f"{what} lack {', '.join(missing)}", remedy=f"The view's columns are {', '.join(types)}."
        )
    rows = pl.DataFrame([_cast(frame[name], dtype, what, name in keys) for name, dtype in types.items()])
    for name in (*keys, view.time):
        if rows[name].null_count():
            place = int(rows[name].is_null().arg_max() or 0)
            raise CallError(
                f"{what} have no {name} in row {place}", remedy="Leave the row out, or complete it."
            )
    if view.created in frame.columns and view.created not in types:
        rows = rows.with_columns(frame[view.created])
    return rows


def _cast(column: pl.Series, dtype: str, what: str, is_key: bool) -> pl.Series:
    if dtype == "timestamp":
        return to_instants(column, what)
    polars_dtype = POLARS[dtype]  # type: ignore[index]
    remedy = f"Give values of type {dtype}: the entity, or the view's Field, declares it."
    if column.null_count() == len(column):
        return column.clear(len(column)).cast(polars_dtype)
    if not _is_convertible(column.dtype, polars_dtype) or (is_key and column.dtype == pl.Boolean):
        raise CallError(f"{column.name!r} of {what} is {column.dtype}, not {dtype}", remedy=remedy)
    try:
        cast = column.cast(polars_dtype)
    except pl.exceptions.PolarsError as error:
        raise CallError(
            f"{column.name!r} of {what} is {column.dtype}, not {dtype}: {error}", remedy=remedy
        ) from error
    given, items = _items_of(column), _items_of(cast)
    if given.dtype.is_numeric() and items.dtype in (pl.Int64, pl.Boolean):
        back = items.cast(given.dtype, strict=False)
        is_changed = (back != given).fill_null(value=False) | (back.is_null() & given.is_not_null())
        if is_changed.any():
            kind = "a whole number" if items.dtype == pl.Int64 else "true or false"
            value = given.filter(is_changed)[0]
            raise CallError(f"{column.name!r} of {what} is {dtype}, and {value} is not {kind}", remedy=remedy)
    return cast


def _is_convertible(given: pl.DataType, dtype: pl.DataType) -> bool:
    """Whether values of a frame are those of a view's type, or numbers that may be: true is 1, and a decimal
    may come as text."""
    if given in (pl.Null, dtype):
        return True
    if isinstance(dtype, pl.List):
        return isinstance(given, (pl.List, pl.Array)) and _is_convertible(given.inner, dtype.inner)  # type: ignore[arg-type]
    if dtype.is_numeric():
        return given.is_numeric() or given in (pl.Boolean, pl.String)
    if dtype == pl.Boolean:
        return given.is_numeric()
    if dtype == pl.String:
        return given in (pl.Categorical, pl.Enum)
    return dtype.is_temporal() and given in (pl.Datetime, pl.Date)


def _items_of(column: pl.Series) -> pl.Series:
    """The items of lists, the lists one after another; of other values, these."""
    while isinstance(column.dtype, (pl.List, pl.Array)):
        column = column.explode(empty_as_null=False, keep_nulls=False)
    return column


def _instant(text: str | None, name: str, what: str) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise CallError(
            f"{name!r} of {what} has {text!r}, which is not a time", remedy="Write it as 2026-03-01T12:00:00Z."
        ) from error
    return utc(time)


def utc(time: datetime) -> datetime:
    """The time in UTC; without a zone it is UTC already."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
