"""The fields of a contract: what each annotation is, as a tree, and the Arrow type it is stored as.

Everything that a contract's fields decide is read from here: the structs that bytes decode to
(headrace.events.contracts.shape), the columns (headrace.events.verdicts.columns), what is kept of the
contract with its table (headrace.events.contracts.description).
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import operator
import types
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pyarrow as pa
from msgspec import Meta, Struct

from headrace.declare.precision import Precision

__all__ = ["TIMESTAMP", "Field", "Kind", "Sort", "fields_of", "without_none"]

TIMESTAMP = pa.timestamp("us", "UTC")

Sort = Literal["plain", "time", "choice", "decimal", "uuid", "struct", "list", "json"]

_PLAIN: dict[Any, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    dt.date: pa.date32(),
    dt.time: pa.time64("us"),
}


@dataclass(frozen=True)
class Kind:
    """What an annotation is, None and Annotated taken away.

    Attributes:
        sort: `plain` values go into a column as they are; a `time` is an instant (datetime); a `choice`
            is a Literal or Enum of texts or of whole numbers; a `decimal` has its digits; whatever has
            no column of its own (dicts, unions, Any, structs that hold themselves) is kept as `json`.
        core: the annotation itself.
        type: what it is stored as.
        metas: what Annotated said, Meta and Precision.
        fields: of a struct.
        item: of a list: its elements, as a field without a name.
    """

    sort: Sort
    core: Any
    type: pa.DataType
    metas: tuple[Any, ...] = ()
    fields: tuple[Field, ...] = ()
    item: Field | None = None


@dataclass(frozen=True)
class Field:
    """One field of a struct.

    Attributes:
        name: the field's name, also the column's.
        key: its name where the event is encoded (a JSON object).
        kind: what it is.
        optional: None is right.
        required: it has no default.
        default: the default, or msgspec.NODEFAULT; of a factory what it makes.
    """

    name: str
    key: str
    kind: Kind
    optional: bool
    required: bool
    default: Any = msgspec.NODEFAULT

    @property
    def arrow(self) -> pa.Field[Any]:
        """The column; every one is nullable in storage."""
        return pa.field(self.name, self.kind.type)


def fields_of(struct: type[Struct]) -> tuple[Field, ...]:
    """The fields of a struct, in its order."""
    return _fields(struct, (struct,))


def _fields(struct: type[Struct], within: tuple[Any, ...]) -> tuple[Field, ...]:
    hints = get_type_hints(struct, include_extras=True)
    found = []
    for one in msgspec.structs.fields(struct):
        default = one.default
        if one.default_factory is not msgspec.NODEFAULT:
            default = one.default_factory()
        kind, optional = _kind(hints[one.name], within)
        found.append(Field(one.name, one.encode_name, kind, optional, one.required, default))
    return tuple(found)


def without_none(kind: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """The type without Annotated and None, what Annotated said, and whether None was allowed."""
    if get_origin(kind) is Annotated:
        core, metas, optional = without_none(get_args(kind)[0])
        return core, (*metas, *(m for m in get_args(kind)[1:] if isinstance(m, (Meta, Precision)))), optional
    if get_origin(kind) in (Union, types.UnionType):
        rest = [one for one in get_args(kind) if one is not types.NoneType]
        optional = len(rest) < len(get_args(kind))
        if len(rest) == 1:
            core, metas, _ = without_none(rest[0])
            return core, metas, optional
        return functools.reduce(operator.or_, rest), (), optional
    return kind, (), False


def _kind(annotation: Any, within: tuple[Any, ...]) -> tuple[Kind, bool]:
    core, metas, optional = without_none(annotation)
    return _of(core, metas, within), optional


def _of(core: Any, metas: tuple[Any, ...], within: tuple[Any, ...]) -> Kind:
    if core in _PLAIN:
        return Kind("plain", core, _PLAIN[core], metas)
    if core is dt.datetime:
        return Kind("time", core, TIMESTAMP, metas)
    if core is Decimal:
        digits = next((m for m in metas if isinstance(m, Precision)), None)
        type_ = pa.string() if digits is None else pa.decimal128(digits.precision, digits.scale)
        return Kind("decimal", core, type_, metas)
    if core is uuid.UUID:
        return Kind("uuid", core, pa.string(), metas)
    chosen = {type(value) for value in _choices(core)}
    if chosen in ({str}, {int}):
        return Kind("choice", core, _PLAIN[chosen.pop()], metas)
    if core is list or get_origin(core) is list:
        item, nullable = _kind((get_args(core) or (Any,))[0], within)
        if item.sort != "json":
            return Kind("list", core, pa.list_(item.type), metas, item=Field("", "", item, nullable, True))
    if isinstance(core, type) and issubclass(core, Struct) and core not in within:
        fields = _fields(core, (*within, core))
        if fields:
            return Kind("struct", core, pa.struct([one.arrow for one in fields]), metas, fields)
    if core == float | int or core == Union[int, float]:  # noqa: UP007 - both spellings are met in contracts
        return Kind("plain", float, pa.float64(), metas)
    return Kind("json", core, pa.string(), metas)


def _choices(core: Any) -> Iterator[Any]:
    if get_origin(core) is Literal:
        yield from get_args(core)
    elif isinstance(core, type) and issubclass(core, enum.Enum):
        yield from (member.value for member in core)
