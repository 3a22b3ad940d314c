"""From raw bytes to structs of a contract's shape: what decodes, and why the rest does not.

The ordinary way is one call an event and takes what is exactly right. What that refuses is looked at
again: it may hold fields that the contract does not name, or "" for null, where the contract allows it;
or it may be right for an older struct of the contract, and be made a present one by its upcaster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from headrace.declare.event import Contract
from headrace.events.contracts.fields import Field
from headrace.events.contracts.shape import Shape, shape_of
from headrace.events.formats import numbers
from headrace.events.formats.port import DECODE_ERRORS, Format, NoEvent
from headrace.events.formats.refusals import MAX_REASON_LENGTH, InvalidEvent, Refusal, refusal_of
from headrace.events.verdicts.instances import instance_of

__all__ = ["NAMES", "Decoded", "Decoder"]

NAMES, OTHERS = 20, "(others)"  # unknown fields are counted by name, up to so many


@dataclass(frozen=True)
class Decoded:
    """What became of a batch's bytes.

    Attributes:
        places: int64[n], where in the batch the events stand that decode.
        events: n structs of the shape.
        refused: place → why another does not. A place in neither holds no event (formats.NoEvent).
        surplus: place → the event's fields that the contract does not name, as JSON.
        extra: name of such a field → how many events carry it (Verdicts.extra).
    """

    places: NDArray[np.int64]
    events: list[Struct]
    refused: dict[int, Refusal]
    surplus: dict[int, str] = field(default_factory=dict)
    extra: Counter[str] = field(default_factory=Counter)


class _Found(NamedTuple):
    """An event that decodes, and the fields of it that its struct does not name: as JSON, and the first's
    name; None where there are none."""

    event: Struct
    surplus: str | None = None
    name: str | None = None


class _Reader:
    """Decodes to one struct: the contract's, or one of its older ones."""

    def __init__(self, shape: Shape, contract: Contract, format: Format) -> None:
        strict = not contract.coerce
        self._fields = shape.fields
        self._keeps = not shape.refuses
        self._config = shape.declared.__struct_config__
        struct = shape.struct(exact=shape.refuses, instants=format.typed_times)
        # Exactly first: what msgspec passes over it does not tell, and most events hold no more.
        self.exact = format.decoder(shape.struct(exact=True, instants=format.typed_times), strict=strict)
        self._kept = format.decoder(struct, strict=strict)
        self._plain = format.decoder(Any, strict=True)
        self._renamed = {one.key: one.name for one in shape.fields if one.key != one.name}
        self._empty_is_null = {
            one.key for one in shape.fields if contract.coerce and one.optional and one.kind.core is not str
        }
        self._without_empty = format.decoder(struct, strict=False, empty_is_null=self._empty_is_null)

    def again(self, raw: bytes, refusal: Refusal) -> _Found | Refusal:
        """An event that `exact` has refused for a reason: taken all the same, or why it is not."""
        try:
            if refusal.code == "extra" and self._keeps:
                return self._with_surplus(self._kept(raw), raw)
        except DECODE_ERRORS as error:
            refusal = refusal_of(error, raw)
        try:
            if refusal.code == "wrong_type" and refusal.field in self._empty_is_null:
                event = self._without_empty(raw)
                return self._with_surplus(event, raw) if self._keeps else _Found(event)
        except DECODE_ERRORS as error:
            refusal = refusal_of(error, raw)
        if refusal.field in self._renamed:
            return Refusal(refusal.code, self._renamed[refusal.field], refusal.reason)
        return refusal

    def _with_surplus(self, event: Struct, raw: bytes) -> _Found:
        surplus = _surplus(self._plain(raw), self._fields, self._config.tag_field)
        if not surplus:
            return _Found(event)
        return _Found(event, numbers.encode(surplus).decode(), next(iter(surplus)))


