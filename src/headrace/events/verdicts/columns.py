"""From decoded events to columns, and the refusals of values that decoding does not check.

Such a value is refused with its top-level field and its path: a time that cannot be parsed, a number that is
not finite, a decimal with more digits than its column, a text that is not valid UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import cache
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any

import attrs
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.declare.event import Contract
from headrace.events.contracts.fields import TIMESTAMP, ContractField, FieldKind
from headrace.events.contracts.times import parse_times
from headrace.events.formats import numbers
from headrace.events.formats.refusals import MAX_REASON_LENGTH, Refusal

__all__ = ["Columns", "columns_of"]

# In JSON a float that is not finite is written as null, and such a Decimal as its name.
_MAYBE_NOT_FINITE = (b"null", b"NaN", b"Infinity")
_STORE_ERRORS = (
    pa.ArrowException,
    OverflowError,
    UnicodeEncodeError,
    TypeError,
    ValueError,
    RecursionError,
)


@attrs.frozen
class Columns:
    """The contract's fields as a table of n rows, and the rows that are refused.

    Attributes:
        table: the fields; a refused value is null in it.
        refusals: row → its first refusal.
    """

    table: pa.Table
    refusals: dict[int, Refusal]


def columns_of(events: Sequence[Any], fields: Sequence[ContractField], contract: Contract) -> Columns:
    """The columns of decoded events.

    Args:
        events: n structs with these fields, as headrace.events.contracts.shape builds them.
        fields: the fields of the struct.
        contract: the contract, whose rules say how a time is written.
    """
    builder = _ColumnBuilder(contract)
    arrays = [builder.build(field, list(map(attrgetter(field.name), events)), None, "") for field in fields]
    return Columns(
        pa.table(arrays, schema=pa.schema([field.arrow_field for field in fields])), builder.refusals
    )


class _ColumnBuilder:
    """Builds columns from values.

    In all methods `rows` holds the row of each value (None: the rows are 0, 1, ...), and `path` leads from the
    top-level field to the values; it is empty for a top-level field.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.refusals: dict[int, Refusal] = {}

    def build(self, field: ContractField, values: list[Any], rows: Sequence[int] | None, path: str) -> Any:
        """Builds the column of a field's values, and of what lies inside them."""
        path = f"{path}.{field.name}" if field.name else path
        kind = field.kind
        if kind.category == "time":
            return self._build_times(values, rows, path, field.optional)
        if kind.category in ("struct", "list"):
            return self._build_nested(kind, values, rows, path)
        if kind.category != "plain":
            values = [
                None if value is None else self._store(kind, value, at, rows, path)
                for at, value in enumerate(values)
            ]
        array = self._build_plain(values, kind.arrow_type, rows, path)
        if pa.types.is_floating(kind.arrow_type):
            finite = pc.is_finite(array).fill_null(True).to_numpy(zero_copy_only=False)
            for at in np.flatnonzero(finite == 0).tolist():
                self._refuse(at, rows, "out_of_range", path, "it is not a finite number")
        return array

    def _refuse(self, at: int, rows: Sequence[int] | None, code: str, path: str, reason: str) -> None:
        top, _, inner = path[1:].partition(".")
        top, bracket, rest = top.partition("[]")
        place = f"{bracket}{rest}{'.' if inner else ''}{inner}"
        row = at if rows is None else rows[at]
        reason = reason[:MAX_REASON_LENGTH] + (f" (at .{top}{place})" if place else "")
        self.refusals.setdefault(row, Refusal(code, top, reason))

    def _build_times(self, values: list[Any], rows: Sequence[int] | None, path: str, optional: bool) -> Any:
        parsed = parse_times(values, self._contract.time_formats, self._contract.timezone)
        for at, (code, reason) in parsed.errors.items():
            self._refuse(at, rows, code, path, reason)
        if not optional:
            for at in np.flatnonzero(parsed.null).tolist():
                self._refuse(at, rows, "wrong_type", path, "Expected a time, got `null`")
        return pa.array(parsed.micros, mask=parsed.null, type=pa.int64()).cast(TIMESTAMP)

    def _build_nested(self, kind: FieldKind, values: list[Any], rows: Sequence[int] | None, path: str) -> Any:
        """Builds a column of structs or lists: first of the values that are not null, then with the nulls."""
        count = len(values)
        present = [at for at, value in enumerate(values) if value is not None]
        complete = len(present) == count
        if not complete:
            values = [values[at] for at in present]
        if rows is not None or not complete:
            rows = present if rows is None else [rows[at] for at in present]
        if kind.item is None:
            children = [
                self.build(field, list(map(attrgetter(field.name), values)), rows, path)
                for field in kind.fields
            ]
            array: Any = pa.StructArray.from_arrays(
                children, fields=[field.arrow_field for field in kind.fields]
            )
        else:
            lengths = [len(value) for value in values]
            item_rows = [
                at if rows is None else rows[at] for at, length in enumerate(lengths) for _ in range(length)
            ]
            items = self.build(kind.item, list(chain.from_iterable(values)), item_rows, f"{path}[]")
            offsets = pa.array([0, *accumulate(lengths)], pa.int32())
            array = pa.ListArray.from_arrays(offsets, items, type=kind.arrow_type)
        if complete:
            return array
        places, absent = np.zeros(count, np.int64), np.ones(count, bool)
        places[present], absent[present] = np.arange(len(present)), False
        indices: Any = pa.array(places, mask=absent)
        return array.take(indices)

    def _store(self, kind: FieldKind, value: Any, at: int, rows: Sequence[int] | None, path: str) -> Any:
        """Converts a value to what its column stores; None if it cannot be stored."""
        if kind.category == "choice":
            return getattr(value, "value", value)
        if kind.category == "decimal":
            if not value.is_finite():
                self._refuse(at, rows, "out_of_range", path, "it is not a finite number")
                return None
            type_ = kind.arrow_type
            if not isinstance(type_, pa.Decimal128Type):
                return str(value)
            digits = _fit_decimal(value, type_.precision, type_.scale)
            if digits is None:
                self._refuse(at, rows, "out_of_range", path, f"{value} does not fit {type_}")
            return digits
        if kind.category == "uuid":
            return str(value)
        try:
            text = numbers.encode(value)
            if any(word in text for word in _MAYBE_NOT_FINITE) and not _is_finite(value):
                raise ValueError("it holds a number that is not finite")
            return text.decode()
        except _STORE_ERRORS as error:
            self._refuse(at, rows, "out_of_range", path, str(error))
            return None

    def _build_plain(self, values: list[Any], type_: pa.DataType, rows: Sequence[int] | None, path: str) -> Any:
        try:
            array = pa.array(values, type_)
        except _STORE_ERRORS:
            # Rare (a lone surrogate, a decimal of too many digits), so each value is tried by itself.
            for at, value in enumerate(values):
                try:
                    pa.scalar(value, type_)
                except _STORE_ERRORS as error:
                    self._refuse(at, rows, "out_of_range", path, str(error))
                    values[at] = None
            array = pa.array(values, type_)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _fit_decimal(value: Decimal, precision: int, scale: int) -> Decimal | None:
    """The value with `scale` digits after the point; None if it then is not exact, or does not fit `precision`.

    Arrow must not decide this: it crashes on a very small exponent (`1e-999999999`).
    """
    exact, exponent = _rules_of(precision, scale)
    try:
        return value.quantize(exponent, context=exact)
    except (InvalidOperation, Inexact):
        return None


@cache
def _rules_of(precision: int, scale: int) -> tuple[Context, Decimal]:
    return Context(prec=precision, traps=[InvalidOperation, Inexact]), Decimal((0, (1,), -scale))


def _is_finite(value: Any) -> bool:
    """Whether every number in a value is finite: in JSON text others would become null."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Decimal):
        return value.is_finite()
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, msgspec.Struct):
        return all(_is_finite(getattr(value, name)) for name in value.__struct_fields__)
    return not isinstance(value, (list, tuple, set, frozenset)) or all(map(_is_finite, value))
