"""Checks the keys that `get_online_features` asks for, before Feast converts them.

Feast would ask for 1 in place of 1.5 and True, and for "1", which no row has, in place of 1.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureService, ValueType
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.type_map import feast_value_type_to_python_type
from feast.utils import _get_cached_request_context

from headrace.kernel.errors import CallError

__all__ = ["check_entity_rows"]

_WHOLE = re.compile(r"-?[0-9]{1,19}")
_NUMBERS = (ValueType.INT64, ValueType.INT32)


def check_entity_rows(
    registry: Any, project: str, features: list[str] | FeatureService, rows: Any, full_feature_names: bool
) -> None:
    """Checks that every key has a value of its type.

    A whole number may be text ("7"), as Feast's command line passes it, or a float (7.0), as pandas has it
    beside a missing value.

    Args:
        registry, project, features, full_feature_names: see Feast's FeatureStore.get_online_features.
        rows: the entity rows, as it takes them: a list of dicts, or a dict of columns.

    Raises:
        CallError: there are no rows, or a key is null or of another type.
    """
    if isinstance(rows, list) and not rows:
        raise CallError("entity_rows is empty", remedy="Give a dict of join keys for each entity.")
    context = _get_cached_request_context(registry, project, features, full_feature_names)
    join_keys, types, views = context[2], context[3], [view for view, _ in context[5]]
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


def _values_of(rows: Sequence[Mapping[str, Any]] | Mapping[str, Any], key: str) -> list[Any]:
    """The values of a key; none if the rows lack it, which Feast itself reports."""
    if isinstance(rows, Mapping):
        column = rows.get(key, ())
        values = list(column.val if isinstance(column, RepeatedValue) else column)
    else:
        values = [row[key] for row in rows if key in row]
    return [feast_value_type_to_python_type(v) if isinstance(v, Value) else v for v in values]


def _find_problem(value: Any, value_type: ValueType) -> str:
    """What is wrong with a key; empty if nothing is."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return "null"
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
