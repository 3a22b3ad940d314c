"""The rows of its input that a rowwise function failed on: how they are described, stored and read.

A status reads them, so this module loads no engine.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from msgspec import Struct

from headrace.kernel.counts import plural

__all__ = [
    "FailedRow",
    "cut",
    "describe_failures",
    "describe_row",
    "failure_limit",
    "merge_failures",
    "read_failures",
    "spell_row",
    "spell_value",
]

_EXAMPLES = 3  # rows of a partition that are stored with their error
_FEW = 100  # rows that a function may fail on, however few rows there are
_SHARE = 10  # otherwise, one row in so many
_MAX_TEXT = 300  # characters


def failure_limit(rows: int) -> int:
    """How many of these rows a function may fail on. If it fails on more, it is wrong, not the rows."""
    return max(_FEW, rows // _SHARE)


class FailedRow(Struct, frozen=True):
    """A row of the input that a rowwise function failed on.

    Attributes:
        row: the event's `TOPIC@PARTITION:OFFSET`, or the values of the row.
        error: the function's error.
        where: the line that raised it.
        partition: the name of the input's partition, if the table has partitions.
    """

    row: str
    error: str
    where: str | None
    partition: str | None = None


def describe_row(row: Mapping[str, Any]) -> str:
    """The values of a row, in at most 300 characters."""
    return cut(spell_row(row))


def spell_row(row: Mapping[str, Any]) -> str:
    """The values of a row by their names: `user=7, at=2026-11-03 10:00:00+00:00`."""
    return ", ".join(f"{name}={spell_value(value)}" for name, value in row.items())


def spell_value(value: object) -> str:
    """A value as Python writes it, but a moment, a duration and a decimal as text."""
    if isinstance(value, (date, time, timedelta, Decimal)):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + spell_row(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spell_value, value)) + "]"
    return repr(value)


def cut(text: str) -> str:
    """The text, or its first 300 characters."""
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def describe_failures(table: str, failed: Sequence[FailedRow]) -> str:
    """The rows that were left out, in a sentence without a period."""
    count = len(failed)
    rows = f"{plural(count, 'row')} that"
    return f"left out {rows} {table}() fails on: {failed[0].row}: {failed[0].error}"


def merge_failures(stored: str | None, partitions: Collection[str], failed: Sequence[FailedRow]) -> str:
    """The property FAILED_ROWS after a build.

    Args:
        stored: the property before; None if all of the input was read.
        partitions: the names of the input partitions that the build has read.
        failed: the rows that the function failed on.
    """
    entries = {name: entry for name, entry in json.loads(stored or "{}").items() if name not in partitions}
    for failure in failed:
        entry = entries.setdefault(failure.partition or "", [0])
        entry[0] += 1
        if len(entry) <= _EXAMPLES:
            entry.append(f"{failure.row}: {failure.error}")
    return json.dumps(dict(sorted(entries.items())))


def read_failures(stored: str | None) -> tuple[int, list[str]]:
    """How many rows of a table's input were left out, and the newest examples of them, by FAILED_ROWS."""
    entries = list(json.loads(stored or "{}").values())
    return sum(entry[0] for entry in entries), [text for entry in reversed(entries) for text in entry[1:]]
