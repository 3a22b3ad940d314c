"""Plain JSON: the object is the event."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from headrace.events.formats import numbers
from headrace.events.formats.port import Format

__all__ = ["PlainJson"]


class PlainJson(Format):
    """One JSON object per event. If a key occurs twice, its last value counts."""

    plain_json = True
    typed_times = False

    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """See Format."""
        decode = numbers.decoder(kind, strict=strict)
        if not empty_is_null:
            return decode
        return lambda raw: decode(numbers.replace_empty_by_null(raw, empty_is_null))
