"""Checks the keys and the request fields that `get_online_features` is given, before Feast converts them.

Feast would ask for 1 in place of 1.5 and True, and for "1", which no row has, in place of 1. Request fields get
the type of the first row's value: 2.5 would reach an on-demand function as 2 beside a 1.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from feast import FeatureService, FeatureView, OnDemandFeatureView, ValueType
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.type_map import feast_value_type_to_python_type
from feast.utils import _get_cached_request_context

from headrace.features.feast.frames import utc
from headrace.features.feast.types import dtype_of
from headrace.features.values.conversion import json_type
from headrace.kernel.errors import CallError

__all__ = ["convert_entity_rows"]

_Rows = Sequence[Mapping[str, Any]] | Mapping[str, Any]

_WHOLE = re.compile(r"-?[0-9]{1,19}")
_NUMBERS = (ValueType.INT64, ValueType.INT32)


def convert_entity_rows(
    registry: Any, project: str, features: list[str] | FeatureService, rows: Any, full_feature_names: bool
) -> list[Any]:
    """Checks that every key and every field of a request has a value of its type, and converts the fields.

    A whole number may be a float (7.0), as pandas has it beside a missing value. A key that is one may also be
    text ("7"), as Feast's command line passes it.

    Args:
        registry, project, features, full_feature_names: see Feast's FeatureStore.get_online_features.
        rows: the entity rows, as it takes them: a list of dicts, or a dict of columns.

    Returns:
        The rows of each call that Feast can answer, with the fields of the request converted to the types that
        their views declare. It is one row a call if a `singleton` view is asked for: of several rows Feast
        would compute the first alone.

    Raises:
        CallError: there are no rows, a key is null or of another type, or a field of the request is missing,
            null or of another type.
    """
    if isinstance(rows, list) and not rows:
        raise CallError("entity_rows is empty", remedy="Give a dict of join keys for each entity.")
    context = _get_cached_request_context(registry, project, features, full_feature_names)
    _check_keys(rows, context[2], context[3], [view for view, _ in context[5]])
    on_demand = [view for view in context[1] if not view.write_to_online_store]  # refused by online_read
    columns: dict[str, list[Any]] = {}
    for view, name, dtype in _request_fields(on_demand):
        role = f"{name!r}, a request field of on-demand view {view!r},"
        values = columns[name] if name in columns else _field_values(rows, name, role, dtype)
        columns[name] = [_convert_field(value, dtype, role, place) for place, value in enumerate(values)]
    if isinstance(rows, Mapping):
        rows = {**rows, **columns}
    else:
        rows = [row | {name: columns[name][place] for name in columns} for place, row in enumerate(rows)]
    is_by_row = any(view.singleton and view.mode == "python" for view in on_demand)
    return _separate_rows(rows) if is_by_row else [rows]


def _check_keys(
    rows: _Rows, join_keys: Mapping[str, str], types: Mapping[str, ValueType], views: Iterable[FeatureView]
) -> None:
    """Raises CallError if a key is null or not of its type.

    Args:
        rows: the entity rows.
        join_keys: name of an entity → its join key.
        types: join key → its type.
        views: the views that are read.
    """
    for name, key in [*((key, key) for key in types), *join_keys.items()]:  # Feast also takes an entity's name
        if key not in types:
            continue
        for place, value in enumerate(_values_of(rows, name)):
            problem = _find_problem(value, types[key])
            if problem:
                readers = [
                    view.projection.name_to_use()
                    for view in views
                    if key in {view.projection.join_key_map.get(column, column) for column in view.join_keys}
                ]
                raise CallError(
                    f"{name!r}, a key of {', '.join(map(repr, readers))}, is {problem} in row {place} of"
                    " entity_rows",
                    remedy=f"It must be {'a whole number' if types[key] in _NUMBERS else 'text'}; leave a row"
                    " without it out.",
                )


def _separate_rows(rows: _Rows) -> list[_Rows]:
    """The rows, each by itself."""
    if not isinstance(rows, Mapping):
        return [[row] for row in rows]
    columns = {name: _items_of(column) for name, column in rows.items()}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:  # which Feast reports
        return [rows]
    return [{name: [values[place]] for name, values in columns.items()} for place in range(lengths.pop())]


def _request_fields(views: Iterable[OnDemandFeatureView]) -> Iterator[tuple[str, str, str]]:
    """The view, the name and the dtype of each field of the views' requests that has a dtype."""
    for view in views:
        for source in view.source_request_sources.values():
            for field in source.schema:
                dtype = dtype_of(field.dtype)
                if dtype is not None:
                    yield view.projection.name_to_use(), field.name, dtype


