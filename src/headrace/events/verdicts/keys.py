"""Keys: an event's key on the log, from the contract's `key`. The key chooses the log partition.

A key is the text of the value as its column stores it. So a value has one key, however it is written (1.10 and
"1.1" of a float field) and whichever way the event reaches the log.
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
    """The key of a value of the contract's key field; None for None."""
    return None if value is None else str(value).encode("utf-8", "surrogateescape")


def digest_of(raw: bytes) -> bytes:
    """A key for an event without a key: 16 bytes, always the same for the same event."""
    return hashlib.sha256(raw).digest()[:16]


def key_reader(contract: Contract, format: Format) -> Callable[[Sequence[bytes]], list[bytes | None]]:
    """Builds the function from raw events, valid or not, to their keys.

    If the value of the key field is not valid, the key is its text. The key is None if the contract names no
    key field, or the event has no value in it that can be decoded.
    """
    if contract.key is None:
        return lambda values: [None] * len(values)
    shape = shape_of(contract)
    field = next(field for field in shape.fields if field.name == contract.key)
    struct = shape.build_struct(exact=False, typed_times=format.typed_times)
    type_ = next(info.type for info in msgspec.structs.fields(struct) if info.name == contract.key)
    default = None if field.default is msgspec.NODEFAULT else field.default
    decode = format.decoder(_key_struct(field.name, field.key, type_, default), strict=not contract.coerce)
    decode_any = format.decoder(_key_struct(field.name, field.key, Any, None), strict=True)

    def key_of_any(raw: bytes) -> bytes | None:
        try:
            return key_of(getattr(decode_any(raw), field.name))
        except (*DECODE_ERRORS, NoEvent):
            return None

    def read(values: Sequence[bytes]) -> list[bytes | None]:
        keys: list[bytes | None] = [None] * len(values)
        places, events = [], []
        for place, raw in enumerate(values):
            try:
                events.append(decode(raw))
                places.append(place)
            except (*DECODE_ERRORS, NoEvent):
                keys[place] = key_of_any(raw)
        columns = columns_of(events, [field], contract)
        for row, (place, value) in enumerate(zip(places, columns.table[field.name].to_pylist(), strict=True)):
            keys[place] = key_of_any(values[place]) if row in columns.refusals else key_of(value)
        return keys

    return read


def _key_struct(name: str, key: str, type_: Any, default: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct("Key", [(name, type_, msgspec.field(name=key, default=default))])
