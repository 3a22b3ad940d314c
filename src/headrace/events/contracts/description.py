"""A contract as JSON-ready data. It is stored with the topic's table and compared with the declared contract.

It holds what changes verdicts or storage, and leaves out comments, docstrings, the order of the fields and the
place of the declaration.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Meta

from headrace.code.fingerprint import code_digest
from headrace.declare.event import Contract
from headrace.events.contracts.fields import ContractField, FieldKind, fields_of
from headrace.events.contracts.shape import structs_of
from headrace.kernel.digest import digest_value

__all__ = ["describe_contract"]

_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")


def describe_contract(contract: Contract) -> dict[str, Any]:
    """Describes a contract.

    The keys are: `topic`, `version`, `fingerprint` (the digest of all the rest), the rules of
    Contract by name (durations in seconds), `checks` (struct → digest of its `__post_init__`), `upcasters`
    (older structs, newest first), and `fields`: name → `key`, `type`, `optional`, and `default` if it has one.
    """
    fields = fields_of(contract.struct)
    structs = [contract.struct, *structs_of(fields)]
    description: dict[str, Any] = {
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
            struct.__name__: code_digest(struct.__post_init__)
            for struct in structs
            if hasattr(struct, "__post_init__")
        },
        "upcasters": [
            {"struct": older.__name__, "fields": _fields(fields_of(older)), "code": code_digest(upcaster)}
            for older, upcaster in contract.upcasters.items()
        ],
        "fields": _fields(fields),
    }
    return {"version": contract.version, "fingerprint": digest_value(description), **description}


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


def _fields(fields: Sequence[ContractField]) -> dict[str, Any]:
    return {field.name: _field(field) for field in fields}


def _field(field: ContractField) -> dict[str, Any]:
    description = {"key": field.key, "type": _type(field.kind), "optional": field.optional}
    return description if field.required else {**description, "default": _to_json(field.default)}


def _type(kind: FieldKind) -> dict[str, Any]:
    description: dict[str, Any] = {"category": kind.category, "stored": str(kind.arrow_type)}
    if kind.category == "choice":
        values = get_args(kind.core) if get_origin(kind.core) else [member.value for member in kind.core]
        description["values"] = sorted(values)
    elif kind.category == "struct":
        description["fields"] = _fields(kind.fields)
    elif kind.item is not None:
        description["item"] = _field(kind.item)
    elif kind.category in ("plain", "json"):
        description["of"] = kind.core.__name__ if isinstance(kind.core, type) else str(kind.core)
    bounds = {
        name: value
        for meta in kind.metas
        if isinstance(meta, Meta)
        for name in _BOUNDS
        if (value := getattr(meta, name)) is not None
    }
    return {**description, "bounds": bounds} if bounds else description


def _to_json(value: Any) -> Any:
    """Converts a default to plain values, or to its repr if JSON cannot hold it."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value, order="deterministic"))
    except (TypeError, ValueError):
        return repr(value)
