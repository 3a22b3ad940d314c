"""Converts values to a declared dtype: from JSON, for an on-demand function, and from its results.

A conversion neither loses nor guesses anything.

A value is **missing** if it is null, NaN or infinite. Infinity comes from a division by zero, and no model
can learn from it: XGBoost refuses it in training but would score it in serving.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import GenericAlias
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
from msgspec import Meta

from headrace.features.plan import Dtype, PlanField

__all__ = ["converter", "decode_fields", "input_cleaner", "json_type"]

_JSON: dict[str, Any] = {
    "int64": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "float64": float,
    "string": str,
    "bool": bool,
    "timestamp": Annotated[datetime, Meta(tz=True)],
    "bytes": bytes,  # base64
}


def json_type(dtype: Dtype) -> Any:
    """The type for msgspec to decode a value of this dtype. A timestamp must have an offset."""
    item = _item(dtype)
    return _JSON[dtype] if item is None else GenericAlias(list, (_JSON[item],))


def decode_fields(fields: Iterable[PlanField], values: Mapping[str, Any]) -> dict[str, Any]:
    """Decodes the fields of a logged request; a field that it lacks is None.

    Raises:
        msgspec.ValidationError: a value is not of its field's dtype.
    """
    return {
        field.name: None
        if values.get(field.name) is None
        else msgspec.convert(values[field.name], json_type(field.dtype))
        for field in fields
    }


def input_cleaner(dtype: Dtype) -> Callable[[Any], Any] | None:
    """A function that normalizes an input of an on-demand function; None if inputs of this dtype need none.

    A float that is NaN or infinite becomes None. A timestamp becomes UTC. A list is copied, so that a function
    that changes it changes neither the next function's input nor the log.
    """
    if dtype == "float64":
        return _finite
    if dtype == "timestamp":
        return lambda value: None if value is None else value.astimezone(UTC)
    if dtype == "list[timestamp]":
        return lambda value: None if value is None else [item and item.astimezone(UTC) for item in value]
    if dtype.startswith("list["):
        return lambda value: None if value is None else list(value)
    return None


def converter(dtype: Dtype) -> Callable[[Any], Any]:
    """A function that converts the result of an on-demand function to this dtype: None, int, float, bool,
    str, bytes, a UTC datetime, or a list of them.

    None, NaN and pandas' NA and NaT become None. Numbers are converted if nothing is lost: 3.0 is a whole
    number, 3.5 is not; 0 is a float; 1 is true. An infinite float stays infinite.

    The converter raises ValueError for any other value.
    """
    item = _item(dtype)
    if item is None:
        return _CONVERTERS[dtype]
    convert = _CONVERTERS[item]

    def convert_list(value: Any) -> list[Any] | None:
        if isinstance(value, (list, tuple, np.ndarray)):
            return [convert(item) for item in value]
        return None if _plain(value) is None else _refuse(value)

    return convert_list


def _item(dtype: str) -> str | None:
    """The dtype of a list's items; None for a dtype that is not a list."""
    return dtype[5:-1] if dtype.startswith("list[") else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """The scalar as a plain Python value; None for NaN, NA and NaT."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' types; pandas is not imported here
        return None
    return None if isinstance(value, float) and value != value else value


def _refuse(value: Any) -> NoReturn:
    raise ValueError(reprlib.repr(value))


def _to_int(value: Any) -> int | None:
    if type(value) is not int:
        value = _plain(value)
        if value is None:
            return None
        if isinstance(value, float) and not value.is_integer():
            _refuse(value)
        if not isinstance(value, (int, float)):
            _refuse(value)
        value = int(value)
    number: int = value
    return number if -(2**63) <= number < 2**63 else _refuse(value)


def _to_float(value: Any) -> float | None:
    if type(value) is float:
        return value if value == value else None
    value = _plain(value)
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int) and abs(value) < 2**1023 and float(value) == value:
        return float(value)
    _refuse(value)


def _to_bool(value: Any) -> bool | None:
    if type(value) is bool:
        return value
    value = _plain(value)
    if value is None:
        return None
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else _refuse(value)


def _to_text(value: Any) -> str | None:
    value = _plain(value)
    return value if value is None or isinstance(value, str) else _refuse(value)


def _to_bytes(value: Any) -> bytes | None:
    value = _plain(value)
    return value if value is None or isinstance(value, bytes) else _refuse(value)


def _to_timestamp(value: Any) -> datetime | None:
    value = _plain(value)
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        _refuse(value)
    # A pandas.Timestamp has nanoseconds, but a feature's timestamp has only microseconds.
    plain: datetime = value.to_pydatetime(warn=False) if hasattr(value, "to_pydatetime") else value
    try:
        return plain.astimezone(UTC)
    except OverflowError:  # out of datetime's range
        _refuse(value)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "int64": _to_int,
    "float64": _to_float,
    "bool": _to_bool,
    "string": _to_text,
    "timestamp": _to_timestamp,
    "bytes": _to_bytes,
}
