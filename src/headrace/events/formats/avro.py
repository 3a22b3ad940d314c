"""Avro in the schema registry's wire format: a zero byte, the schema's id in 4 bytes, the Avro body.

An event is decoded by the schema it was written with, and its fields are matched by name: the contract says
which are required, and the defaults of the others. Avro's logical types become instants, days, decimals and
UUIDs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.declare.event import Contract
from headrace.events.formats.port import Format
from headrace.events.formats.refusals import InvalidEvent, UnknownSchema
from headrace.kernel.errors import ProjectError
from headrace.kernel.extras import describe_missing

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = ["Avro"]

_HEAD = 5  # the zero byte and the id


class Avro(Format):
    """The event is the record in the Avro body."""

    def __init__(self, contract: Contract, schema_registry: SchemaRegistry | None) -> None:
        super().__init__(contract, schema_registry)
        if schema_registry is None:
            raise ProjectError(
                f"topic {contract.topic!r} is written in Avro, and the profile names no schema registry",
                where=str(contract.place),
                remedy="Set `schema_registry` in the profile of headrace.toml, or HEADRACE_SCHEMA_REGISTRY.",
            )
        try:
            import fastavro
        except ImportError as error:
            raise describe_missing("fastavro", "a contract with format='avro'") from error
        self._find_schema = schema_registry.schema
        self._read: Callable[..., Any] = fastavro.schemaless_reader

    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """See Format."""
        read_record, find_schema = self._read_record, self._find_schema

        def decode(raw: bytes) -> Any:
            if len(raw) < _HEAD or raw[0]:
                raise InvalidEvent("not_avro", None, "it does not begin with a zero byte and a schema's id")
            try:
                schema = find_schema(int.from_bytes(raw[1:_HEAD], "big"))
            except UnknownSchema as error:
                raise InvalidEvent("unknown_schema", None, str(error)) from None
            record = read_record(raw, schema)
            if empty_is_null and isinstance(record, dict):
                empty = [name for name in empty_is_null if record.get(name) == ""]
                record |= dict.fromkeys(empty)
            return msgspec.convert(record, kind, strict=strict)

        return decode

    def _read_record(self, raw: bytes, schema: Any) -> Any:
        body = io.BytesIO(raw)
        body.seek(_HEAD)
        try:
            record = self._read(body, schema)
        except (MemoryError, RecursionError, UnicodeDecodeError):
            raise
        except OverflowError as error:
            raise InvalidEvent("out_of_range", None, f"{error}") from None
        except Exception as error:  # fastavro raises many kinds of error for broken bytes
            reason = f"its body does not match its schema: {type(error).__name__}: {error}"
            raise InvalidEvent("not_avro", None, reason) from None
        if body.tell() != len(raw):
            rest = len(raw) - body.tell()
            raise InvalidEvent("not_avro", None, f"{rest:,} bytes follow its body")
        return record
