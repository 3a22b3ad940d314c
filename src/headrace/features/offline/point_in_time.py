"""The point-in-time join: features as they were known at each label's moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from headrace.events.contracts.shape import KNOWN_AT
from headrace.features.offline.columns import check_columns, check_tables, name_value_errors
from headrace.features.offline.windows import aggregate
from headrace.features.plan import AsOfView, FeaturePlan
from headrace.features.values.columns import POLARS, total_order
from headrace.features.values.on_demand import OnDemand, OnDemandError
from headrace.kernel.errors import ProjectError
from headrace.tables.changelog import history, is_changelog
from headrace.tables.failures import failure_limit

__all__ = [
    "MOMENT",
    "FailureLimits",
    "OrderedRows",
    "add_on_demand",
    "as_of_rows",
    "convert_labels",
    "join",
    "join_as_of",
    "reads_changes",
    "states",
    "unique_rows",
]

MOMENT = "event_timestamp"
_INSTANT = pl.Datetime("us", "UTC")
_PLACE = "__place"
_VISIBLE = "__visible"
_CREATED = "__created"
_NAMES = {dtype: name for name, dtype in POLARS.items()}


def join(
    labels: pl.DataFrame | pa.Table,
    plan: FeaturePlan,
    read: Callable[[str], pl.LazyFrame],
    *,
    failed: dict[int, OnDemandError] | None = None,
    limits: FailureLimits | None = None,
) -> pl.DataFrame:
    """Joins labels with the plan's features as they were known at each label's moment.

    Args:
        labels: the plan's join keys, `event_timestamp` (a UTC datetime), the columns of `plan.request`, and any
            other columns.
        plan: the features to join.
        read: returns the rows of the table with the given name.
        failed: if given, a row that an on-demand function fails on stops no other row: its index and the error
            are added, and the function's features of the row are null.
        limits: on how many rows each function may fail; None: on as many as in a training set.

    Returns:
        The labels, in their order, with a column `view__feature` for each of `plan.features`. A row of an as-of
        view is visible from its time and the view's delay on (only after it, if `plan.is_strict`) until it is
        older than the ttl.
        Windowed views are computed by `windows.aggregate`, from the events that were known before the moment.

    Raises:
        ProjectError: the labels lack a column, have a row without a time, or a key or a field of the request
            that is not of its dtype; or a table lacks a column of a view, or has another type there.
        OnDemandError: an on-demand function failed; with `failed`, on more rows than single rows can explain.
    """
    if isinstance(labels, pa.Table):
        labels = pl.DataFrame(labels)
    rows = convert_labels(labels, plan)
    check_tables(plan, read)
    columns: dict[str, pl.Series] = {}
    ordered = OrderedRows(rows)
    for view in plan.as_of:
        visible = as_of_rows(view, read(view.table))
        features = ordered.join(view, visible, strict=plan.is_strict(view), delay=view.delay)
        columns |= {f"{view.name}__{field.name}": features[field.name] for field in view.features}
    for windowed in plan.windowed:
        events = read(windowed.table)
        # A snapshot that is older than the column has no instants from which its events are known.
        known_at = KNOWN_AT if KNOWN_AT in events.collect_schema() else None
        features = aggregate(windowed, rows, events, at=MOMENT, known_at=known_at)
        columns |= {f"{windowed.name}__{field.name}": features[field.name] for field in windowed.features}
    add_on_demand(plan, rows, columns, failed, limits or FailureLimits(len(rows)))
    return labels.with_columns(columns[f.column].alias(f.column) for f in plan.features)


class FailureLimits:
    """How many of all rows each on-demand function may still fail on, if the rows come in pieces.

    Args:
        rows: how many rows there are together.
        limit: how many rows a function may fail on; None: as many as single rows can explain.
    """

    def __init__(self, rows: int, limit: int | None = None) -> None:
        self.limit = min(failure_limit(rows), rows - 1) if limit is None else limit
        self.failed: dict[str, int] = {}


def add_on_demand(
    plan: FeaturePlan,
    rows: pl.DataFrame,
    columns: dict[str, pl.Series],
    failed: dict[int, OnDemandError] | None,
    limits: FailureLimits,
) -> None:
    """Adds the features of the plan's on-demand views.

    Args:
        plan: the views.
        rows: the fields of `plan.request`, of their dtypes, and at least one other column.
        columns: column (`view__feature`) → the stored views' features for these rows; the on-demand views'
            features are added.
        failed: as in `join`.
        limits: counts the rows that each function fails on.

    Raises:
        OnDemandError: a function failed; `row` is the index of the row.
    """
    try:
        for view in plan.on_demand:
            values = [
                (rows[s.name] if s.view is None else columns[f"{s.view}__{s.name}"]).to_list()
                for s in view.inputs
            ]
            on_demand = OnDemand(view, plan.input_dtypes)
            if failed is None:
                results = on_demand.compute_columns(values, len(rows))
            else:
                before = limits.failed.get(view.name, 0)
                results, failures = on_demand.compute_valid(values, len(rows), limits.limit, before)
                limits.failed[view.name] = before + len(failures)
                # A row's first error counts: a later function may have read its nulls.
                failed |= failures | failed
            for field, result in zip(view.features, results, strict=True):
                columns[f"{view.name}__{field.name}"] = pl.Series(result, dtype=POLARS[field.dtype])
    except OnDemandError as error:
        if error.row is not None:
            error.what += f"; the label's row is {rows.row(error.row, named=True)}"
        raise


def as_of_rows(view: AsOfView, table: pl.LazyFrame) -> pl.LazyFrame:
    """The visible rows of the view's table: keys, time and features, one row for each key and time.

    In a changelog, the last change of a row counts, and a deleted row becomes a row of nulls. In a topic's
    table, only good rows count. Columns get their names in the view.

    Raises:
        ProjectError: as `check_columns`.
    """
    return unique_rows(view, states(view, table))


def reads_changes(view: AsOfView, table: pl.LazyFrame) -> bool:
    """Whether the rows of the view's table are the changes of a database's rows."""
    return is_changelog(table) and not view.is_current


def states(view: AsOfView, table: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that `as_of_rows` chooses from, with their names in the view."""
    if "_valid" in table.collect_schema():
        table = table.filter("_valid")
    if reads_changes(view, table):
        table = history(table, [view.column(key) for key in view.keys])
    return _rename(view, table)


