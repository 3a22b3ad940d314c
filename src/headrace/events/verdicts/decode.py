"""From raw bytes to structs of a contract's shape, and the refusals of the bytes that do not decode.

Most events are decoded by one call, which accepts only the fields that the contract names. An event that it
refuses is tried again: it may hold further fields, or "" for null, where the contract allows them; or it may
match an older struct of the contract, whose upcaster converts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from headrace.declare.event import Contract
from headrace.events.contracts.fields import ContractField
from headrace.events.contracts.shape import Shape, shape_of
from headrace.events.formats import numbers
from headrace.events.formats.port import DECODE_ERRORS, Format, NoEvent
from headrace.events.formats.refusals import MAX_REASON_LENGTH, InvalidEvent, Refusal, refusal_of
from headrace.events.verdicts.instances import instance_of

__all__ = ["MAX_EXTRA_NAMES", "BatchDecoder", "DecodedBatch"]

MAX_EXTRA_NAMES = 20
"""Fields that the contract does not name are counted by name up to this many names; the rest are one count."""
_OTHER_NAMES = "(others)"


@attrs.frozen
class DecodedBatch:
    """The events of a batch, decoded.

    Attributes:
        places: int64[n], the places in the batch of the events that decode.
        events: n structs of the shape.
        refused: place → why that event does not decode. A place in neither holds no event (formats.NoEvent).
        surplus: place → the event's fields that the contract does not name, as JSON.
        extra: name of such a field → how many events hold it (Verdicts.extra).
    """

    places: NDArray[np.int64]
    events: list[Struct]
    refused: dict[int, Refusal]
    surplus: dict[int, str] = attrs.Factory(dict)
    extra: Counter[str] = attrs.Factory(Counter)

    def count_surplus(self, place: int, event: _DecodedEvent) -> None:
        """Keeps the further fields of an event, and counts it under the name of the first."""
        if event.surplus is not None and event.first_extra is not None:
            self.surplus[place] = event.surplus
            counted = event.first_extra in self.extra or len(self.extra) < MAX_EXTRA_NAMES
            self.extra[event.first_extra if counted else _OTHER_NAMES] += 1


class _DecodedEvent(NamedTuple):
    """An event, and its fields that the struct does not name: as JSON, and the name of the first."""

    struct: Struct
    surplus: str | None = None
    first_extra: str | None = None


class _StructDecoder:
    """Decodes events to one struct: the contract's struct, or an older version of it."""

    def __init__(self, shape: Shape, contract: Contract, format: Format) -> None:
        strict = not contract.coerce
        self._fields = shape.fields
        self._allows_extra = not shape.forbids_extra
        self._config = shape.struct.__struct_config__
        exact = shape.build_struct(exact=True, typed_times=format.typed_times)
        struct = shape.build_struct(exact=shape.forbids_extra, typed_times=format.typed_times)
        # The exact decoder goes first: msgspec does not report fields that it ignores, and most events hold
        # no further fields.
        self.decode_exact = format.decoder(exact, strict=strict)
        self._decode_with_extra = format.decoder(struct, strict=strict)
        self._decode_plain = format.decoder(Any, strict=True)
        self._names = {field.key: field.name for field in shape.fields if field.key != field.name}
        self._empty_is_null = {
            field.key
            for field in shape.fields
            if contract.coerce and field.optional and field.kind.core is not str
        }
        self._decode_empty = format.decoder(struct, strict=False, empty_is_null=self._empty_is_null)

    def retry(self, raw: bytes, refusal: Refusal) -> _DecodedEvent | Refusal:
        """Decodes an event that `decode_exact` refused, with the further rules that the contract allows."""
        try:
            if refusal.code == "extra" and self._allows_extra:
                return self._with_surplus(self._decode_with_extra(raw), raw)
        except DECODE_ERRORS as error:
            refusal = refusal_of(error, raw)
        try:
            if refusal.code == "wrong_type" and refusal.field in self._empty_is_null:
                struct = self._decode_empty(raw)
                return self._with_surplus(struct, raw) if self._allows_extra else _DecodedEvent(struct)
        except DECODE_ERRORS as error:
            refusal = refusal_of(error, raw)
        if refusal.field in self._names:
            return Refusal(refusal.code, self._names[refusal.field], refusal.reason)
        return refusal

    def find(self, raw: bytes) -> _DecodedEvent | None:
        """Decodes an event; None if it does not match the struct."""
        try:
            return _DecodedEvent(self.decode_exact(raw))
        except DECODE_ERRORS as error:
            event = self.retry(raw, refusal_of(error))
            return None if isinstance(event, Refusal) else event

    def _with_surplus(self, struct: Struct, raw: bytes) -> _DecodedEvent:
        surplus = _surplus(self._decode_plain(raw), self._fields, self._config.tag_field)
        if not surplus:
            return _DecodedEvent(struct)
        return _DecodedEvent(struct, numbers.encode(surplus).decode(), next(iter(surplus)))


