"""fresh_within(...): the newest row is at most so old."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from headrace.declare.audits import FreshWithin
from headrace.kernel.errors import ProjectError
from headrace.tables.audits.port import AuditScope, RuleFailure, find_type

__all__ = ["check_freshness"]


def check_freshness(audit: FreshWithin, scope: AuditScope) -> RuleFailure | None:
    """Checks how old the newest row is. A table without rows is not fresh.

    Raises:
        ProjectError: the column does not exist, or has no times.
    """
    table, partitioning = scope.table, scope.table.partition_by
    where = f"table {table.name} ({table.place})"
    column = audit.column or (partitioning.column if partitioning is not None else "")
    dtype = find_type(str(audit), scope.all_rows, table.name, column, where)
    if not (isinstance(dtype, pl.Datetime) or dtype == pl.Date):
        raise ProjectError(
            f"its audit {audit} needs a column with times, but {column!r} is {dtype}",
            where=where,
            remedy='Name a datetime or a date: fresh_within(..., column="at").',
        )
    newest = scope.all_rows.select(pl.col(column).max()).collect(engine="streaming").item()
    if newest is None:
        return RuleFailure("no row has a time")
    age = scope.now - _moment(newest, None if partitioning is None else partitioning.timezone)
    if age <= audit.age:
        return None
    shown = newest.isoformat() if isinstance(newest, date) else str(newest)
    return RuleFailure(f"the newest row is of {shown}, {_spell(age)} ago")


def _moment(newest: date | datetime, timezone: str | None) -> datetime:
    """The instant of a time; of a date, the end of the day."""
    zone = UTC if timezone is None else ZoneInfo(timezone)
    if isinstance(newest, datetime):
        return newest if newest.tzinfo is not None else newest.replace(tzinfo=zone)
    if newest == date.max:
        return datetime.max.replace(tzinfo=UTC)
    return datetime.combine(newest + timedelta(days=1), datetime.min.time(), zone).astimezone(UTC)


def _spell(age: timedelta) -> str:
    hours = age / timedelta(hours=1)
    return f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:.1f} hours"