def unique_rows(view: AsOfView, table: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that have a key and a time, one for each key and time, of the view's types.

    Of several rows with the same key and time, the one that was created last is left, and of these the one with
    the greatest features (null is the smallest, and -0.0 is smaller than 0.0), whatever their order in the
    table.

    Raises:
        ProjectError: as `check_columns`, or a value is not of its field's type.
    """
    keys = list(view.keys)
    check_columns(view, table.collect_schema())
    created = [name for name in table.collect_schema() if name == view.created]
    rows = table.select(
        *keys,
        pl.col(view.time).cast(_INSTANT),
        *(pl.col(field.name).cast(POLARS[field.dtype]) for field in view.features),
        *(pl.col(column).alias(_CREATED) for column in created),
    ).drop_nulls([*keys, view.time])
    with name_value_errors(view, table):
        frame = rows.collect()
    if _has_duplicates(frame, keys, view.time):
        order = [pl.col(_CREATED) for _ in created]
        for field in view.features:
            order += total_order(field.name, field.dtype)
        frame = frame.sort(order, nulls_last=False).unique([*keys, view.time], keep="last")
    return frame.drop(_CREATED for _ in created).lazy()


def _has_duplicates(frame: pl.DataFrame, keys: list[str], time: str) -> bool:
    """Whether rows have the same key and time. Most have a time of their own."""
    ordered = np.sort(frame[time].to_physical().to_numpy())
    shared = pl.Series(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
    if shared.is_empty():
        return False
    tied = frame.select(*keys, time).filter(pl.col(time).to_physical().is_in(shared.implode()))
    return bool(tied.is_duplicated().any())


def _rename(view: AsOfView, table: pl.LazyFrame) -> pl.LazyFrame:
    """Gives the columns of the table their names in the view. A column of the table that has the name of
    another's is left out."""
    if not view.field_mapping:
        return table
    columns = table.collect_schema().names()
    mapped = {column: name for column, name in view.field_mapping.items() if column in columns}
    hidden = set(mapped.values()) - set(mapped)
    return table.drop(name for name in columns if name in hidden).rename(mapped)


def join_as_of(rows: pl.DataFrame, view: AsOfView, table: pl.LazyFrame, *, strict: bool) -> pl.DataFrame:
    """The features of one as-of view for rows that have its keys and `event_timestamp`, in their order."""
    return OrderedRows(rows).join(view, as_of_rows(view, table), strict=strict)


class OrderedRows:
    """Rows and the order of their moments, which every join needs."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows
        self._order = _order_of(rows[MOMENT])

    def join(self, view: AsOfView, visible: pl.LazyFrame, *, strict: bool, delay: int = 0) -> pl.DataFrame:
        """The view's features for each row, in the original order of the rows, from what `as_of_rows` returns.
        A row is visible `delay` microseconds after its time.

        Only keys and times are sorted and joined. A feature is copied once, from where it stands.
        """
        keys = list(view.keys)
        frame = visible.collect()
        order = _order_of(frame[view.time])
        times = frame.select(
            *(pl.col(key).cast(self._rows.schema[key]) for key in keys),
            pl.col(view.time) + timedelta(microseconds=delay),
        )
        joined = (
            self._rows.select(MOMENT, *keys)[self._order]
            .with_columns(pl.Series(_PLACE, self._order))
            .join_asof(
                times[order].with_columns(pl.Series(_VISIBLE, order)),
                left_on=MOMENT,
                right_on=view.time,
                by=keys or None,
                strategy="backward",
                tolerance=None if view.ttl is None else f"{view.ttl - delay}us",
                allow_exact_matches=not strict,
                check_sortedness=False,
            )
        )
        restored = np.empty_like(self._order)
        restored[joined[_PLACE].to_numpy()] = np.arange(len(restored))
        indexes = joined[_VISIBLE].gather(pl.Series(restored))
        return frame.select(pl.col(field.name).gather(indexes) for field in view.features)


def _order_of(times: pl.Series) -> NDArray[np.int64]:
    """The order of instants; of equal ones it is any."""
    return np.argsort(times.to_physical().to_numpy())  # three times as fast as Polars


def convert_labels(labels: pl.DataFrame, plan: FeaturePlan) -> pl.DataFrame:
    """The labels' columns that features are computed from, converted to the plan's dtypes."""
    keys = {
        entity.join_key: [view.name for view in plan.stored if entity.join_key in view.keys]
        for entity in plan.entities
    }
    dtypes = {entity.join_key: POLARS[entity.dtype] for entity in plan.entities}
    dtypes |= {field.name: POLARS[field.dtype] for field in plan.request}
    dtypes[MOMENT] = _INSTANT
    labels_name = f"the labels of model {plan.model!r}" if plan.model else "the labels"
    missing = [name for name in dtypes if name not in labels.columns]
    if missing:
        raise ProjectError(
            f"{labels_name} lack {', '.join(missing)}",
            remedy="They need the keys, event_timestamp, and the request fields that on-demand views read.",
        )
    rows = labels.select(
        _convert(labels[name], dtype, labels_name, keys.get(name)) for name, dtype in dtypes.items()
    )
    if rows[MOMENT].null_count():
        raise ProjectError(
            f"{labels_name} have no event_timestamp in row {rows[MOMENT].is_null().arg_max()}",
            remedy="Leave such rows out, or give them a time.",
        )
    return rows


def _convert(
    column: pl.Series, dtype: pl.DataType, labels_name: str, key_of: Sequence[str] | None = None
) -> pl.Series:
    """Converts the column to the dtype; NaN becomes null. Values that a request could not carry are refused:
    text for a number, 2.5 for a whole number. `key_of`: the views whose key it is; None: it is not a key."""
    if isinstance(dtype, pl.List) and isinstance(column.dtype, pl.List):
        items = column.explode(empty_as_null=False, keep_nulls=False).rename(column.name)
        _convert(items, dtype.inner, labels_name)  # type: ignore[arg-type]  # refuses invalid items
        return column.cast(dtype)
    if column.dtype.is_float():
        column = column.fill_nan(None)
    if column.null_count() == len(column):
        return column.clear(len(column)).cast(dtype)
    invalid = column.drop_nulls()
    if _kind(column.dtype) == _kind(dtype) and (key_of is None or column.dtype != pl.Boolean):
        converted = column.cast(dtype, strict=False)
        if _kind(dtype) != "number" or dtype.is_float():
            return converted  # a whole number too large for a float is rounded, as in a request
        back = converted.cast(column.dtype)
        invalid = column.filter((back != column).fill_null(converted.is_null() & column.is_not_null()))
        if invalid.is_empty():
            return converted
    value = "lists or structs" if column.dtype.is_nested() else repr(invalid[0])
    role = f", a key of {', '.join(map(repr, key_of))}," if key_of else ""
    raise ProjectError(
        f"{column.name!r}{role} is declared as {_NAMES[dtype]}, but {labels_name} have {value}"
        f" ({column.dtype})",
        remedy="Convert the column to a datetime."
        if column.name == MOMENT
        else "Give the request's field, or the entity, the type that the column has, or convert the column.",
    )


def _kind(dtype: pl.DataType) -> str:
    """Values of one kind convert to each other; those of kind "" to nothing."""
    if dtype.is_numeric() or dtype == pl.Boolean:
        return "number"
    if dtype in (pl.Datetime, pl.Date):
        return "time"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    return "bytes" if dtype == pl.Binary else ""
