"""Settings of features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from headrace.kernel.addresses import sqlite_address
from headrace.kernel.memory import memory_limit

__all__ = ["FeatureSettings"]


Memory: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 24)]
_SHARE = 4


class FeatureSettings(Struct, frozen=True):
    """Where Feast keeps its objects.

    Attributes:
        state: the state folder.
        feast_registry: `file` (Feast's own format, in the state folder), or an SQL database: `sqlite` (a file
            in the state folder), `sqlite:///path/to/file.db`, or `postgresql://host:port/database`, without a
            password.
        join_memory: how many MiB the join of a training set may take beside its labels; a larger one is made
            in parts. None: a quarter of the memory of the machine, or of its container.
    """

    state: Path
    feast_registry: str = "file"
    join_memory: Memory | None = None

    @property
    def registry_url(self) -> str:
        """Where Feast's registry is: `file`, `sqlite:///file` or `postgresql://...`."""
        if self.feast_registry == "sqlite":
            return sqlite_address(self.state / "feast_registry.db")
        return self.feast_registry

    @property
    def join_bytes(self) -> int:
        """The bytes that a join may take."""
        return memory_limit() // _SHARE if self.join_memory is None else self.join_memory << 20
