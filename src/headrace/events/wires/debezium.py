"""Debezium's envelope: one change of a row, as its connector for PostgreSQL writes it.

    {"op": "u", "before": ..., "after": {"id": 1, ...}, "source": {"lsn": ..., "ts_us": ...}, ...}

It may stand within Kafka Connect's `{"schema": ..., "payload": ...}`. A change becomes the row after it
with the change's own columns; a deleted row its key, and nulls; the end of a snapshot that read no row is
nulls alone (`headrace capture` writes it). A record that holds nothing (a
tombstone, which follows a delete where a topic is compacted) is no event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from headrace.declare.changes import CHANGE_FIELDS, SNAPSHOT_ENDS
from headrace.declare.event import Contract
from headrace.events.contracts.fields import fields_of
from headrace.events.wires.port import Nothing
from headrace.events.wires.reasons import Broken, Reason
from headrace.events.wires.row_types import (
    LATEST,
    UNAVAILABLE_MARKS,
    instant,
    is_unavailable,
    settled_type,
    unit_of,
)

__all__ = ["Debezium"]

_AFTER, _OPS = frozenset("cur"), frozenset("curdt")
_INT64 = 2**63
_REMEDY = "the table needs a primary key, or REPLICA IDENTITY FULL"


class _Source(Struct, gc=False):
    lsn: int | None = None
    ts_us: int | None = None
    ts_ms: int | None = None
    transaction: int | None = msgspec.field(name="txId", default=None)
    snapshot: str | bool | None = None
    sequence: str | None = None


class Debezium:
    """The changes of one contract's table."""

    instants = True

    def __init__(self, contract: Contract) -> None:
        self._key = contract.row_key
        self._time_unit = contract.time_unit
        self._cores = {one.name: one.kind.core for one in fields_of(contract.struct)}

    def decoder(self, kind: Any, *, strict: bool) -> Callable[[bytes], Any]:
        """See Wire. `kind` is a struct of the contract's fields; or Any: the row after the change."""
        if kind is Any:
            return _after
        kind, settled = self._as_written(kind)
        envelope = _envelope(kind, self._key)
        decode = msgspec.json.Decoder(envelope, strict=strict).decode
        nulls = dict.fromkeys(kind.__struct_fields__)
        key, unit = self._key, self._time_unit
        without = _Unavailable(kind, strict)
        text, base64, uuid, codes = UNAVAILABLE_MARKS

        def change(raw: bytes) -> Any:
            if not raw:
                raise Nothing
            unavailable: list[str] | None = None
            try:
                if text in raw or base64 in raw or uuid in raw or codes in raw:
                    one, unavailable = without(raw, envelope)
                else:
                    one = decode(raw)
            except msgspec.ValidationError as error:
                raise _told_of_the_row(error) from None
            if one.payload is not UNSET:
                one = one.payload
            if one is None:
                raise Nothing
            op, source = one.op, one.source
            if op in _AFTER:
                row = one.after
                if row is None and op == "r" and source is not None and source.snapshot in SNAPSHOT_ENDS:
                    row = kind(**nulls)
                elif row is None:
                    raise Broken(Reason("missing", "after", f"a change of kind {op!r} has no row after it"))
            elif op == "d":
                if one.before is None:
                    raise Broken(Reason("missing", "before", f"a deleted row has no key: {_REMEDY}"))
                row = kind(**nulls | {name: getattr(one.before, name) for name in key})
            elif op == "t":
                row = kind(**nulls)
            else:
                raise _no_change(op)
            for name, encoded, settle in settled:
                value = getattr(row, name)
                if value is not None:
                    try:
                        if settle is not instant:
                            setattr(row, name, settle(value))
                        elif isinstance(value, int):
                            setattr(row, name, instant(value, unit_of(raw, encoded) or unit))
                        else:
                            setattr(row, name, instant(value, None))
                    except (ValueError, RecursionError) as error:
                        raise Broken(_reason(encoded, error)) from None
            _stamp(row, op, source, unavailable)
            return row

        return change

    def _as_written(self, kind: Any) -> tuple[Any, list[tuple[str, str, Callable[..., Any]]]]:
        """The struct with its values as Debezium writes them; and what settles those: name, key, function."""
        fields: list[tuple[str, Any, Any]] = []
        settled = []
        change = {name for name, _, _ in CHANGE_FIELDS}
        for one in msgspec.structs.fields(kind):
            type_, settle = settled_type(one.type, self._cores[one.name])
            given = {"default": one.default, "default_factory": one.default_factory}
            options = {name: value for name, value in given.items() if value is not msgspec.NODEFAULT}
            fields.append((one.name, type_, msgspec.field(name=one.encode_name, **options)))
            if settle is not None and one.name not in change:
                settled.append((one.name, one.encode_name, settle))
        forbid = kind.__struct_config__.forbid_unknown_fields
        made = msgspec.defstruct(kind.__name__, fields, kw_only=True, gc=False, forbid_unknown_fields=forbid)
        return made, settled


