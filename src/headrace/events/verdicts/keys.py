"""Keys: an event's key on the log, which chooses its log partition, by the contract's `key`.

The key is the text of the value as its column holds it. So one value has one key, however it is written
(1.10 and "1.1" of a float field) and whichever way the event takes to the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from headrace.declare.event import Contract
from headrace.events.contracts.shape import shape_of
from headrace.events.formats import DECODE_ERRORS, Format, NoEvent
from headrace.events.verdicts.columns import columns_of

__all__ = ["digest_of", "key_of", "key_reader"]


def key_of(value: Any) -> bytes | None:
    """The key that this value of the contract's key field makes; None for none."""
    return None if value is None else str(value).encode("utf-8", "surrogateescape")


def digest_of(raw: bytes) -> bytes:
    """A key for an event that has none: always the same for the same bytes."""
    return hashlib.sha256(raw).digest()[:16]


def key_reader(contract: Contract, format: Format) -> Callable[[Sequence[bytes]], list[bytes | None]]:
    """A function from raw events, however broken, to the key of each.

    Of a key field that is not right, the key is the text of what stands there. None: the contract names no
    key, or the event has no value there that could be read.
    """
    if contract.key is None:
        return lambda values: [None] * len(values)
    shape = shape_of(contract)
    field = next(field for field in shape.fields if field.name == contract.key)
    fields = msgspec.structs.fields(shape.struct(exact=False, instants=format.typed_times))
    type_ = next(declared.type for declared in fields if declared.name == contract.key)
    default = None if field.default is msgspec.NODEFAULT else field.default
    decode = format.decoder(_keyed(field.name, field.key, type_, default), strict=not contract.coerce)
    decode_any = format.decoder(_keyed(field.name, field.key, Any, None), strict=True)

    def key_of_any(raw: bytes) -> bytes | None:
        try:
            return key_of(getattr(decode_any(raw), field.name))
        except (*DECODE_ERRORS, NoEvent):
            return None

    def read(values: Sequence[bytes]) -> list[bytes | None]:
        keys: list[bytes | None] = [None] * len(values)
        places, events = [], []
        for at, raw in enumerate(values):
            try:
                events.append(decode(raw))
                places.append(at)
            except (*DECODE_ERRORS, NoEvent):
                keys[at] = key_of_any(raw)
        columns = columns_of(events, [field], contract)
        for row, (at, value) in enumerate(zip(places, columns.table[field.name].to_pylist(), strict=True)):
            keys[at] = key_of_any(values[at]) if row in columns.broken else key_of(value)
        return keys

    return read


def _keyed(name: str, key: str, type_: Any, default: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct("Keyed", [(name, type_, msgspec.field(name=key, default=default))])
