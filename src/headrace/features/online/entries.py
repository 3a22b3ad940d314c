"""The state of one entity in an as-of view: the rows that a lookup can still see, packed as MessagePack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.features.online.tiles import SETTLED
from headrace.features.plan import AsOfView

__all__ = ["PUSHED", "Entry", "merge_entries", "pack_entries", "select_pushed", "unpack_entries"]

Entry = tuple[int, int | None, list[Any]]
"""A row: its time (microseconds), the snapshot that it was read from (None if it was pushed), its features."""

PUSHED = b"\xc3"
"""The first byte of a packed state that has pushed rows: a database finds these without reading others."""

_PUSHED = PUSHED[0]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


def pack_entries(entries: list[Entry]) -> bytes:
    """Packs entries, in order of time."""
    for _, snapshot, _ in entries:
        if snapshot is None:
            return PUSHED + _encode(entries)
    return _encode(entries)


def unpack_entries(packed: bytes) -> list[Entry]:
    """Unpacks the entries that `pack_entries` packed. Raises msgspec.DecodeError for any other bytes."""
    return _decode(packed if packed[0] != _PUSHED else packed[1:])


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
