"""Converts frames from Feast's callers to a plan's types. A value that cannot be converted is refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pandas as pd
import polars as pl
import pyarrow as pa

from headrace.features.plan import AsOfView
from headrace.features.values.columns import POLARS, kind_of
from headrace.kernel.errors import CallError

__all__ = ["to_instants", "to_polars", "to_view_rows", "utc"]


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
    """Converts a column as columns of tables are: text to numbers, but no number to text, and no key."""
    if dtype == "timestamp":
        return to_instants(column, what)
    target: pl.DataType = POLARS[dtype]  # type: ignore[index]
    remedy = f"Give {dtype} values; the entity or the view's Field declares the type."
    of_one_kind = column.dtype == pl.Null or kind_of(column.dtype) == kind_of(target)
    if (is_key and column.dtype == pl.Boolean) or ((is_key or dtype == "string") and not of_one_kind):
        raise CallError(f"{column.name!r} of {what} is {column.dtype}, not {dtype}", remedy=remedy)
    try:
        cast = column.cast(target)
    except pl.exceptions.PolarsError as error:
        raise CallError(
            f"{column.name!r} of {what} is {column.dtype}, not {dtype}: {error}", remedy=remedy
        ) from error
    if column.dtype.is_float() and dtype == "int64" and (cast != column).any():
        value = column.filter(cast != column)[0]
        raise CallError(f"{column.name!r} of {what} is int64, and {value} is not a whole number", remedy=remedy)
    return cast


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
