"""From raw bytes to structs of a contract's shape: what decodes, and why the rest does not.

The ordinary way is one call an event and takes what is exactly right. What that refuses is looked at
again: it may hold fields that the contract does not name, or "" for null, where the contract allows it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from headrace.declare.event import Contract
from headrace.events import wires
from headrace.events.reasons import Reason, reason_of
from headrace.events.shape import Shape
from headrace.events.wires import REFUSES, Nothing, Wire

__all__ = ["NAMES", "Decoded", "Decoder"]

NAMES, OTHERS = 20, "(others)"  # unknown fields are counted by name, up to so many


@dataclass(frozen=True)
class Decoded:
    """What became of a batch's bytes.

    Attributes:
        places: int64[n], where in the batch the events stand that decode.
        events: n structs of the shape.
        refused: place → why another does not. A place in neither holds no event (wires.Nothing).
        extra: field that the contract does not name → how many events carry it (Verdicts.extra).
    """

    places: NDArray[np.int64]
    events: list[Struct]
    refused: dict[int, Reason]
    extra: Counter[str] = field(default_factory=Counter)


class Decoder:
    """Decodes the events of one contract.

    Args:
        contract: what they must be.
        shape: the contract's.
        wire: how they lie in bytes; by default as the contract says.
    """

    def __init__(self, contract: Contract, shape: Shape, wire: Wire | None = None) -> None:
        wire = wire or wires.open(contract)
        strict = not contract.coerce
        # Exactly first: what msgspec passes over it does not tell, and most events hold no more.
        self._exact = wire.decoder(shape.exact, strict=strict)
        self._kept = wire.decoder(shape.struct, strict=strict)
        self._plain = wire.decoder(Any, strict=True)
        self._struct = shape.struct
        self._keeps = shape.struct is not shape.exact
        self._keys = {c.key for c in shape.columns}
        self._renamed = {c.key: c.name for c in shape.columns if c.key != c.name}
        self._empty_is_null = {c.key for c in shape.columns if c.empty_is_null and contract.coerce}

    def decode(self, values: list[bytes]) -> Decoded:
        """Each event by itself.

        Raises:
            Unavailable: what the wire needs is away; nothing is decided.
        """
        events: list[Struct] = []
        refused: dict[int, Reason] = {}
        nothing: list[int] = []
        extra: Counter[str] = Counter()
        exact, add = self._exact, events.append
        for at, raw in enumerate(values):
            try:
                add(exact(raw))
            except REFUSES as error:
                found = self._again(raw, reason_of(error), extra)
                if isinstance(found, Reason):
                    refused[at] = found
                else:
                    add(found)
            except Nothing:
                nothing.append(at)
        places = np.arange(len(values))
        if refused or nothing:
            places = np.delete(places, [*refused, *nothing])
        return Decoded(places, events, refused, extra)

    def _again(self, raw: bytes, reason: Reason, extra: Counter[str]) -> Struct | Reason:
        """The event, when it decodes once `""` is taken for null where it may be, and fields that the
        contract does not name are passed over where it keeps such events; else why it is refused."""
        try:
            if reason.code == "extra" and self._keeps:
                event: Struct = self._kept(raw)
                _count(extra, reason.field)
                return event
        except REFUSES as error:
            reason = reason_of(error)
        try:
            if reason.code == "wrong_type" and reason.field in self._empty_is_null:
                found = self._plain(raw)
                for key in self._empty_is_null:
                    if found.get(key) == "":
                        found[key] = None
                event = msgspec.convert(found, self._struct, strict=False)
                _count(extra, next((key for key in found if self._keeps and key not in self._keys), None))
                return event
        except REFUSES as error:
            reason = reason_of(error)
        if reason.field in self._renamed:
            return Reason(reason.code, self._renamed[reason.field], reason.reason)
        return reason


def _count(extra: Counter[str], name: str | None) -> None:
    """One more event with a field of this name, which the contract does not have."""
    if name is not None:
        extra[name if name in extra or len(extra) < NAMES else OTHERS] += 1
