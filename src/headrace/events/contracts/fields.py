"""The fields of a contract: each annotation as a tree, with the Arrow type of its column.

Three modules build on it: headrace.events.contracts.shape (the structs that bytes decode to),
headrace.events.verdicts.columns (the columns) and headrace.events.contracts.description (the description
that is stored with the topic's table).
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import operator
import types
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import msgspec
import pyarrow as pa
from msgspec import Meta, Struct

from headrace.declare.precision import Precision

__all__ = ["TIMESTAMP", "ContractField", "FieldCategory", "FieldKind", "fields_of", "split_annotation"]

TIMESTAMP = pa.timestamp("us", "UTC")

FieldCategory = Literal["plain", "time", "choice", "decimal", "uuid", "struct", "list", "json"]

_PLAIN: dict[Any, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    dt.date: pa.date32(),
    dt.time: pa.time64("us"),
}


@attrs.frozen
class FieldKind:
    """What an annotation declares, without None and Annotated.

    Attributes:
        category: how values are stored. `plain` values are stored unchanged; `time` is an instant (datetime);
            `choice` is a Literal or Enum of texts or of whole numbers; `decimal` has a precision; types without
            a column type (dicts, unions, Any, structs that contain themselves) are stored as `json`.
        core: the annotation itself.
        arrow_type: the type of the column.
        metas: the Meta and Precision of Annotated.
        fields: the fields of a struct.
        item: the elements of a list, as a field without a name.
    """

    category: FieldCategory
    core: Any
    arrow_type: pa.DataType
    metas: tuple[Any, ...] = ()
    fields: tuple[ContractField, ...] = ()
    item: ContractField | None = None


@attrs.frozen
class ContractField:
    """One field of a contract's struct.

    Attributes:
        name: the field's name, also the column's.
        key: its name in the encoded event (a JSON object).
        kind: what its annotation declares.
        optional: whether None is allowed.
        required: whether it has no default.
        default: the default, or what the default factory makes; msgspec.NODEFAULT if it is required.
    """

    name: str
    key: str
    kind: FieldKind
    optional: bool
    required: bool
    default: Any = msgspec.NODEFAULT

    @property
    def arrow_field(self) -> pa.Field[Any]:
        """The column; every column is nullable in storage."""
        return pa.field(self.name, self.kind.arrow_type)


def fields_of(struct: type[Struct]) -> tuple[ContractField, ...]:
    """The fields of a struct, in its order."""
    return _fields(struct, (struct,))


def _fields(struct: type[Struct], parents: tuple[Any, ...]) -> tuple[ContractField, ...]:
    hints = get_type_hints(struct, include_extras=True)
    fields = []
    for info in msgspec.structs.fields(struct):
        default = info.default
        if info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        kind, optional = _kind(hints[info.name], parents)
        fields.append(ContractField(info.name, info.encode_name, kind, optional, info.required, default))
    return tuple(fields)


def split_annotation(annotation: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Split an annotation.

    Returns:
        The type without Annotated and None; the Meta and Precision of Annotated; whether None is allowed.
    """
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        core, metas, optional = split_annotation(inner)
        return core, (*metas, *(meta for meta in extras if isinstance(meta, (Meta, Precision)))), optional
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        optional = len(members) < len(get_args(annotation))
        if len(members) == 1:
            core, metas, _ = split_annotation(members[0])
            return core, metas, optional
        return functools.reduce(operator.or_, members), (), optional
    return annotation, (), False


def _kind(annotation: Any, parents: tuple[Any, ...]) -> tuple[FieldKind, bool]:
    core, metas, optional = split_annotation(annotation)
    return _kind_of_core(core, metas, parents), optional


def _kind_of_core(core: Any, metas: tuple[Any, ...], parents: tuple[Any, ...]) -> FieldKind:
    if core in _PLAIN:
        return FieldKind("plain", core, _PLAIN[core], metas)
    if core is dt.datetime:
        return FieldKind("time", core, TIMESTAMP, metas)
    if core is Decimal:
        precision = next((meta for meta in metas if isinstance(meta, Precision)), None)
        type_ = pa.string() if precision is None else pa.decimal128(precision.precision, precision.scale)
        return FieldKind("decimal", core, type_, metas)
    if core is uuid.UUID:
        return FieldKind("uuid", core, pa.string(), metas)
    choice_types = {type(value) for value in _choices(core)}
    if choice_types in ({str}, {int}):
        return FieldKind("choice", core, _PLAIN[choice_types.pop()], metas)
    if core is list or get_origin(core) is list:
        item, nullable = _kind((get_args(core) or (Any,))[0], parents)
        if item.category != "json":
            element = ContractField("", "", item, nullable, True)
            return FieldKind("list", core, pa.list_(item.arrow_type), metas, item=element)
    if isinstance(core, type) and issubclass(core, Struct) and core not in parents:
        fields = _fields(core, (*parents, core))
        if fields:
            return FieldKind("struct", core, pa.struct([field.arrow_field for field in fields]), metas, fields)
    if core == float | int or core == Union[int, float]:  # noqa: UP007 - contracts use both spellings
        return FieldKind("plain", float, pa.float64(), metas)
    return FieldKind("json", core, pa.string(), metas)


def _choices(core: Any) -> Iterator[Any]:
    if get_origin(core) is Literal:
        yield from get_args(core)
    elif isinstance(core, type) and issubclass(core, enum.Enum):
        yield from (member.value for member in core)
