"""What a format is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from decimal import InvalidOperation
from typing import Any, Protocol

import msgspec

from headrace.events.formats.reasons import Broken

__all__ = ["REFUSES", "Format", "Nothing"]

REFUSES = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation, Broken)
"""What a decoder may raise of an event that is not right; reasons.reason_of reads all of them."""


class Nothing(Exception):
    """The bytes hold no event, and are not meant to: nothing is stored of them."""


class Format(Protocol):
    """A way in which bytes hold an event.

    Attributes:
        instants: a time may lie in it as an instant or a number, not as text alone. Its decoders are
            then asked for structs whose times may be anything (headrace.events.contracts.times looks at them).
    """

    instants: bool

    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """What makes an object of the raw bytes of one event.

        Args:
            kind: a struct, whose fields are found by their encoded names; or Any, which gives dicts,
                lists and plain values, of which a number with a point or an exponent is a Decimal.
            strict: whether "35" is refused for 35.
            empty_is_null: the fields of the event, not of what lies inside it, in which "" stands for null.

        Returns:
            A function that raises one of REFUSES where the bytes are no such object, Nothing where they
            hold none and need not, and Unavailable
            where what it needs to know is not to be had now: then nothing is decided of the event.
        """
        ...
