"""Avro in the schema registry's wire format: a zero byte, the schema's id in 4 bytes, the Avro body.

An event is read by the schema that wrote it and taken by the names of its fields: the contract says what
must be there, what may be missing and what stands for it then. Avro's logical types give instants, days,
decimals and UUIDs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from headrace.events.formats.reasons import LONGEST, Broken, Reason
from headrace.events.formats.schema_registry import SchemaRegistry, Unknown
from headrace.kernel.extras import describe_missing

__all__ = ["Avro"]

_HEAD = 5  # the zero byte and the id


class Avro:
    """The event is the record that the body holds.

    Args:
        schema_registry: where the schemas are.

    Raises:
        Unavailable: fastavro is not installed.
    """

    instants = True

    def __init__(self, schema_registry: SchemaRegistry) -> None:
        try:
            import fastavro
        except ImportError as error:
            raise describe_missing("fastavro", "a contract with format='avro'") from error
        self._registry = schema_registry
        self._read: Callable[..., Any] = fastavro.schemaless_reader

    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """See Format."""
        read, schema_of = self._record, self._registry.schema

        def decode(raw: bytes) -> Any:
            if len(raw) < _HEAD or raw[0]:
                raise Broken(Reason("not_avro", None, "it does not begin with a zero byte and a schema's id"))
            try:
                schema = schema_of(int.from_bytes(raw[1:_HEAD], "big"))
            except Unknown as error:
                raise Broken(Reason("unknown_schema", None, str(error))) from None
            record = read(raw, schema)
            if empty_is_null and isinstance(record, dict):
                empty = [name for name in empty_is_null if record.get(name) == ""]
                record |= dict.fromkeys(empty)
            return msgspec.convert(record, kind, strict=strict)

        return decode

    def _record(self, raw: bytes, schema: Any) -> Any:
        body = io.BytesIO(raw)
        body.seek(_HEAD)
        try:
            found = self._read(body, schema)
        except (MemoryError, RecursionError, UnicodeDecodeError):
            raise
        except OverflowError as error:
            raise Broken(Reason("out_of_range", None, f"{error}"[:LONGEST])) from None
        except Exception as error:  # what fastavro raises of broken bytes is of many kinds
            why = f"its body is not of its schema: {type(error).__name__}: {error}"
            raise Broken(Reason("not_avro", None, why[:LONGEST])) from None
        if body.tell() != len(raw):
            left = len(raw) - body.tell()
            raise Broken(Reason("not_avro", None, f"{left:,} bytes are left behind its body"))
        return found
