"""Identifiers: UUIDv7, so that ids sort by the time of their creation (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

__all__ = ["id_time", "new_id"]

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """A new UUIDv7 in its usual 36-character form.

    The ids of one process sort in the order of their creation: 12 bits of `rand_a` hold the fraction of the
    millisecond, and a tie gets the next value (method 3 of the RFC's section 6.2).
    """
    global _last
    with _lock:
        tick = time.time_ns() * 4096 // 1_000_000
        _last = tick = max(tick, _last + 1)
    millis, fraction = tick >> 12, tick & 0xFFF
    tail = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1) | (0b10 << 62)
    return (
        f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7{fraction:03x}-{tail >> 48:04x}-{tail & (1 << 48) - 1:012x}"
    )


def id_time(text: str) -> datetime:
    """When the id was created, to the millisecond, in UTC.

    Raises:
        ValueError: `text` is not a UUIDv7.
    """
    value = UUID(text)
    if value.version != 7:
        raise ValueError(f"{text} is not a UUIDv7")
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
