"""Identifiers: UUIDv7, so that ids sort by the time of their creation (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

__all__ = ["id_time", "new_id", "new_ids"]

_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}  # whose first two bits are 10
_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """A new UUIDv7 in its usual 36-character form; see new_ids."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """New UUIDv7s in their usual 36-character form.

    The ids of one process sort in the order of their creation: 12 bits of `rand_a` hold the fraction of the
    millisecond, and a tie gets the next value (method 3 of the RFC's section 6.2).
    """
    global _last
    with _lock:
        first = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
        _last = first + count - 1
    noise = os.urandom(8 * count).hex()
    ticks = [f"{tick:015x}" for tick in range(first, first + count)]
    tails = [noise[at : at + 16] for at in range(0, 16 * count, 16)]
    return [
        f"{tick[:8]}-{tick[8:12]}-7{tick[12:]}-{_VARIANT[tail[0]]}{tail[1:4]}-{tail[4:]}"
        for tick, tail in zip(ticks, tails, strict=True)
    ]


def id_time(text: str) -> datetime:
    """When the id was created, to the millisecond, in UTC.

    Raises:
        ValueError: `text` is not a UUIDv7.
    """
    value = UUID(text)
    if value.version != 7:
        raise ValueError(f"{text} is not a UUIDv7")
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
