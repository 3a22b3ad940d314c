"""The range of a table that a build makes, stale or not."""

from __future__ import annotations

from datetime import date

from msgspec import Struct

from headrace.kernel.errors import CallError

__all__ = ["BuildRange"]


class BuildRange(Struct, frozen=True):
    """The partitions that a build was asked to make.

    Attributes:
        first, last: the first and the last day; both None: the whole table.

    Raises:
        CallError: the first day is after the last one.
    """

    first: date | None = None
    last: date | None = None

    def __post_init__(self) -> None:
        if self.first is not None and self.last is not None and self.first > self.last:
            raise CallError(
                f"the first day {self.first} is after the last day {self.last}", remedy="Exchange the two days."
            )

    @property
    def is_whole(self) -> bool:
        """Whether the whole table is to be made."""
        return self.first is None or self.last is None
