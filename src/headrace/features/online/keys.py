"""KeySchema: the join keys of an entity, and the single value that a database stores for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pyarrow as pa
from msgspec import Struct

from headrace.features.plan import FeaturePlan, StoredView
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import ProjectError

__all__ = ["Key", "KeySchema"]

Key = tuple[Any, ...]
"""The values of an entity's join keys, in their order."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class KeySchema(Struct, frozen=True, array_like=True):
    """The join keys of an entity, in order, each with its dtype.

    A database stores one value for each entity: a single key as it is, several keys packed as MessagePack.
    """

    columns: tuple[tuple[str, Literal["int64", "string"]], ...]

    @classmethod
    def of(cls, plan: FeaturePlan, view: StoredView) -> KeySchema:
        """The join keys of a plan's view."""
        dtypes = {entity.join_key: entity.dtype for entity in plan.entities}
        return cls(tuple((key, dtypes[key]) for key in view.keys))

    @property
    def kind(self) -> Literal["int64", "string", "bytes"]:
        """The type of the value that a database stores."""
        return self.columns[0][1] if len(self.columns) == 1 else "bytes"

    @property
    def digest(self) -> str:
        """32 hex digits that name the schema."""
        return short_digest(msgspec.json.encode(self.columns))

    def check(self, view: StoredView, rows: pa.Table) -> None:
        """Checks that the rows' keys have the entity's types.

        Raises:
            ProjectError: a key is text but its column holds whole numbers, or the reverse.
        """
        for name, dtype in self.columns:
            column = rows.schema.field(name).type
            if pa.types.is_integer(column) != (dtype == "int64"):
                raise ProjectError(
                    f"the key {name!r} of view {view.name!r} is declared as {dtype}, but it is {column}"
                    f" in table {view.table}",
                    where=f"feature view {view.name}",
                    remedy="Give the entity the value_type of the column, or convert the column in the table.",
                )

    def packer(self) -> Callable[[Key], Any]:
        """A function that packs a key into the value that a database stores."""
        return _pack if len(self.columns) > 1 else _single

    def unpack(self, packed: Any) -> Key:
        """The key that the packer packed."""
        return tuple(_unpack(packed)) if len(self.columns) > 1 else (packed,)


def _single(key: Key) -> Any:
    return key[0]
