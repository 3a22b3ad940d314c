"""The range of a table that a build makes, stale or not."""

from __future__ import annotations

from datetime import date

from msgspec import Struct

__all__ = ["BuildRange"]


class BuildRange(Struct, frozen=True):
    """The partitions that a build was asked to make.

    Attributes:
        first, last: the first and the last day; both None: the whole table.
    """

    first: date | None = None
    last: date | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the whole table is to be made."""
        return self.first is None or self.last is None