def _field_values(rows: _Rows, name: str, role: str, dtype: str) -> list[Any]:
    """The values of a field of the request. Raises CallError if a row lacks it."""
    places = [] if isinstance(rows, Mapping) else [i for i, row in enumerate(rows) if name not in row]
    if places or (isinstance(rows, Mapping) and name not in rows):
        given = rows if isinstance(rows, Mapping) else rows[places[0]]
        where = f"row {places[0]} of entity_rows" if places else "entity_rows"
        raise CallError(
            f"{role} is missing in {where}",
            remedy=f"Give it, a {dtype}, in each row; the row has {', '.join(map(str, given))}.",
        )
    return _values_of(rows, name)


def _convert_field(value: Any, dtype: str, role: str, place: int) -> Any:
    """The value of a request field as the endpoint takes it from JSON. Raises CallError for another type."""
    problem = "null"
    if not _is_null(value):
        problem = f"{reprlib.repr(value)} ({type(value).__name__})"
        with suppress(msgspec.ValidationError, OverflowError):
            converted = msgspec.convert(_plain(value, dtype), json_type(dtype))  # type: ignore[arg-type]
            if converted != []:
                return converted
            problem = "an empty list, whose type Feast cannot tell,"
    raise CallError(
        f"{role} is {problem} in row {place} of entity_rows", remedy=f"Give it as {dtype} in each row."
    )


def _plain(value: Any, dtype: str) -> Any:
    """The value without the types of numpy and pandas. A time without a zone is UTC."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item, dtype[5:-1]) for item in value]
    if isinstance(value, np.generic):
        value = pd.Timestamp(value) if isinstance(value, np.datetime64) else value.item()
    if isinstance(value, datetime):
        return utc(value.to_pydatetime(warn=False) if isinstance(value, pd.Timestamp) else value)
    is_whole = dtype == "int64" and isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def _items_of(column: Any) -> list[Any]:
    """The items of a column, as Feast takes it: a list, or its own message."""
    return list(column.val if isinstance(column, RepeatedValue) else column)


def _values_of(rows: _Rows, key: str) -> list[Any]:
    """The values of a key; none if the rows lack it, which Feast itself reports."""
    if isinstance(rows, Mapping):
        values = _items_of(rows.get(key, ()))
    else:
        values = [row[key] for row in rows if key in row]
    return [feast_value_type_to_python_type(v) if isinstance(v, Value) else v for v in values]


def _find_problem(value: Any, value_type: ValueType) -> str:
    """What is wrong with a key; empty if nothing is."""
    if _is_null(value):
        return "null"
    if isinstance(value, np.generic):
        value = value.item()
    if value_type == ValueType.STRING:
        is_valid = isinstance(value, str)
    elif value_type in _NUMBERS:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        is_whole = is_whole or (isinstance(value, float) and value.is_integer())
        is_valid = is_whole or (isinstance(value, str) and _WHOLE.fullmatch(value) is not None)
        is_valid = is_valid and -(2**63) <= int(value) < 2**63
    else:
        is_valid = True
    return "" if is_valid else f"{reprlib.repr(value)} ({type(value).__name__})"


def _is_null(value: Any) -> bool:
    if isinstance(value, np.generic):
        value = value.item()
    return (
        value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    )
