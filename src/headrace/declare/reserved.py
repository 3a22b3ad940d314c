"""The names of columns that Headrace adds to tables, and that a project's own columns cannot have."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.kernel.errors import ProjectError

__all__ = ["EVENT_COLUMNS", "FAILING_ROW_COLUMNS", "refuse_reserved"]

EVENT_COLUMNS = frozenset(
    {
        *("_log_partition", "_log_offset", "_arrived_at", "_known_at", "_valid", "_extra"),
        *("_raw", "_code", "_field", "_reason", "_first_partition", "_first_offset"),
    }
)
"""Those of a topic's table."""
FAILING_ROW_COLUMNS = frozenset({"_rule", "_severity", "_partition", "_audited_at"})
"""Those of the failing rows of an audited table."""


def refuse_reserved(
    columns: Iterable[str], reserved: frozenset[str], table: str, place: str, remedy: str
) -> None:
    """Refuses columns that Headrace adds itself.

    Args:
        columns: the project's columns.
        reserved: the columns that Headrace adds.
        table: the table to which it adds them, in words.
        place: where the columns are declared.
        remedy: what to do.

    Raises:
        ProjectError: a column has such a name.
    """
    taken = sorted(reserved.intersection(columns))
    if taken:
        raise ProjectError(
            f"{', '.join(map(repr, taken))} {'is a column' if len(taken) == 1 else 'are columns'}"
            f" that Headrace adds to {table}",
            where=place,
            remedy=remedy,
        )
