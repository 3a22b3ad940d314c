"""Debezium's envelope: one change of a row, as its connector for PostgreSQL writes it.

    {"op": "u", "before": ..., "after": {"id": 1, ...}, "source": {"lsn": ..., "ts_us": ...}, ...}

The envelope may itself be the payload of Kafka Connect's `{"schema": ..., "payload": ...}`. A change becomes
the row after it, with the columns of CHANGE_FIELDS. A deleted row becomes its key and nulls; the end of a
snapshot that read no row (`headrace capture` writes it) becomes nulls alone. An empty record, the tombstone
that follows a delete where a topic is compacted, is not an event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headrace.declare.changes import CHANGE_FIELDS, SNAPSHOT_ENDS
from headrace.declare.event import Contract
from headrace.events.contracts.fields import fields_of
from headrace.events.formats import numbers
from headrace.events.formats.port import DECODE_ERRORS, Format, NoEvent
from headrace.events.formats.refusals import InvalidEvent, refusal_of
from headrace.events.formats.row_types import (
    LATEST,
    UNAVAILABLE_MARKS,
    find_unit,
    is_unavailable,
    parse_instant,
    row_type,
)

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = ["Debezium"]

_OPS = frozenset("curdt")  # create, update, read by a snapshot, delete, truncate
_OPS_WITH_ROW = frozenset("cur")
_TEXT, _BASE64, _UUID, _CODES = UNAVAILABLE_MARKS
_INT64 = 2**63
_REMEDY = "the table needs a primary key, or REPLICA IDENTITY FULL"


class _Source(Struct, gc=False):
    lsn: int | None = None
    ts_us: int | None = None
    ts_ms: int | None = None
    transaction: int | None = msgspec.field(name="txId", default=None)
    snapshot: str | bool | None = None
    sequence: str | None = None


class Debezium(Format):
    """The changes of the contract's table."""

    def __init__(self, contract: Contract, schema_registry: SchemaRegistry | None) -> None:
        super().__init__(contract, schema_registry)
        self._cores = {field.name: field.kind.core for field in fields_of(contract.struct)}

    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """See Format. `kind` is a struct of the contract's fields, or Any: the row after the change.

        `empty_is_null` must be empty: in a database's row "" is a text.
        """
        assert not empty_is_null
        if kind is Any:
            return _decode_after
        row_struct, parsers = self._row_struct(kind)
        return _ChangeDecoder(row_struct, parsers, self.contract, strict=strict)

    def _row_struct(self, kind: Any) -> tuple[type[Struct], list[_Parser]]:
        """The struct of a row with the values as Debezium writes them, and what parses those."""
        fields: list[tuple[str, Any, Any]] = []
        parsers = []
        change_columns = {name for name, _, _ in CHANGE_FIELDS}
        for field in msgspec.structs.fields(kind):
            type_, parse = row_type(field.type, self._cores[field.name])
            defaults = {"default": field.default, "default_factory": field.default_factory}
            options = {name: value for name, value in defaults.items() if value is not msgspec.NODEFAULT}
            fields.append((field.name, type_, msgspec.field(name=field.encode_name, **options)))
            if parse is not None and field.name not in change_columns:
                parsers.append(_Parser(field.name, field.encode_name, parse))
        forbid = kind.__struct_config__.forbid_unknown_fields
        struct = msgspec.defstruct(kind.__name__, fields, kw_only=True, gc=False, forbid_unknown_fields=forbid)
        return struct, parsers


class _Parser(NamedTuple):
    """Parses the values of one column: the field's name, the column's name, the function."""

    field: str
    column: str
    parse: Callable[..., Any]


