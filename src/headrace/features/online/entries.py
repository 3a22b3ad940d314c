"""The state of one entity in an as-of view: the rows that a lookup can still see, packed as MessagePack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.features.online.keys import array_head
from headrace.features.online.tiles import SETTLED
from headrace.features.plan import AsOfView

__all__ = [
    "PUSHED",
    "Entry",
    "merge_entries",
    "pack_entries",
    "select_pushed",
    "unpack_entries",
    "unpack_joined_entries",
]

Entry = tuple[int, int | None, list[Any]]
"""A row: its time (microseconds), the snapshot that it was read from (None if it was pushed), its features."""

PUSHED = b"\xdd"
"""The first byte of a packed state that has pushed rows: a database finds these without reading others. It
begins MessagePack's longest form of an array, which no encoder chooses for so few items."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode
_decode_joined = msgspec.msgpack.Decoder(list[list[Entry] | None]).decode


def pack_entries(entries: list[Entry]) -> bytes:
    """Packs entries, in order of time."""
    for _, snapshot, _ in entries:
        if snapshot is None:
            return PUSHED + len(entries).to_bytes(4, "big") + b"".join(map(_encode, entries))
    return _encode(entries)


def unpack_entries(packed: bytes) -> list[Entry]:
    """Unpacks the entries that `pack_entries` packed. Raises msgspec.DecodeError for any other bytes."""
    return _decode(packed)


def unpack_joined_entries(packed: bytes, count: int) -> list[list[Entry] | None]:
    """Unpacks the joined states (database.join_states) of `count` entities; None for one without a state."""
    return _decode_joined(array_head(count) + packed)


def select_pushed(packed: bytes) -> list[Entry]:
    """The pushed entries among the packed ones; none if the bytes cannot be read: a load replaces them."""
    try:
        return [entry for entry in unpack_entries(packed) if entry[1] is None]
    except msgspec.DecodeError:
        return []


def merge_entries(old: Sequence[Entry], new: Sequence[Entry], view: AsOfView, now: int) -> list[Entry]:
    """Merges the entries that a lookup can still see; a new entry replaces an old one of the same time."""
    by_time = {entry[0]: entry for entry in (*old, *new)}
    times = sorted(by_time)
    known = sum(1 for time in times if time <= now - SETTLED)
    visible = times[max(known - 1, 0) :]
    return [by_time[time] for time in visible if view.ttl is None or time >= now - SETTLED - view.ttl]