class Decoder:
    """Decodes the events of one contract.

    Args:
        contract: what they must be.
        shape: the contract's.
        format: how they lie in bytes.
    """

    def __init__(self, contract: Contract, shape: Shape, format: Format) -> None:
        self._contract = contract
        self._reader = _Reader(shape, contract, format)
        self._older: list[tuple[_Reader, Shape, Callable[[Any], Any]]] = []
        for struct, upcaster in contract.upcasters.items():
            older = shape_of(contract, struct)
            self._older.append((_Reader(older, contract, format), older, upcaster))
        self._upgraded = shape.struct(exact=True, instants=True)

    def decode(self, values: list[bytes], refused: Mapping[int, Refusal]) -> Decoded:
        """Each event by itself, but for those that are `refused` already.

        Raises:
            Unavailable: what the format needs is away; nothing is decided.
        """
        made = Decoded(np.arange(len(values)), [], dict(refused))
        nothing: list[int] = []
        exact, add = self._reader.exact, made.events.append
        unread = enumerate(values)
        for at, raw in filter(lambda place: place[0] not in refused, unread) if refused else unread:
            try:
                add(exact(raw))
            except DECODE_ERRORS as error:
                found = self._again(raw, refusal_of(error, raw))
                if isinstance(found, Refusal):
                    made.refused[at] = found
                else:
                    add(found.event)
                    _keep(found, at, made)
            except NoEvent:
                nothing.append(at)
        if not made.refused and not nothing:
            return made
        places = np.delete(made.places, [*made.refused, *nothing])
        return Decoded(places, made.events, made.refused, made.surplus, made.extra)

    def _again(self, raw: bytes, refusal: Refusal) -> _Found | Refusal:
        found = self._reader.again(raw, refusal)
        if isinstance(found, Refusal):
            for reader, shape, upcaster in self._older:
                older = _read(reader, raw)
                if older is not None:
                    return self._made_new(older, shape, upcaster)
        return found

    def _made_new(self, older: _Found, shape: Shape, upcaster: Callable[[Any], Any]) -> _Found | Refusal:
        """The present struct of an older one, by the contract's own code: whatever that does is a verdict."""
        name = getattr(upcaster, "__name__", "the upcaster")
        try:
            made = upcaster(instance_of(older.event, shape, self._contract))
        except InvalidEvent as error:
            return error.refusal
        except Exception as error:
            reason = f"{name}: {type(error).__name__}: {error}"
            return Refusal("upcast_failed", None, reason[:MAX_REASON_LENGTH])
        if not isinstance(made, self._contract.struct):
            return Refusal("upcast_failed", None, f"{name} gave a {type(made).__name__}")
        try:
            plain = msgspec.to_builtins(made, builtin_types=(Decimal, datetime))
            event = msgspec.convert(plain, self._upgraded)
        except (*DECODE_ERRORS, TypeError, ValueError) as error:
            refusal = refusal_of(error)
            return Refusal("upcast_failed", refusal.field, f"{name}: {refusal.reason}")
        return _Found(event, older.surplus, older.name)


def _read(reader: _Reader, raw: bytes) -> _Found | None:
    try:
        return _Found(reader.exact(raw))
    except DECODE_ERRORS as error:
        found = reader.again(raw, refusal_of(error))
        return None if isinstance(found, Refusal) else found


def _surplus(value: Any, fields: Sequence[Field], tag: str | None = None) -> Any:
    """What of an object the fields do not name, at any depth: an object again, empty where there is
    nothing; of a list of objects a list of as many."""
    if not isinstance(value, dict):
        return {}
    known = {one.key: one.kind for one in fields}
    found = {}
    for key, one in value.items():
        kind = known.get(key)
        if kind is None:
            if key != tag:
                found[key] = one
            continue
        if kind.sort == "struct":
            rest = _surplus(one, kind.fields, kind.core.__struct_config__.tag_field)
        elif kind.item is not None and kind.item.kind.sort == "struct" and isinstance(one, list):
            item = kind.item.kind
            each = [_surplus(each, item.fields, item.core.__struct_config__.tag_field) for each in one]
            rest = each if any(each) else {}
        else:
            continue
        if rest:
            found[key] = rest
    return found


def _keep(found: _Found, at: int, made: Decoded) -> None:
    """The event's further fields; it is counted by the name of the first."""
    if found.surplus is not None and found.name is not None:
        made.surplus[at] = found.surplus
        name = found.name
        made.extra[name if name in made.extra or len(made.extra) < NAMES else OTHERS] += 1
