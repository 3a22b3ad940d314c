"""Checks that a table has the columns that a view reads, of the types that the view needs.

A table whose columns are declared is checked when the features are compiled. Others are checked here, before
anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import polars as pl

from headrace.features.plan import AsOfView, FeaturePlan, PlanField, StoredView, WindowedView
from headrace.features.values.columns import POLARS
from headrace.kernel.errors import ProjectError

__all__ = ["check_columns", "check_tables", "name_value_errors"]


def check_tables(plan: FeaturePlan, read: Callable[[str], pl.LazyFrame]) -> None:
    """Checks the tables of all stored views of a plan; `read` returns the rows of a table by its name.

    Raises:
        ProjectError: as `check_columns`.
    """
    keys = {entity.join_key: entity.dtype for entity in plan.entities}
    for view in plan.stored:
        columns = read(view.table).collect_schema()
        if isinstance(view, AsOfView):
            columns = pl.Schema({name: columns[view.column(name)] for name in _names_in(view, columns)})
        check_columns(view, columns, keys)


def check_columns(view: StoredView, columns: pl.Schema, keys: Mapping[str, str] | None = None) -> None:
    """Checks that a table has the columns that the view reads.

    Args:
        view: the view.
        columns: the columns of its table, with their names in the view.
        keys: join key → the dtype that its entity declares; None: each key may be a whole number or text.

    Raises:
        ProjectError: the time, a key, a feature or an aggregated column is missing, or has another type.
    """
    fields = _fields_of(view)
    role = "feature" if isinstance(view, AsOfView) else "aggregated column"
    for what, names in (
        ("timestamp_field", [view.time]),
        ("join key", view.keys),
        (role, [field.name for field in fields]),
    ):
        for name in names:
            if name not in columns:
                raise ProjectError(
                    f"{view.name!r} has the {what} {name!r}, a column that table {view.table} lacks",
                    where=f"feature view {view.name}",
                    remedy=f"Columns of {view.table}: {', '.join(columns)}.",
                )
    if columns[view.time] not in (pl.Datetime, pl.Date, pl.Null):
        raise ProjectError(
            f"the timestamp_field {view.time!r} of {view.name!r} must be a date or a time, but is"
            f" {columns[view.time]} in table {view.table}",
            where=f"feature view {view.name}",
            remedy="Convert the column to a datetime in the table's function.",
        )
    for field in fields:
        column = columns[field.name]
        # Values of types that a plan has no dtype for, such as times of day, are aggregated as text.
        is_text = field.dtype == "string" and isinstance(view, WindowedView) and column.is_temporal()
        if not (is_text or _is_convertible(POLARS[field.dtype], column)):
            raise ProjectError(
                f"{role} {view.name}:{field.name} is declared as {field.dtype}, but the column is"
                f" {column} in table {view.table}",
                where=f"feature view {view.name}",
                remedy="Give its Field the type that the values have.",
            )
    for key in view.keys:
        _check_key(view, key, columns[key], None if keys is None else keys.get(key))


def _check_key(view: StoredView, key: str, column: pl.DataType, dtype: str | None) -> None:
    is_number = column.is_integer() and column not in (pl.UInt64, pl.Int128, pl.UInt128)
    is_text = column in (pl.String, pl.Categorical, pl.Enum)
    if column != pl.Null and not is_number and not is_text:
        raise ProjectError(
            f"the key {key!r} of {view.name!r} must be a whole number or text, but is {column}"
            f" in table {view.table}",
            where=f"feature view {view.name}",
            remedy="Convert the column in the table's function.",
        )
    if dtype is not None and column != pl.Null and is_number != (dtype == "int64"):
        raise ProjectError(
            f"the key {key!r} of {view.name!r} is declared as {dtype}, but it is {column} in table"
            f" {view.table}",
            where=f"feature view {view.name}",
            remedy="Give the entity the value_type of the column, or convert the column in the table.",
        )


@contextmanager
def name_value_errors(view: StoredView, table: pl.LazyFrame) -> Iterator[None]:
    """Names the view, the field and the value if the block fails because a value of the table, whose columns
    have their names in the view, is not of its field's type.

    Raises:
        ProjectError: there is such a value.
    """
    try:
        yield
    except pl.exceptions.InvalidOperationError as error:
        for field in _fields_of(view):
            column = pl.col(field.name)
            is_invalid = column.is_not_null() & column.cast(POLARS[field.dtype], strict=False).is_null()
            values = table.select(column).filter(is_invalid).head(1).collect().to_series()
            if len(values):
                raise ProjectError(
                    f"{view.name}:{field.name} is declared as {field.dtype}, but table {view.table} has the"
                    f" value {values[0]!r}",
                    where=f"feature view {view.name}",
                    remedy="Give its Field the type that the values have, or convert them in the table.",
                ) from error
        raise


def _names_in(view: AsOfView, columns: pl.Schema) -> list[str]:
    """The names that the view gives to the columns of its table."""
    named = {view.field_mapping.get(column, column) for column in columns}
    return [name for name in named if view.column(name) in columns]


def _fields_of(view: StoredView) -> tuple[PlanField, ...]:
    return view.features if isinstance(view, AsOfView) else view.columns


def _is_convertible(dtype: pl.DataType, column: pl.DataType) -> bool:
    """Whether every value of a column of this type converts to the dtype, numbers to the nearest number."""
    if column in (dtype, pl.Null()):
        return True
    if isinstance(dtype, pl.List):
        return isinstance(column, (pl.List, pl.Array)) and _is_convertible(dtype.inner, column.inner)  # type: ignore[arg-type]
    if dtype.is_numeric():
        # A database's decimals arrive as text; a text that is not a number is an error when it is read.
        return (
            column.is_integer()
            or column in (pl.Boolean, pl.String)
            or (dtype.is_float() and column.is_numeric())
        )
    if dtype == pl.String:
        return column in (pl.Categorical, pl.Enum)
    return dtype.is_temporal() and column in (pl.Datetime, pl.Date)
