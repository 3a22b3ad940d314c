"""Keys: an event's key on the log, which chooses its log partition, by the contract's `key`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.declare.event import Contract
from headrace.events.wires import REFUSES, Wire

__all__ = ["key_name", "key_of", "key_reader"]


def key_name(contract: Contract) -> str | None:
    """The name that the contract's key has in an event; None: events of this topic have no key."""
    names = {f.name: f.encode_name for f in msgspec.structs.fields(contract.struct)}
    return None if contract.key is None else names[contract.key]


def key_of(value: Any) -> bytes | None:
    """The key that this value of the contract's key field makes; None for none."""
    return None if value is None else str(value).encode("utf-8", "surrogateescape")


def key_reader(contract: Contract, wire: Wire) -> Callable[[bytes], bytes]:
    """A function from an event's raw bytes, however broken, to a key that is always the same for them.

    It is the key that `headrace send` gives the event, where the contract names one and the bytes, read as
    the wire says, have it; else a digest of the bytes.
    """
    name = key_name(contract)
    if name is None:
        return _digest
    keyed = msgspec.defstruct("Keyed", [("value", Any, msgspec.field(name=name, default=None))])
    decode = wire.decoder(keyed, strict=False)

    def read(raw: bytes) -> bytes:
        try:
            key = key_of(decode(raw).value)
        except REFUSES:
            key = None
        return _digest(raw) if key is None else key

    return read


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()[:16]
