"""What a contract is, as data: kept with its topic's table, and compared with what the project declares.

It holds what changes verdicts or storage: not comments, docstrings, the order of fields, or where it is
declared.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Meta

from headrace.code.fingerprint import code_digest
from headrace.declare.event import Contract
from headrace.events.contracts.fields import Field, Kind, fields_of
from headrace.events.contracts.shape import structs_of
from headrace.kernel.digest import digest_value

__all__ = ["described"]

_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")


def described(contract: Contract) -> dict[str, Any]:
    """The contract, JSON-ready.

    Its keys: `topic`, `version`, `fingerprint` (digest_value of all the rest), the rules of
    Contract by name (durations in seconds), `checks` (struct → digest of its `__post_init__`),
    `upcasters` (older structs, newest first), and `fields`: name → `key`, `type`, `optional`, and
    `default` where it has one.
    """
    fields = fields_of(contract.struct)
    structs = [contract.struct, *structs_of(fields)]
    found: dict[str, Any] = {
        "topic": contract.topic,
        "time": contract.time,
        "key": contract.key,
        "identity": sorted(contract.identity),
        "dedup_within": _seconds(contract.dedup_within),
        "time_formats": list(contract.time_formats),
        "timezone": contract.timezone,
        "coerce": contract.coerce,
        "max_ahead": _seconds(contract.max_ahead),
        "max_late": _seconds(contract.max_late),
        "oldest": contract.oldest.isoformat(),
        "extra": contract.extra,
        "format": contract.format,
        "checks": {
            one.__name__: code_digest(one.__post_init__) for one in structs if hasattr(one, "__post_init__")
        },
        "upcasters": [
            {"struct": older.__name__, "fields": _fields(fields_of(older)), "code": code_digest(upcaster)}
            for older, upcaster in contract.upcasters.items()
        ],
        "fields": _fields(fields),
    }
    return {"version": contract.version, "fingerprint": digest_value(found), **found}


def _seconds(one: timedelta | None) -> float | None:
    return None if one is None else one.total_seconds()


def _fields(fields: Sequence[Field]) -> dict[str, Any]:
    return {one.name: _field(one) for one in fields}


def _field(one: Field) -> dict[str, Any]:
    found = {"key": one.key, "type": _type(one.kind), "optional": one.optional}
    return found if one.required else {**found, "default": _plain(one.default)}


def _type(kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = {"sort": kind.sort, "stored": str(kind.type)}
    if kind.sort == "choice":
        values = get_args(kind.core) if get_origin(kind.core) else [one.value for one in kind.core]
        found["values"] = sorted(values)
    elif kind.sort == "struct":
        found["fields"] = _fields(kind.fields)
    elif kind.item is not None:
        found["item"] = _field(kind.item)
    elif kind.sort in ("plain", "json"):
        found["of"] = kind.core.__name__ if isinstance(kind.core, type) else str(kind.core)
    bounds = {
        name: value
        for meta in kind.metas
        if isinstance(meta, Meta)
        for name in _BOUNDS
        if (value := getattr(meta, name)) is not None
    }
    return {**found, "bounds": bounds} if bounds else found


def _plain(value: Any) -> Any:
    """A default as JSON has it."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value, order="deterministic"))
    except (TypeError, ValueError):
        return repr(value)
