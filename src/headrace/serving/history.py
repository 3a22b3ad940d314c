"""Histories: topics whose last record is in force, and where a rollback restores the record before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["find_previous"]


class _Record(Protocol):
    """A record of such a topic.

    Attributes:
        id: unique.
        restores: for a rollback, the id of the record whose content it restores.
    """

    @property
    def id(self) -> str: ...
    @property
    def restores(self) -> str | None: ...


R = TypeVar("R", bound=_Record)


def find_previous(records: Sequence[R]) -> R | None:
    """The record that a rollback would restore; None if there is none.

    After a rollback it is the one before the restored record, so that a second rollback restores an older one.

    Args:
        records: every record, oldest first.
    """
    index = _original_index(records, len(records) - 1) if records else 0
    return None if index == 0 else records[_original_index(records, index - 1)]


def _original_index(records: Sequence[_Record], index: int) -> int:
    """The index of the record that first had this content; for a rollback, that of the record it restores."""
    indexes = {record.id: place for place, record in enumerate(records)}
    while (restored := records[index].restores) is not None and indexes.get(restored, index) < index:
        index = indexes[restored]
    return index
