"""Positions of readers, stored as properties of the table that they write to."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.kernel.errors import Conflict
from headrace.kernel.position import LogPosition, Position, decode_position, encode_position
from headrace.kernel.properties import POSITION

__all__ = ["find_position", "move_position"]

_REMEDY = "Read the position again, and continue from there."


def find_position(properties: Mapping[str, str], name: str) -> Position | None:
    """The position stored under this name in a table's properties, or None."""
    text = properties.get(POSITION + name)
    return None if text is None else decode_position(text)


def move_position(
    properties: Mapping[str, str], name: str, expected: Position | None, new: Position, *, table: str
) -> dict[str, str]:
    """Returns the property that moves a position.

    Args:
        properties: the table's properties.
        name: the position's name.
        expected: the position that must be stored.
        new: the new position.
        table: the table's name, for errors.

    Raises:
        Conflict: the stored position is not the expected one. For a log position, only the partitions that move
            are compared.
    """
    stored = find_position(properties, name)
    where = f"table {table}: position {name!r}"
    if isinstance(new, LogPosition):
        return {POSITION + name: encode_position(_move_log_position(stored, expected, new, where))}
    if stored != expected:
        raise Conflict("another writer moved the position", where=where, remedy=_REMEDY)
    return {POSITION + name: encode_position(new)}


def _move_log_position(
    stored: Position | None, expected: Position | None, new: LogPosition, where: str
) -> LogPosition:
    start = LogPosition(new.topic, new.log_id)
    stored = stored or start
    if not isinstance(stored, LogPosition) or (stored.topic, stored.log_id) != (new.topic, new.log_id):
        raise Conflict(
            f"the position belongs to another log than {new.topic} ({new.log_id})",
            where=where,
            remedy="The topic was created again under its name: give the new topic another table.",
        )
    before = expected if isinstance(expected, LogPosition) else start
    moves = {p: o for p, o in new.offsets.items() if o != before.next_offset(p)}
    for partition in moves:
        if stored.next_offset(partition) != before.next_offset(partition):
            raise Conflict(
                f"another writer moved log partition {partition} to {stored.next_offset(partition)}; "
                f"expected was {before.next_offset(partition)}",
                where=where,
                remedy=_REMEDY,
            )
    return stored.with_offsets(moves)