class _ChangeDecoder:
    """Decodes one change to the row after it.

    Args:
        row_struct: the row as Debezium writes it.
        parsers: the parsers of the columns whose values are written in another form than their fields hold.
        contract: the contract of the table.
        strict: see Format.decoder.
    """

    def __init__(
        self, row_struct: type[Struct], parsers: Sequence[_Parser], contract: Contract, *, strict: bool
    ) -> None:
        self._row_struct = row_struct
        self._parsers = parsers
        self._key = contract.row_key
        self._time_unit = contract.time_unit
        self._nulls = dict.fromkeys(row_struct.__struct_fields__)
        self._decode = numbers.decoder(_envelope(row_struct, self._key, row_struct), strict=strict)
        self._decode_unavailable = _UnavailableDecoder(row_struct, self._key, strict)

    def __call__(self, raw: bytes) -> Any:
        if not raw:
            raise NoEvent
        unavailable = None
        try:
            # Not `any(...)` over the marks, which is slower: this runs for every change.
            if _TEXT in raw or _BASE64 in raw or _UUID in raw or _CODES in raw:
                envelope, unavailable = self._decode_unavailable(raw)
            else:
                envelope = self._decode(raw)
        except msgspec.ValidationError as error:
            raise _without_envelope(error) from None
        if envelope.payload is not UNSET:
            envelope = envelope.payload
        if envelope is None:
            raise NoEvent
        row = envelope.after if envelope.op in _OPS_WITH_ROW else None
        if row is None:
            row = self._row_without_after(envelope)
        self._parse_values(row, raw)
        _set_change_columns(row, envelope.op, envelope.source, unavailable)
        return row

    def _row_without_after(self, envelope: Any) -> Any:
        op, source = envelope.op, envelope.source
        if op in _OPS_WITH_ROW:
            if op == "r" and source is not None and source.snapshot in SNAPSHOT_ENDS:
                return self._row_struct(**self._nulls)
            raise InvalidEvent("missing", "after", f"a change of kind {op!r} has no row after it")
        if op == "d":
            if envelope.before is None:
                raise InvalidEvent("missing", "before", f"a deleted row has no key: {_REMEDY}")
            key = {name: getattr(envelope.before, name) for name in self._key}
            return self._row_struct(**self._nulls | key)
        if op == "t":
            return self._row_struct(**self._nulls)
        if not op:
            raise InvalidEvent("missing", "op", "it is not a Debezium envelope: it has no op")
        raise InvalidEvent("unknown_value", "op", f"{op[:20]!r} is not one of {', '.join(sorted(_OPS))}")

    def _parse_values(self, row: Any, raw: bytes) -> None:
        for field, column, parse in self._parsers:
            value = getattr(row, field)
            if value is None:
                continue
            try:
                if parse is parse_instant and isinstance(value, int):
                    setattr(row, field, parse_instant(value, find_unit(raw, column) or self._time_unit))
                else:
                    setattr(row, field, parse(value))
            except DECODE_ERRORS as error:
                code, _, reason = refusal_of(error)
                raise InvalidEvent("wrong_type" if code == "not_json" else code, column, reason) from None
            except ValueError as error:
                raise InvalidEvent("bad_time", column, str(error)) from None


_decode_plain = numbers.decoder(Any)


def _decode_after(raw: bytes) -> Any:
    """Decode the row after the change as a dict, empty if there is none."""
    message = _decode_plain(raw)
    envelope = message.get("payload", message) if isinstance(message, dict) else None
    return (envelope.get("after") or {}) if isinstance(envelope, dict) else {}


def _envelope(kind: Any, key: tuple[str, ...], after: Any) -> type[Struct]:
    """The struct of an envelope.

    Args:
        kind: the struct of a row, which types the key before the change.
        key: the names of the key's fields.
        after: the type of the row after the change.
    """
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
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


def _set_change_columns(row: Any, op: str, source: _Source | None, unavailable: list[str] | None) -> None:
    """Set the columns of CHANGE_FIELDS."""
    lsn = None if source is None else source.lsn
    if source is not None and lsn is None and source.snapshot == "incremental":
        lsn = _find_last_lsn(source.sequence)
    if source is None or lsn is None or not 0 <= lsn < _INT64:
        raise InvalidEvent("missing", "source", "it has no position in the database's log (lsn)")
    at = source.ts_us
    if at is None and source.ts_ms is not None:
        at = source.ts_ms * 1_000
    if at is None or not 0 <= at <= LATEST:
        raise InvalidEvent("missing", "source", "it has no commit time (ts_us, ts_ms)")
    if source.transaction is not None and not -_INT64 <= source.transaction < _INT64:
        raise InvalidEvent("out_of_range", "source", "its transaction's number does not fit 64 bits")
    row._op = op
    row._lsn = lsn
    row._changed_at = at
    row._transaction = source.transaction
    row._snapshot = None if source.snapshot in (None, False, "false") else str(source.snapshot).lower()
    row._unchanged = unavailable


def _find_last_lsn(sequence: str | None) -> int | None:
    """Find the LSN of the change that Debezium read last: an incrementally read row has no LSN."""
    try:
        lsns = msgspec.json.decode(sequence or "[]", type=list[int | None], strict=False)
    except msgspec.MsgspecError:
        return None
    return lsns[-1] if lsns else None


class _UnavailableDecoder:
    """Decodes changes whose envelope lacks large values that did not change."""

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
        self._decode_envelope = numbers.decoder(_envelope(kind, key, dict[str, Raw]), strict=strict)
        self._decode_row = numbers.decoder(relaxed, strict=strict)

    def __call__(self, raw: bytes) -> tuple[Any, list[str] | None]:
        """Decode an envelope with nulls for the missing values, and list the fields that miss them."""
        envelope = self._decode_envelope(raw)
        change = envelope.payload or envelope  # a payload that is UNSET or None holds no row
        if change.after is None:
            return envelope, None
        names, row = self._names, change.after
        missing = [name for name in row if name in names and is_unavailable(_decode_plain(row[name]))]
        for name in self._required:
            if name not in row:
                raise msgspec.ValidationError(f"Object missing required field `{name}` - at `$.after`")
        sent = {name: value for name, value in row.items() if name not in missing}
        values = self._decode_row(numbers.encode(sent))
        change.after = self._kind(**{name: getattr(values, name) for name in values.__struct_fields__})
        return envelope, [names[name] for name in missing] or None


def _without_envelope(error: msgspec.ValidationError) -> msgspec.ValidationError:
    """The error with paths from the row instead of from the envelope."""
    text = str(error).replace("`$.payload", "`$", 1)
    for part in ("`$.after", "`$.before"):
        text = text.replace(part, "`$", 1)
    return msgspec.ValidationError(text.removesuffix(" - at `$`"))
