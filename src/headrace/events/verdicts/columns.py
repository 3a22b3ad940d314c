"""From decoded events to columns, and what is wrong with some values that decoding does not see.

A value is refused with its top field and the path to it: a time that cannot be read, a number that is not
finite, a decimal with more digits than its column, a text that is no UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.declare.event import Contract
from headrace.events.contracts.fields import TIMESTAMP, Field, Kind
from headrace.events.contracts.times import parse_times
from headrace.events.formats import numbers
from headrace.events.formats.refusals import MAX_REASON_LENGTH, Refusal

__all__ = ["Columns", "columns_of"]

# How a float that is not finite is written, and how such a Decimal is.
_MAYBE_NOT_FINITE = (b"null", b"NaN", b"Infinity")
_UNFIT = (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True)
class Columns:
    """The contract's fields as a table of n rows, and row → what is wrong with it.

    What is wrong is null in the table.
    """

    table: pa.Table
    broken: dict[int, Refusal]


def columns_of(events: Sequence[Any], fields: Sequence[Field], contract: Contract) -> Columns:
    """The columns of decoded events.

    Args:
        events: n structs with these fields, as headrace.events.contracts.shape makes them.
        fields: the struct's.
        contract: how a time is spelled.
    """
    making = _Making(contract)
    arrays = [making.array(one, list(map(attrgetter(one.name), events)), None, "") for one in fields]
    return Columns(pa.table(arrays, schema=pa.schema([one.arrow for one in fields])), making.broken)


@dataclass
class _Making:
    contract: Contract
    broken: dict[int, Refusal] = field(default_factory=dict)

    def array(self, one: Field, values: list[Any], rows: Sequence[int] | None, path: str) -> Any:
        """A column of values, and of what lies inside them.

        Args:
            one: the field.
            values: its values.
            rows: the row of each; None: they are those of the rows 0, 1, ...
            path: where they lie, from the top field on; empty for a top field.
        """
        path = f"{path}.{one.name}" if one.name else path
        kind = one.kind
        if kind.sort == "time":
            return self._times(values, rows, path, one.optional)
        if kind.sort in ("struct", "list"):
            return self._nested(kind, values, rows, path)
        if kind.sort != "plain":
            values = [
                None if v is None else self._stored(kind, v, at, rows, path) for at, v in enumerate(values)
            ]
        array = self._plain(values, kind.type, rows, path)
        if pa.types.is_floating(kind.type):
            finite = pc.is_finite(array).fill_null(True).to_numpy(zero_copy_only=False)
            for at in np.flatnonzero(finite == 0).tolist():
                self._refuse(at, rows, "out_of_range", path, "it is not a finite number")
        return array

    def _refuse(self, at: int, rows: Sequence[int] | None, code: str, path: str, why: str) -> None:
        top, _, inside = path[1:].partition(".")
        top, bracket, rest = top.partition("[]")
        where = f"{bracket}{rest}{'.' if inside else ''}{inside}"
        row = at if rows is None else rows[at]
        why = why[:MAX_REASON_LENGTH] + (f" (at .{top}{where})" if where else "")
        self.broken.setdefault(row, Refusal(code, top, why))

    def _times(self, values: list[Any], rows: Sequence[int] | None, path: str, optional: bool) -> Any:
        parsed = parse_times(values, self.contract.time_formats, self.contract.timezone)
        for at, (code, reason) in parsed.broken.items():
            self._refuse(at, rows, code, path, reason)
        if not optional:
            for at in np.flatnonzero(parsed.null).tolist():
                self._refuse(at, rows, "wrong_type", path, "Expected a time, got `null`")
        return pa.array(parsed.micros, mask=parsed.null, type=pa.int64()).cast(TIMESTAMP)

    def _nested(self, kind: Kind, values: list[Any], rows: Sequence[int] | None, path: str) -> Any:
        """A struct's or list's column: those that are there, and then nulls in between."""
        n = len(values)
        there = [at for at, one in enumerate(values) if one is not None]
        whole = len(there) == n
        if not whole:
            values = [values[at] for at in there]
        if rows is not None or not whole:
            rows = there if rows is None else [rows[at] for at in there]
        if kind.item is None:
            children = [
                self.array(one, list(map(attrgetter(one.name), values)), rows, path) for one in kind.fields
            ]
            array: Any = pa.StructArray.from_arrays(children, fields=[one.arrow for one in kind.fields])
        else:
            lengths = [len(one) for one in values]
            inner = [at if rows is None else rows[at] for at, n in enumerate(lengths) for _ in range(n)]
            items = self.array(kind.item, list(chain.from_iterable(values)), inner, f"{path}[]")
            offsets = pa.array([0, *accumulate(lengths)], pa.int32())
            array = pa.ListArray.from_arrays(offsets, items, type=kind.type)
        if whole:
            return array
        places, absent = np.zeros(n, np.int64), np.ones(n, bool)
        places[there], absent[there] = np.arange(len(there)), False
        taken: Any = pa.array(places, mask=absent)
        return array.take(taken)

    def _stored(self, kind: Kind, value: Any, at: int, rows: Sequence[int] | None, path: str) -> Any:
        """The value as its column takes it; None where it cannot be stored."""
        if kind.sort == "choice":
            return getattr(value, "value", value)
        if kind.sort == "decimal":
            if not value.is_finite():
                self._refuse(at, rows, "out_of_range", path, "it is not a finite number")
                return None
            return value if pa.types.is_decimal(kind.type) else str(value)
        if kind.sort == "uuid":
            return str(value)
        try:
            text = numbers.encode(value)
            if any(word in text for word in _MAYBE_NOT_FINITE) and not _finite(value):
                raise ValueError("it holds a number that is not finite")
            return text.decode()
        except _UNFIT as error:
            self._refuse(at, rows, "out_of_range", path, str(error))
            return None

    def _plain(self, values: list[Any], type_: pa.DataType, rows: Sequence[int] | None, path: str) -> Any:
        try:
            array = pa.array(values, type_)
        except _UNFIT:
            # Rare enough to be found one by one: a lone surrogate, a decimal of too many digits.
            for at, value in enumerate(values):
                try:
                    pa.scalar(value, type_)
                except _UNFIT as error:
                    self._refuse(at, rows, "out_of_range", path, str(error))
                    values[at] = None
            array = pa.array(values, type_)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _finite(value: Any) -> bool:
    """Whether every number in it is finite: in JSON text others would become null."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Decimal):
        return value.is_finite()
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, msgspec.Struct):
        return all(_finite(getattr(value, name)) for name in value.__struct_fields__)
    return not isinstance(value, (list, tuple, set, frozenset)) or all(map(_finite, value))