class BatchDecoder:
    """Decodes batches of the events of one contract.

    Args:
        contract: the contract.
        shape: its shape.
        format: how bytes hold its events.
    """

    def __init__(self, contract: Contract, shape: Shape, format: Format) -> None:
        self._contract = contract
        self._decoder = _StructDecoder(shape, contract, format)
        self._older: list[tuple[_StructDecoder, Shape, Callable[[Any], Any]]] = []
        for struct, upcaster in contract.upcasters.items():
            older = shape_of(contract, struct)
            self._older.append((_StructDecoder(older, contract, format), older, upcaster))
        self._upcast_struct = shape.build_struct(exact=True, typed_times=True)

    def decode(self, values: list[bytes], refused: Mapping[int, Refusal]) -> DecodedBatch:
        """Decodes each event by itself, except those that are `refused` already.

        Raises:
            Unavailable: something that the format needs cannot be reached; no event is decided.
        """
        batch = DecodedBatch(np.arange(len(values)), [], dict(refused))
        without_event: list[int] = []
        decode_exact, append = self._decoder.decode_exact, batch.events.append
        pending = enumerate(values)
        for place, raw in filter(lambda item: item[0] not in refused, pending) if refused else pending:
            try:
                append(decode_exact(raw))
            except DECODE_ERRORS as error:
                event = self._retry(raw, refusal_of(error, raw))
                if isinstance(event, Refusal):
                    batch.refused[place] = event
                else:
                    append(event.struct)
                    batch.count_surplus(place, event)
            except NoEvent:
                without_event.append(place)
        if not batch.refused and not without_event:
            return batch
        return attrs.evolve(batch, places=np.delete(batch.places, [*batch.refused, *without_event]))

    def _retry(self, raw: bytes, refusal: Refusal) -> _DecodedEvent | Refusal:
        event = self._decoder.retry(raw, refusal)
        if isinstance(event, Refusal):
            for decoder, shape, upcaster in self._older:
                older = decoder.find(raw)
                if older is not None:
                    return self._upcast(older, shape, upcaster)
        return event

    def _upcast(
        self, older: _DecodedEvent, shape: Shape, upcaster: Callable[[Any], Any]
    ) -> _DecodedEvent | Refusal:
        name = getattr(upcaster, "__name__", "the upcaster")
        try:
            instance = upcaster(instance_of(older.struct, shape, self._contract))
        except InvalidEvent as error:
            return error.refusal
        except (
            Exception,
            SystemExit,
        ) as error:  # whatever the contract's code raises
            reason = f"{name}: {type(error).__name__}: {error}"
            return Refusal("upcast_failed", None, reason[:MAX_REASON_LENGTH])
        if not isinstance(instance, self._contract.struct):
            return Refusal("upcast_failed", None, f"{name} returned a {type(instance).__name__}")
        try:
            plain = msgspec.to_builtins(instance, builtin_types=(Decimal, datetime))
            struct = msgspec.convert(plain, self._upcast_struct)
        except (*DECODE_ERRORS, TypeError, ValueError) as error:
            refusal = refusal_of(error)
            return Refusal("upcast_failed", refusal.field, f"{name}: {refusal.reason}")
        return _DecodedEvent(struct, older.surplus, older.first_extra)


def _surplus(value: Any, fields: Sequence[ContractField], tag: str | None = None) -> Any:
    """The part of an object that the fields do not name, at any depth.

    Returns:
        An object, empty if there is nothing; for a list of objects a list of as many.
    """
    if not isinstance(value, dict):
        return {}
    kinds = {field.key: field.kind for field in fields}
    surplus = {}
    for key, inner in value.items():
        kind = kinds.get(key)
        if kind is None:
            if key != tag:
                surplus[key] = inner
            continue
        if kind.category == "struct":
            rest = _surplus(inner, kind.fields, kind.core.__struct_config__.tag_field)
        elif kind.item is not None and kind.item.kind.category == "struct" and isinstance(inner, list):
            item = kind.item.kind
            parts = [_surplus(part, item.fields, item.core.__struct_config__.tag_field) for part in inner]
            rest = parts if any(parts) else {}
        else:
            continue
        if rest:
            surplus[key] = rest
    return surplus
