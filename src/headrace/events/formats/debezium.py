"""Debezium's envelope: one change of a row, as its connector for PostgreSQL writes it.

    {"op": "u", "before": ..., "after": {"id": 1, ...}, "source": {"lsn": ..., "ts_us": ...}, ...}

It may stand within Kafka Connect's `{"schema": ..., "payload": ...}`. A change becomes the row after it
with the change's own columns; a deleted row its key, and nulls; the end of a snapshot that read no row is
nulls alone (`headrace capture` writes it). A record that holds nothing (a
tombstone, which follows a delete where a topic is compacted) is no event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headrace.declare.changes import CHANGE_FIELDS, SNAPSHOT_ENDS
from headrace.declare.event import Contract
from headrace.events.contracts.fields import fields_of
from headrace.events.formats import numbers
from headrace.events.formats.port import REFUSES, Nothing
from headrace.events.formats.reasons import LONGEST, Broken, Reason, reason_of
from headrace.events.formats.row_types import (
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

    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """See Format. `kind` is a struct of the contract's fields; or Any: the row after the change. In a
        database's row "" is a text."""
        assert not empty_is_null
        if kind is Any:
            return _after
        kind, settled = self._as_written(kind)
        decode = numbers.decoder(_envelope(kind, self._key, kind), strict=strict)
        nulls = dict.fromkeys(kind.__struct_fields__)
        key, unit = self._key, self._time_unit
        without = _Unavailable(kind, self._key, strict)
        text, base64, uuid, codes = UNAVAILABLE_MARKS

        def change(raw: bytes) -> Any:
            if not raw:
                raise Nothing
            unavailable: list[str] | None = None
            try:
                if text in raw or base64 in raw or uuid in raw or codes in raw:
                    one, unavailable = without(raw)
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
                        if settle is instant and isinstance(value, int):
                            setattr(row, name, instant(value, unit_of(raw, encoded) or unit))
                        else:
                            setattr(row, name, settle(value))
                    except (*REFUSES, ValueError) as error:
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


_plain = numbers.decoder(Any)


def _after(raw: bytes) -> Any:
    found = _plain(raw)
    inner = found.get("payload", found) if isinstance(found, dict) else None
    return (inner.get("after") or {}) if isinstance(inner, dict) else {}


def _envelope(kind: Any, key: tuple[str, ...], after: Any) -> type[Struct]:
    """An envelope of rows of a kind, whose row after the change is of another type."""
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
            ("after", after | None, None),
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

    def __init__(self, kind: Any, key: tuple[str, ...], strict: bool) -> None:
        fields = msgspec.structs.fields(kind)
        self._kind = kind
        self._names = {field.encode_name: field.name for field in fields}
        self._required = [field.encode_name for field in fields if field.required]
        relaxed = msgspec.defstruct(
            kind.__name__,
            [
                (field.name, field.type | None, msgspec.field(name=field.encode_name, default=None))
                for field in fields
            ],
            kw_only=True,
            forbid_unknown_fields=kind.__struct_config__.forbid_unknown_fields,
            gc=False,
        )
        self._envelope = numbers.decoder(_envelope(kind, key, dict[str, Raw]), strict=strict)
        self._row = numbers.decoder(relaxed, strict=strict)

    def __call__(self, raw: bytes) -> tuple[Any, list[str] | None]:
        """The envelope with nulls in their place, and the fields' names."""
        envelope = self._envelope(raw)
        change = (
            envelope.payload or envelope
        )  # neither where it is UNSET nor where it is None is there a row in it
        if change.after is None:
            return envelope, None
        names, row = self._names, change.after
        lacking = [name for name in row if name in names and is_unavailable(_plain(row[name]))]
        for name in self._required:
            if name not in row:
                raise msgspec.ValidationError(f"Object missing required field `{name}` - at `$.after`")
        sent = {name: value for name, value in row.items() if name not in lacking}
        values = self._row(numbers.encode(sent))
        change.after = self._kind(**{name: getattr(values, name) for name in values.__struct_fields__})
        return envelope, [names[name] for name in lacking] or None


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
    if isinstance(error, REFUSES):
        code, _, why = reason_of(error)
        return Reason("wrong_type" if code == "not_json" else code, name, why)
    return Reason("bad_time", name, str(error)[:LONGEST])
