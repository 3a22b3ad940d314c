"""A contract's shape: the struct that raw bytes decode to, and the Arrow columns it becomes.

Both follow from the contract's annotations. The decoded struct differs from the declared one in two
ways: whole numbers are held to 64 bits, which is what a column can store, and times stay text, since
they are parsed a column at a time (headrace.events.times).
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import operator
import types
import typing
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pyarrow as pa
from msgspec import Meta, Struct

from headrace.declare.event import CHANGE_COLUMNS, Contract
from headrace.events.row_types import settled_type

__all__ = ["CODES", "META", "TIMESTAMP", "Column", "Shape", "shape_of", "table_schema"]

TIMESTAMP = pa.timestamp("us", "UTC")

_META: list[tuple[str, pa.DataType]] = [
    ("_log_partition", pa.int32()),
    ("_log_offset", pa.int64()),
    ("_arrived_at", TIMESTAMP),
    ("_valid", pa.bool_()),
    ("_raw", pa.binary()),
    ("_code", pa.string()),
    ("_field", pa.string()),
    ("_reason", pa.string()),
    ("_first_partition", pa.int32()),
    ("_first_offset", pa.int64()),
]
META = pa.schema(_META)
"""What a topic's table holds beside the contract's fields. `_raw` to `_reason` are null in good rows;
`_first_*` is where a replayed event first stood on the log, null in all others."""

CODES = (
    "not_json", "bad_utf8", "missing", "wrong_type", "out_of_range", "unknown_value", "bad_time",
    "naive_time", "future", "duplicate", "too_deep", "extra",
)  # fmt: skip
"""Why an event is refused."""

_INT64 = (-(2**63), 2**63 - 1)
_PLAIN: dict[Any, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    dt.datetime: TIMESTAMP,
    dt.date: pa.date32(),
}


_CHANGE: dict[str, tuple[Any, pa.DataType]] = dict(
    zip(
        CHANGE_COLUMNS,
        [
            (str | None, pa.string()),
            (int | None, pa.int64()),
            (int | None, TIMESTAMP),
            (int | None, pa.int64()),
            (str | None, pa.string()),
            (list[str] | None, pa.list_(pa.string())),
        ],
        strict=True,
    )
)


@dataclass(frozen=True)
class Column:
    """One field of the contract as a column.

    Attributes:
        name: the field's name, also the column's.
        key: its name in the JSON object.
        type: the column's type. A field that is no plain value or list of them is kept as JSON text.
        empty_is_null: an optional field of another type than text: `""` is taken for null, where the
            contract coerces.
        values: from the decoded structs to what `pa.array(..., type)` takes; for a time, its text.
        settle: of a database's row: what makes the field's value of what was decoded (row_types).
    """

    name: str
    key: str
    type: pa.DataType
    empty_is_null: bool
    values: Callable[[Sequence[Any]], list[Any]]
    settle: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Shape:
    """The decoder's struct and the columns, in the contract's order.

    Attributes:
        checks: the declared struct, where it has a `__post_init__` that an event must pass.
        exact: `struct` that takes no field the contract does not name.
    """

    struct: type[Struct]
    columns: tuple[Column, ...]
    checks: type[Struct] | None
    exact: type[Struct]

    @property
    def schema(self) -> pa.Schema:
        """The contract's fields, all nullable."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])


def table_schema(contract: Contract) -> pa.Schema:
    """The schema of the topic's table: the contract's fields, then META; every column nullable."""
    return pa.schema([*list(shape_of(contract).schema), *list(META)])