def _after(raw: bytes) -> Any:
    found = msgspec.json.decode(raw)
    inner = found.get("payload", found) if isinstance(found, dict) else None
    return (inner.get("after") or {}) if isinstance(inner, dict) else {}


def _envelope(kind: Any, key: tuple[str, ...]) -> type[Struct]:
    fields = {one.name: one for one in msgspec.structs.fields(kind)}
    before = msgspec.defstruct(
        "Key",
        [(name, fields[name].type, msgspec.field(name=fields[name].encode_name)) for name in key],
        gc=False,
    )
    inner = msgspec.defstruct(
        "Envelope",
        [
            ("op", str, ""),
            ("before", before | None, None),
            ("after", kind | None, None),
            ("source", _Source | None, None),
        ],
        gc=False,
    )
    return msgspec.defstruct(
        "Message", [("payload", inner | None | UnsetType, UNSET)], bases=(inner,), gc=False
    )


def _stamp(row: Any, op: str, source: _Source | None, unavailable: list[str] | None) -> None:
    """The change's own columns."""
    lsn = None if source is None else source.lsn
    if source is not None and lsn is None and source.snapshot == "incremental":
        lsn = _last_seen(source.sequence)
    if source is None or lsn is None or not 0 <= lsn < _INT64:
        raise Broken(Reason("missing", "source", "it does not say where in the database's log it stands (lsn)"))
    at = source.ts_us
    if at is None and source.ts_ms is not None:
        at = source.ts_ms * 1_000
    if at is None or not 0 <= at <= LATEST:
        raise Broken(Reason("missing", "source", "it does not say when it was committed (ts_us, ts_ms)"))
    if source.transaction is not None and not -_INT64 <= source.transaction < _INT64:
        raise Broken(Reason("out_of_range", "source", "its transaction's number does not fit 64 bits"))
    row._op = op
    row._lsn = lsn
    row._changed_at = at
    row._transaction = source.transaction
    row._snapshot = None if source.snapshot in (None, False, "false") else str(source.snapshot).lower()
    row._unchanged = unavailable


def _last_seen(sequence: str | None) -> int | None:
    """The LSN of the change that Debezium had read last: an incrementally read row has none of its own."""
    try:
        lsns = msgspec.json.decode(sequence or "[]", type=list[int | None], strict=False)
    except msgspec.MsgspecError:
        return None
    return lsns[-1] if lsns else None


class _Unavailable:
    """Reads the changes whose envelope lacks large values that did not change."""

    def __init__(self, kind: Any, strict: bool) -> None:
        self._strict = strict
        self._kind = kind
        self._fields = {one.encode_name: one.name for one in msgspec.structs.fields(kind)}
        self._relaxed = msgspec.defstruct(
            kind.__name__,
            [
                (one.name, one.type | None, msgspec.field(name=one.encode_name, default=None))
                for one in msgspec.structs.fields(kind)
            ],
            kw_only=True,
            forbid_unknown_fields=kind.__struct_config__.forbid_unknown_fields,
            gc=False,
        )

    def __call__(self, raw: bytes, envelope: type[Struct]) -> tuple[Any, list[str] | None]:
        """The envelope with nulls in their place, and the fields' names."""
        found = msgspec.json.decode(raw)
        inner = found.get("payload", found) if isinstance(found, dict) else found
        after = inner.get("after") if isinstance(inner, dict) else None
        if not isinstance(after, dict):
            return msgspec.convert(found, envelope, strict=self._strict), None
        lacking = [name for name, value in after.items() if name in self._fields and is_unavailable(value)]
        inner["after"] = None
        one: Any = msgspec.convert(found, envelope, strict=self._strict)
        rest = {name: value for name, value in after.items() if name not in lacking}
        given = set(rest) | set(lacking)
        for field in msgspec.structs.fields(self._kind):
            if field.required and field.encode_name not in given:
                raise msgspec.ValidationError(
                    f"Object missing required field `{field.encode_name}` - at `$.after`"
                )
        row = msgspec.convert(rest, self._relaxed, strict=self._strict)
        values = {name: getattr(row, name) for name in row.__struct_fields__}
        target = one if one.payload is UNSET else one.payload
        target.after = self._kind(**values)
        return one, [self._fields[name] for name in lacking] or None


def _told_of_the_row(error: msgspec.ValidationError) -> msgspec.ValidationError:
    """The error with the row's own columns for their place within the envelope."""
    text = str(error).replace("`$.payload", "`$", 1)
    for part in ("`$.after", "`$.before"):
        text = text.replace(part, "`$", 1)
    return msgspec.ValidationError(text.removesuffix(" - at `$`"))


def _no_change(op: str) -> Broken:
    if not op:
        return Broken(Reason("missing", "op", "it is no envelope of Debezium's: it has no op"))
    return Broken(Reason("unknown_value", "op", f"{op[:20]!r} is none of {', '.join(sorted(_OPS))}"))


def _reason(name: str, error: Exception) -> Reason:
    if isinstance(error, RecursionError):
        return Reason("too_deep", name, "it is nested too deeply")
    code = "wrong_type" if isinstance(error, msgspec.MsgspecError) else "bad_time"
    return Reason(code, name, str(error)[:300])
