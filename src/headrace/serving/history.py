"""Histories: topics whose last record is in force, and where a rollback restores the record before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
from msgspec import Struct

from headrace.kernel.errors import NotAppended, Unavailable

if TYPE_CHECKING:
    from headrace.log import Log

__all__ = ["append_record", "find_previous"]


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


def append_record(log: Log, topic: str, record: Struct, key: str, name: str) -> tuple[int, int]:
    """Puts a record in force. It is durable on return.

    Args:
        log: the log.
        topic: the topic, which is created if it does not exist.
        record: the record.
        key: its key.
        name: how an error names it, such as `release 0199...`.

    Returns:
        The log partition and the offset of the record.

    Raises:
        Unavailable: it was not recorded; or the log did not answer, and it may be recorded nevertheless. The
            error says which.
    """
    is_tried = False
    try:
        log.create(topic)
        is_tried = True
        return log.append(topic, [msgspec.json.encode(record)], [key.encode()])[0]
    except Unavailable as error:
        if not is_tried or isinstance(error, NotAppended):
            what = f"{name} was not recorded: {error.what}"
            raise NotAppended(what, where=error.where, remedy=error.remedy) from error
        raise Unavailable(  # whoever runs a rollback twice goes back twice
            f"it is not known whether {name} was recorded: {error.what}",
            where=error.where,
            remedy=f"Once the log answers, headrace status, or the last record on topic {topic}, shows what is"
            " in force. Look before you run it again.",
        ) from error


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
