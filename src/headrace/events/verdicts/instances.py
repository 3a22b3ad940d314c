"""Decoded events as the structs that the contract declares: with real times, for its own code.

Only events whose contract has code of its own (a `__post_init__`, an upcaster) are made so: one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from headrace.declare.event import Contract
from headrace.events.contracts.fields import Field, Kind
from headrace.events.contracts.shape import Shape
from headrace.events.contracts.times import parse_one
from headrace.events.formats.refusals import InvalidEvent
from headrace.kernel.time import from_micros

__all__ = ["instance_of"]


def instance_of(event: Struct, shape: Shape, contract: Contract) -> Struct:
    """The declared struct of a decoded event.

    Raises:
        InvalidEvent: a time in it cannot be read.
        Exception: what a `__post_init__` raises.
    """
    return shape.declared(**_values(event, shape.fields, contract))


def _values(event: Any, fields: Sequence[Field], contract: Contract) -> dict[str, Any]:
    return {one.name: _value(getattr(event, one.name), one, contract) for one in fields}


def _value(value: Any, field: Field, contract: Contract) -> Any:
    kind: Kind = field.kind
    if value is None:
        return None
    if kind.sort == "time":
        found = parse_one(value, contract.time_formats, contract.timezone)
        if not isinstance(found, int):
            raise InvalidEvent(found[0], field.name or None, found[1])
        return from_micros(found)
    if kind.sort == "struct":
        return kind.core(**_values(value, kind.fields, contract))
    if kind.item is not None:
        return [_value(one, kind.item, contract) for one in value]
    return value
