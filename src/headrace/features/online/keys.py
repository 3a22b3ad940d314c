"""KeySchema: the join keys of an entity, and the single value that a database stores for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from headrace.features.plan import FeaturePlan, StoredView
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import CallError, ProjectError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Key", "KeySchema", "PackedKey", "PackedState", "array_head"]

Key = tuple[Any, ...]
"""The values of an entity's join keys, in their order."""

PackedKey = int | bytes | None
"""The value that a database stores for an entity's join keys; None for a null key, which no entity has."""

PackedState = tuple[PackedKey, bytes]
"""An entity, and its packed state in one view."""

_LONGEST = 1_000  # bytes; an index of PostgreSQL takes no key of more than 2,700
_DIGEST = b"\xc1"  # begins neither text in UTF-8 nor MessagePack
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_TYPES = {"int64": int, "string": str}
_encode = msgspec.msgpack.Encoder().encode


class KeySchema(Struct, frozen=True, array_like=True):
    """The join keys of an entity, in order, each with its dtype.

    A database stores one value for each entity: a single whole number as it is, a single text as UTF-8, several
    keys as MessagePack; of more than 1,000 bytes their SHA-256.
    """

    columns: tuple[tuple[str, Literal["int64", "string"]], ...]

    @classmethod
    def of(cls, plan: FeaturePlan, view: StoredView) -> KeySchema:
        """The join keys of a plan's view."""
        dtypes = {entity.join_key: entity.dtype for entity in plan.entities}
        return cls(tuple((key, dtypes[key]) for key in view.keys))

    @property
    def kind(self) -> Literal["int64", "bytes"]:
        """The type of the value that a database stores."""
        return "int64" if self._is_number else "bytes"

    @property
    def digest(self) -> str:
        """32 hex digits that name the schema."""
        return short_digest(msgspec.json.encode(self.columns))

    def check(self, view: StoredView, rows: pa.Table) -> None:
        """Checks that the rows' keys have the entity's types.

        Raises:
            ProjectError: a key is text but its column holds whole numbers, or the reverse.
        """
        from pyarrow import types

        for name, dtype in self.columns:
            column = rows.schema.field(name).type
            if types.is_integer(column) != (dtype == "int64"):
                raise ProjectError(
                    f"the key {name!r} of view {view.name!r} is declared as {dtype}, but it is {column}"
                    f" in table {view.table}",
                    where=f"feature view {view.name}",
                    remedy="Give the entity the value_type of the column, or convert the column in the table.",
                )

    def convert_key(self, view: StoredView, key: Key, dtypes: Mapping[str, Set[str]]) -> Key | None:
        """The key in the types of this view; None: no row of the view can have it.

        Another version of a view may have the same key as text instead of a whole number, or the reverse.

        Args:
            view: the view.
            key: the values; null has each type.
            dtypes: join key → its types in all views of the store.

        Raises:
            CallError: a value has a type that its key has in no view.
        """
        converted: list[Any] = []
        for (name, dtype), value in zip(self.columns, key, strict=True):
            if value is not None and all(type(value) is not _TYPES[other] for other in dtypes[name]):
                raise CallError(
                    f"the key {name!r} of view {view.name!r} is declared as {dtype}, but it is {value!r}",
                    remedy="Give each join key a value of its type.",
                )
            if value is not None and type(value) is not _TYPES[dtype]:
                if dtype == "int64" and not _is_number_text(str(value)):
                    return None
                value = _TYPES[dtype](value)
            converted.append(value)
        return tuple(converted)

    def packer(self) -> Callable[[Key], PackedKey]:
        """A function that packs a key into the value that a database stores."""
        if self._is_number:
            return _only
        return _pack_text if len(self.columns) == 1 else _pack_several

    @property
    def _is_number(self) -> bool:
        return len(self.columns) == 1 and self.columns[0][1] == "int64"


def _is_number_text(text: str) -> bool:
    """Whether the text is a whole number of 64 bits as Python writes it."""
    return _NUMBER.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63


def array_head(count: int) -> bytes:
    """What MessagePack has before the items of an array of this length."""
    return bytes((0x90 | count,)) if count < 16 else b"\xdd" + count.to_bytes(4, "big")


def _only(key: Key) -> PackedKey:
    number: int | None = key[0]
    return number


def _pack_text(key: Key) -> PackedKey:
    text: str | None = key[0]
    return None if text is None else _shorten(text.encode())


def _pack_several(key: Key) -> PackedKey:
    return _shorten(_encode(key))


def _shorten(packed: bytes) -> bytes:
    return packed if len(packed) <= _LONGEST else _DIGEST + sha256(packed).digest()
