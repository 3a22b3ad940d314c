"""Filters of the templates: format numbers, times and positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from headrace.flows.trace.lineage import model_facts
from headrace.kernel.html import escape_unprintable
from headrace.kernel.position import Position, SnapshotPosition
from headrace.kernel.time import format_age, now
from headrace.lineage import RunRow
from headrace.lineage.names import kind_and_name

__all__ = ["FILTERS", "show_unprintable"]


def show_unprintable(value: object) -> object:
    """A text with escapes for what is neither printable nor the end of a line; other values as they are."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # a template's own text
        return value
    return "\n".join(map(escape_unprintable, value.split("\n")))


def format_count(value: int) -> str:
    """12345 → 12,345."""
    return f"{value:,}"


def format_number(value: object) -> str:
    """A feature's value with six digits; `missing` for None."""
    if value is None:
        return "missing"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def format_json(value: object) -> str:
    """The value as JSON on one line."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def format_position(position: Position) -> str:
    """A snapshot's id, or the offset of each log partition."""
    if isinstance(position, SnapshotPosition):
        return f"snapshot {position.snapshot_id}"
    offsets = ", ".join(f"{partition}:{offset}" for partition, offset in sorted(position.offsets.items()))
    return f"up to {offsets or 'the beginning'}"


def format_pairs(values: Mapping[str, Any]) -> str:
    """`name value` for each value that is not missing."""
    return ", ".join(
        f"{name} {value if isinstance(value, datetime) else format_number(value)}"
        for name, value in values.items()
        if value is not None
    )


def format_moment(value: datetime | None) -> str:
    """Date and time to the second; empty for None."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def format_moment_age(value: timedelta | datetime | None) -> str:
    """How long ago, in the largest unit that fits; `never` for None."""
    if value is None:
        return "never"
    return format_age(value if isinstance(value, timedelta) else now() - value)


def format_duration(run: RunRow) -> str:
    """How long a run took; empty while it runs."""
    if run.ended is None:
        return ""
    seconds = (run.ended - run.started).total_seconds()
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


FILTERS: dict[str, Callable[..., Any]] = {
    "age": format_moment_age,
    "count": format_count,
    "duration": format_duration,
    "json": format_json,
    "kind_and_name": kind_and_name,
    "model_facts": model_facts,
    "moment": format_moment,
    "number": format_number,
    "pairs": format_pairs,
    "position": format_position,
}
