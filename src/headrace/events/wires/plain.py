"""Plain JSON: the object is the event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["Plain"]


class Plain:
    """One JSON object an event. Of a key that is in it twice the last counts."""

    instants = False

    def decoder(self, kind: Any, *, strict: bool) -> Callable[[bytes], Any]:
        """See Wire."""
        decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind, strict=strict).decode
        return decode
