"""A contract's shape: the struct that raw bytes decode to, and the Arrow schema that it becomes.

Both follow from the contract's annotations. The decoded struct differs from the declared one in two
ways: whole numbers are held to 64 bits, which is what a column can store, and times stay as they came,
since they are parsed a column at a time (headrace.events.contracts.times).
"""

from __future__ import annotations

import datetime as dt
import functools
import operator
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pyarrow as pa
from msgspec import Meta, Struct

from headrace.declare.event import Contract
from headrace.events.contracts.fields import TIMESTAMP, Field, fields_of, without_none
from headrace.events.contracts.times import EPOCHS

__all__ = ["CODES", "META", "Shape", "shape_of", "structs_of", "table_schema"]

_META: list[tuple[str, pa.DataType]] = [
    ("_log_partition", pa.int32()),
    ("_log_offset", pa.int64()),
    ("_arrived_at", TIMESTAMP),
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
"""What a topic's table holds beside the contract's fields. `_extra` holds the fields that the contract
does not name, as JSON, null where there are none; `_raw` to `_reason` are null in good rows; `_first_*`
is where a replayed event first stood on the log, null in all others."""

CODES = (
    "not_json", "not_avro", "unknown_schema", "bad_utf8", "missing", "wrong_type", "out_of_range",
    "unknown_value", "bad_time", "naive_time", "future", "late", "duplicate", "too_deep", "extra",
    "upcast_failed", "unwritable",
)  # fmt: skip
"""Why an event is refused."""

_INT64 = (-(2**63), 2**63 - 1)
_AWARE = Annotated[dt.datetime, Meta(tz=True)]


@dataclass(frozen=True)
class Shape:
    """What a contract's events are decoded to, and stored as.

    Attributes:
        declared: the contract's struct, or one of its older ones.
        fields: its fields, in its order.
        texts: how a time comes in JSON: text; or anything, where the contract says that it may be a number.
        refuses: whether a field that it does not name refuses the event.
        checks: whether a struct in it has a `__post_init__`, which an event must pass.
    """

    declared: type[Struct]
    fields: tuple[Field, ...]
    texts: Any
    refuses: bool
    checks: bool

    @property
    def schema(self) -> pa.Schema:
        """The fields as columns, all nullable."""
        return pa.schema([one.arrow for one in self.fields])

    def struct(self, *, exact: bool, instants: bool = False) -> type[Struct]:
        """What the decoder makes.

        Args:
            exact: it takes no field that the contract does not name, at any depth.
            instants: a time may come as anything: as an instant, a number or text.
        """
        return _decoded_struct(self.declared, exact, Any if instants else self.texts, {})


def table_schema(contract: Contract) -> pa.Schema:
    """The schema of the topic's table: the contract's fields, then META; every column nullable."""
    return pa.schema([*list(shape_of(contract).schema), *list(META)])


def shape_of(contract: Contract, declared: type[Struct] | None = None) -> Shape:
    """The shape of a contract; or of another struct that is judged by it."""
    declared = declared or contract.struct
    numbers = any(one in EPOCHS for one in contract.time_formats)
    return Shape(
        declared,
        fields_of(declared),
        Any if numbers else str,
        contract.extra == "forbid" or declared.__struct_config__.forbid_unknown_fields,
        any(hasattr(one, "__post_init__") for one in (declared, *structs_of(fields_of(declared)))),
    )


def structs_of(fields: Sequence[Field]) -> Iterator[type[Struct]]:
    """The structs inside of these fields that are stored as such, at any depth."""
    for one in fields:
        kind = one.kind.item.kind if one.kind.item is not None else one.kind
        if kind.sort == "struct":
            yield kind.core
            yield from structs_of(kind.fields)
        elif kind.item is not None:
            yield from structs_of([kind.item])


def _decoded_struct(
    declared: type[Struct], exact: bool, time: Any, made: dict[type[Struct], type[Struct]]
) -> type[Struct]:
    if declared in made:
        return made[declared]
    inside = {**made, declared: declared}  # one that holds itself is kept as JSON there, as it is declared
    fields: list[tuple[str, Any, Any]] = []
    hints = get_type_hints(declared, include_extras=True)
    for one in msgspec.structs.fields(declared):
        options: dict[str, Any] = {"name": one.encode_name}
        if one.default_factory is not msgspec.NODEFAULT:
            options["default_factory"] = one.default_factory
        elif one.default is not msgspec.NODEFAULT:
            options["default"] = one.default
        fields.append((one.name, _decoded(hints[one.name], exact, time, inside), msgspec.field(**options)))
    config = declared.__struct_config__
    return msgspec.defstruct(
        declared.__name__,
        fields,
        kw_only=not config.array_like,
        gc=False,  # a struct decoded from bytes holds no cycle; a million need not be walked
        tag=config.tag,
        tag_field=config.tag_field,
        array_like=config.array_like,
        forbid_unknown_fields=exact or config.forbid_unknown_fields,
    )


def _decoded(annotation: Any, exact: bool, time: Any, made: dict[type[Struct], type[Struct]]) -> Any:
    """A field's type as the decoder sees it."""
    core, metas, _ = without_none(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if core is dt.datetime and origin is Annotated:
        return _decoded(arguments[0], exact, time, made)
    if core is int and origin is Annotated:
        bounds = _bounds([one for one in metas if isinstance(one, Meta)])
        return typing.cast(Any, Annotated[(arguments[0], *arguments[1:], *bounds)])
    if origin is Annotated:
        inner = _decoded(arguments[0], exact, time, made)
        return typing.cast(Any, Annotated[(inner, *arguments[1:])])
    if origin in (Union, types.UnionType):
        if len([one for one in arguments if one is not types.NoneType]) > 1:
            time = _AWARE  # kept as JSON
        return functools.reduce(operator.or_, (_decoded(one, exact, time, made) for one in arguments))
    if origin is list:
        return typing.cast(Any, list)[_decoded(arguments[0], exact, time, made)]
    if origin is dict:
        return typing.cast(Any, dict)[arguments[0], _decoded(arguments[1], exact, _AWARE, made)]
    if annotation is dt.datetime:
        return time
    if annotation is dt.time:
        return Annotated[dt.time, Meta(tz=False)]
    if annotation is int:
        return Annotated[int, Meta(ge=_INT64[0], le=_INT64[1])]
    if isinstance(annotation, type) and issubclass(annotation, Struct) and time is not _AWARE:
        return _decoded_struct(annotation, exact, time, made)
    return annotation


def _bounds(metas: Sequence[Meta]) -> list[Meta]:
    """The bounds of 64 bits that the given ones leave open."""
    low = any(m.ge is not None or m.gt is not None for m in metas)
    high = any(m.le is not None or m.lt is not None for m in metas)
    return [*([] if low else [Meta(ge=_INT64[0])]), *([] if high else [Meta(le=_INT64[1])])]