def shape_of(contract: Contract) -> Shape:
    """The shape of a contract."""
    declared = contract.struct
    hints = get_type_hints(declared, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    columns: list[Column] = []
    for field in msgspec.structs.fields(declared):
        kind = hints[field.name]
        options: dict[str, Any] = {"name": field.encode_name}
        if field.default_factory is not msgspec.NODEFAULT:
            options["default_factory"] = field.default_factory
        elif field.default is not msgspec.NODEFAULT:
            is_text = isinstance(field.default, dt.datetime) and not contract.row_key
            options["default"] = field.default.isoformat() if is_text else field.default
        decoded, settle = _decoded(kind), None
        if contract.row_key:
            decoded, settle = settled_type(decoded, _core(kind)[0])
        fields.append((field.name, decoded, msgspec.field(**options)))
        columns.append(replace(_column(field.name, field.encode_name, kind), settle=settle))
    for name, (kind, type_) in _CHANGE.items() if contract.row_key else ():
        fields.append((name, kind, None))
        columns.append(replace(_column(name, name, kind), type=type_))
    config = declared.__struct_config__

    def made(*, exact: bool) -> type[Struct]:
        return msgspec.defstruct(
            declared.__name__,
            fields,
            kw_only=True,
            gc=False,  # a struct decoded from JSON holds no cycle; a million need not be walked
            tag=config.tag,
            tag_field=config.tag_field,
            forbid_unknown_fields=exact,
        )

    exact = made(exact=True)
    refuses = contract.extra == "refuse" or config.forbid_unknown_fields
    checks = declared if hasattr(declared, "__post_init__") else None
    return Shape(exact if refuses else made(exact=False), tuple(columns), checks, exact)


def _column(name: str, key: str, kind: Any) -> Column:
    core, optional = _core(kind)
    type_, convert = _storage(core)
    get = attrgetter(name)

    def values(events: Sequence[Any]) -> list[Any]:
        plain = map(get, events)
        return list(plain) if convert is None else [None if v is None else convert(v) for v in plain]

    return Column(name, key, type_, optional and core is not str, values)


def _storage(core: Any) -> tuple[pa.DataType, Callable[[Any], Any] | None]:
    """The column's type for a field's, and what makes one of the other where Arrow cannot."""
    if core in _PLAIN:
        return _PLAIN[core], None
    if get_origin(core) is Literal:
        kinds = {type(value) for value in get_args(core)}
        if len(kinds) == 1 and kinds <= {str, int}:
            return _PLAIN[kinds.pop()], None
    if isinstance(core, type) and issubclass(core, enum.Enum):
        kinds = {type(member.value) for member in core}
        if len(kinds) == 1 and kinds <= {str, int}:
            return _PLAIN[kinds.pop()], attrgetter("value")
    if core in (Decimal, uuid.UUID):
        return pa.string(), str
    if get_origin(core) is list or core is list:
        inner, _ = _core(get_args(core)[0]) if get_args(core) else (Any, True)
        if inner in (bool, int, float, str):
            return pa.list_(_PLAIN[inner]), None
    if core == float | int or core == Union[int, float]:  # noqa: UP007 - both spellings are met in contracts
        return pa.float64(), None
    return pa.string(), _json


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _core(kind: Any) -> tuple[Any, bool]:
    """The type without Annotated and None, and whether None was allowed."""
    if get_origin(kind) is Annotated:
        return _core(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        rest = [one for one in get_args(kind) if one is not types.NoneType]
        optional = len(rest) < len(get_args(kind))
        if len(rest) == 1:
            return _core(rest[0])[0], optional
        return functools.reduce(operator.or_, (_core(one)[0] for one in rest)), optional
    return kind, False


def _decoded(kind: Any) -> Any:
    """The field's type as the decoder sees it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner = _core(arguments[0])[0]
        if inner is dt.datetime:
            return _decoded(arguments[0])
        if inner is int:
            metas = [m for m in arguments[1:] if isinstance(m, Meta)]
            return typing.cast(Any, Annotated[(arguments[0], *arguments[1:], *_bounds(metas))])
        return kind
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, (_decoded(one) for one in arguments))
    if origin is list:
        inner = _core(arguments[0])[0]
        return list[_decoded(arguments[0])] if inner is int else kind  # type: ignore[misc]
    if kind is dt.datetime:
        return str
    if kind is int:
        return Annotated[int, Meta(ge=_INT64[0], le=_INT64[1])]
    return kind


def _bounds(metas: Sequence[Meta]) -> list[Meta]:
    """The bounds of 64 bits that the given ones leave open."""
    low = any(m.ge is not None or m.gt is not None for m in metas)
    high = any(m.le is not None or m.lt is not None for m in metas)
    return [*([] if low else [Meta(ge=_INT64[0])]), *([] if high else [Meta(le=_INT64[1])])]
