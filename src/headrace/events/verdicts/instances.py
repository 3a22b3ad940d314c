"""Decoded events as instances of the declared struct, with real datetimes, for the contract's own code.

They are built one by one, and only if the contract has such code: a `__post_init__` or an upcaster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from headrace.declare.event import Contract
from headrace.events.contracts.fields import ContractField
from headrace.events.contracts.shape import Shape
from headrace.events.contracts.times import parse_time
from headrace.events.formats.refusals import InvalidEvent
from headrace.kernel.time import from_micros

__all__ = ["instance_of"]


def instance_of(event: Struct, shape: Shape, contract: Contract) -> Struct:
    """The declared struct of a decoded event.

    Raises:
        InvalidEvent: a time in it cannot be parsed.
        Exception: whatever a `__post_init__` raises.
    """
    return shape.struct(**_values(event, shape.fields, contract))


def _values(event: Any, fields: Sequence[ContractField], contract: Contract) -> dict[str, Any]:
    return {field.name: _value(getattr(event, field.name), field, contract) for field in fields}


def _value(value: Any, field: ContractField, contract: Contract) -> Any:
    kind = field.kind
    if value is None:
        return None
    if kind.category == "time":
        parsed = parse_time(value, contract.time_formats, contract.timezone)
        if not isinstance(parsed, int):
            code, reason = parsed
            raise InvalidEvent(code, field.name or None, reason)
        return from_micros(parsed)
    if kind.category == "struct":
        return kind.core(**_values(value, kind.fields, contract))
    if kind.item is not None:
        return [_value(inner, kind.item, contract) for inner in value]
    return value
