"""A contract's shape: the struct that raw bytes decode to, and the Arrow schema of its columns.

Both follow from the contract's annotations. The decoded struct differs from the declared one in two ways:
whole numbers are bounded to 64 bits, which is what a column can store, and times are not parsed, since they
are parsed a column at a time (headrace.events.contracts.times).
"""

from __future__ import annotations

import datetime as dt
import functools
import operator
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import attrs
import msgspec
import pyarrow as pa
from msgspec import Meta, Struct

from headrace.declare.event import Contract
from headrace.events.contracts.fields import TIMESTAMP, ContractField, fields_of, split_annotation
from headrace.events.contracts.times import EPOCH_FORMATS

__all__ = ["CODES", "KNOWN_AT", "META", "Shape", "shape_of", "structs_of", "table_schema"]

KNOWN_AT = "_known_at"
_META: list[tuple[str, pa.DataType]] = [
    ("_log_partition", pa.int32()),
    ("_log_offset", pa.int64()),
    ("_arrived_at", TIMESTAMP),
    (KNOWN_AT, TIMESTAMP),
    ("_valid", pa.bool_()),
    ("_extra", pa.string()),
    ("_raw", pa.binary()),
    ("_code", pa.string()),
    ("_field", pa.string()),
    ("_reason", pa.string()),
    ("_first_partition", pa.int32()),
    ("_first_offset", pa.int64()),
]
META = pa.schema(_META)
"""The columns of a topic's table beside the contract's fields. `_extra` holds the fields that the contract
does not name, as JSON, and is null if there are none; `_raw` to `_reason` are null in good rows; `_first_*` is
the log position at which a replayed event was first appended, and null for all other events. `_known_at` is
the instant from which serving could know the event: its arrival, or, for an event loaded as history, its own
time. It is null for a refused event of history, whose time may not be readable."""

CODES = {
    "not_json": "it is not valid JSON",
    "not_avro": "it is not valid Avro, or has no schema's id",
    "unknown_schema": "the schema registry has no schema of its id",
    "bad_utf8": "it is not valid UTF-8",
    "missing": "a required field is missing",
    "wrong_type": "a value has another type than the field",
    "out_of_range": "a value, a length or a time lies outside the field's range",
    "unknown_value": "a value is not one of those that the field allows",
    "bad_time": "a text is not a time in a format that the contract reads",
    "naive_time": "a time has no time zone, and the contract names none (`timezone`)",
    "future": "its time lies further ahead of its arrival than `max_ahead`",
    "late": "its time lies further before its arrival than `max_late`",
    "duplicate": "an event with the same `identity` was admitted within `dedup_within`, or its replay was",
    "too_deep": "it is nested too deeply",
    "extra": "it has a field that the contract does not name, and `extra` is `forbid`",
    "upcast_failed": "a function of `upcasters` failed, or what it returned does not match the contract",
    "unwritable": "a bug keeps it from being judged or stored; replay it after the bug is fixed",
}
"""Code of a refused event → why it is refused."""

_INT64 = (-(2**63), 2**63 - 1)
_AWARE = Annotated[dt.datetime, Meta(tz=True)]


@attrs.frozen
class Shape:
    """The structs that a contract's events are decoded to, and the columns they are stored in.

    Attributes:
        struct: the contract's struct, or an older version of it.
        fields: its fields, in its order.
        time_type: how a time is decoded from JSON: as text, or Any if the contract allows a number.
        forbids_extra: whether an event is refused for a field that the struct does not name.
        has_checks: whether a struct in it has a `__post_init__`, which an event must pass.
    """

    struct: type[Struct]
    fields: tuple[ContractField, ...]
    time_type: Any
    forbids_extra: bool
    has_checks: bool

    @property
    def schema(self) -> pa.Schema:
        """The fields as columns, all nullable."""
        return pa.schema([field.arrow_field for field in self.fields])

    def build_struct(self, *, exact: bool, typed_times: bool = False) -> type[Struct]:
        """Builds the struct that a decoder makes.

        Args:
            exact: whether it refuses fields that the contract does not name, at any depth.
            typed_times: whether a time may be a datetime or a number too (Format.typed_times).
        """
        return _build_struct(self.struct, exact, Any if typed_times else self.time_type, {})


def table_schema(contract: Contract) -> pa.Schema:
    """The schema of the topic's table: the contract's fields, then META; every column nullable."""
    return pa.schema([*list(shape_of(contract).schema), *list(META)])


def shape_of(contract: Contract, struct: type[Struct] | None = None) -> Shape:
    """The shape of a contract; or of another struct under the contract's rules."""
    struct = struct or contract.struct
    fields = fields_of(struct)
    return Shape(
        struct,
        fields,
        Any if any(name in EPOCH_FORMATS for name in contract.time_formats) else str,
        contract.extra == "forbid" or struct.__struct_config__.forbid_unknown_fields,
        any(hasattr(part, "__post_init__") for part in (struct, *structs_of(fields))),
    )


def structs_of(fields: Sequence[ContractField]) -> Iterator[type[Struct]]:
    """The structs in these fields that are stored as struct columns, at any depth."""
    for field in fields:
        kind = field.kind.item.kind if field.kind.item is not None else field.kind
        if kind.category == "struct":
            yield kind.core
            yield from structs_of(kind.fields)
        elif kind.item is not None:
            yield from structs_of([kind.item])


def _build_struct(
    struct: type[Struct], exact: bool, time_type: Any, parents: Mapping[type[Struct], type[Struct]]
) -> type[Struct]:
    if struct in parents:
        return parents[struct]
    parents = {**parents, struct: struct}  # a struct that contains itself is stored as JSON, so it stays as is
    fields: list[tuple[str, Any, Any]] = []
    hints = get_type_hints(struct, include_extras=True)
    for info in msgspec.structs.fields(struct):
        options: dict[str, Any] = {"name": info.encode_name}
        if info.default_factory is not msgspec.NODEFAULT:
            options["default_factory"] = info.default_factory
        elif info.default is not msgspec.NODEFAULT:
            options["default"] = info.default
        type_ = _build_type(hints[info.name], exact, time_type, parents)
        fields.append((info.name, type_, msgspec.field(**options)))
    config = struct.__struct_config__
    return msgspec.defstruct(
        struct.__name__,
        fields,
        kw_only=not config.array_like,
        gc=False,  # a struct decoded from bytes holds no cycle, and the collector need not walk a million
        tag=config.tag,
        tag_field=config.tag_field,
        array_like=config.array_like,
        forbid_unknown_fields=exact or config.forbid_unknown_fields,
    )


def _build_type(
    annotation: Any, exact: bool, time_type: Any, parents: Mapping[type[Struct], type[Struct]]
) -> Any:
    """Builds the type of a field in the decoded struct."""
    core, metas, _ = split_annotation(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if core is dt.datetime and origin is Annotated:
        return _build_type(arguments[0], exact, time_type, parents)
    if core is int and origin is Annotated:
        bounds = _int64_bounds([meta for meta in metas if isinstance(meta, Meta)])
        return typing.cast(Any, Annotated[(arguments[0], *arguments[1:], *bounds)])
    if origin is Annotated:
        inner = _build_type(arguments[0], exact, time_type, parents)
        return typing.cast(Any, Annotated[(inner, *arguments[1:])])
    if origin in (Union, types.UnionType):
        if len([member for member in arguments if member is not types.NoneType]) > 1:
            time_type = _AWARE  # stored as JSON
        members = (_build_type(member, exact, time_type, parents) for member in arguments)
        return functools.reduce(operator.or_, members)
    if origin is list:
        return typing.cast(Any, list)[_build_type(arguments[0], exact, time_type, parents)]
    if origin is dict:
        return typing.cast(Any, dict)[arguments[0], _build_type(arguments[1], exact, _AWARE, parents)]
    if annotation is dt.datetime:
        return time_type
    if annotation is dt.time:
        return Annotated[dt.time, Meta(tz=False)]
    if annotation is int:
        return Annotated[int, Meta(ge=_INT64[0], le=_INT64[1])]
    if isinstance(annotation, type) and issubclass(annotation, Struct) and time_type is not _AWARE:
        return _build_struct(annotation, exact, time_type, parents)
    return annotation


def _int64_bounds(metas: Sequence[Meta]) -> list[Meta]:
    """The bounds of 64 bits, for the ends that the contract's bounds leave open."""
    low = any(meta.ge is not None or meta.gt is not None for meta in metas)
    high = any(meta.le is not None or meta.lt is not None for meta in metas)
    return [*([] if low else [Meta(ge=_INT64[0])]), *([] if high else [Meta(le=_INT64[1])])]
