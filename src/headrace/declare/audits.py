"""Audits of tables: what must hold before a table is published, beside the rules of its schema.

This module only declares; `tables.audits` checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import attrs

from headrace.declare.convert import to_duration, to_tuple
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    import dataframely as dy

    from headrace.declare.table import Table

__all__ = [
    "Audit",
    "FreshWithin",
    "References",
    "RowsLikeBefore",
    "Satisfies",
    "Severity",
    "fresh_within",
    "references",
    "rows_like_before",
    "satisfies",
]

Severity = Literal["error", "warn"]
"""What a failed audit does: the table is not published, or it is published and the build says what failed."""


def _check_severity(_audit: Audit, _field: Any, value: Any) -> None:
    if value not in ("error", "warn"):
        raise ProjectError(
            f"severity={value!r} is not a severity",
            where=str(Place.of_caller()),
            remedy='Write "error" (the table is not published) or "warn" (it is).',
        )


@attrs.frozen
class Audit:
    """The base class of every audit's declaration.

    Attributes:
        severity: what a failure does.
    """

    severity: Severity = attrs.field(default="error", kw_only=True, validator=_check_severity)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that it names."""
        return ()

    @property
    def other_table(self) -> str | None:
        """The name of another table that it reads; None: it reads none."""
        return None


@attrs.frozen
class References(Audit):
    """See `references`."""

    columns: tuple[str, ...]
    table: Table | str
    key: tuple[str, ...]

    @property
    def other_table(self) -> str:
        """The name of the table with the keys."""
        return self.table if isinstance(self.table, str) else self.table.name

    def __str__(self) -> str:
        columns = ", ".join(self.columns)
        key = "" if self.key == self.columns else f" ({', '.join(self.key)})"
        return f"references {columns} → {self.other_table}{key}"


@attrs.frozen
class FreshWithin(Audit):
    """See `fresh_within`."""

    text: str
    age: timedelta
    column: str | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The column with the rows' time, if it is named."""
        return () if self.column is None else (self.column,)

    def __str__(self) -> str:
        return f"fresh_within {self.text}"


@attrs.frozen
class RowsLikeBefore(Audit):
    """See `rows_like_before`."""

    share: float

    def __str__(self) -> str:
        return f"rows_like_before {self.share:g}"


@attrs.frozen
class Satisfies(Audit):
    """See `satisfies`."""

    schema: type[dy.Schema]

    @property
    def columns(self) -> tuple[str, ...]:
        """The schema's columns."""
        return tuple(self.schema.column_names())

    def __str__(self) -> str:
        return f"satisfies {self.schema.__name__}"


def references(
    columns: str | Sequence[str],
    table: Table | str,
    *,
    key: str | Sequence[str] | None = None,
    severity: Severity = "error",
) -> References:
    """Declares that each row's value is a key of another table, or of the same one.

        @table(reads=Order, audits=[references("product_id", products, key="id")])

    A row without a value in one of the columns refers to nothing, and passes: `nullable=False` in the table's
    schema forbids it. The other table is built first.

    Args:
        columns: a column of the table, or several that are one key together.
        table: the table with the keys, or its name.
        key: the columns of the key there; by default those of the same names.
        severity: what a failure does.

    Raises:
        ProjectError: `table` is not a table, the columns are not text or are more or fewer than those of the
            key, or the severity is not valid.
    """
    from headrace.declare.table import Table

    place, names = str(Place.of_caller()), to_tuple(columns)
    keys = names if key is None else to_tuple(key)
    if not names or not all(isinstance(name, str) for name in (*names, *keys)):
        raise ProjectError(f"references({columns!r}): name the columns", where=place)
    if len(names) != len(keys):
        raise ProjectError(
            f"references({columns!r}) has {len(names)} columns, but its key has {len(keys)}", where=place
        )
    if not isinstance(table, (Table, str)):
        raise ProjectError(
            f"references({columns!r}, {table!r}) does not name a table",
            where=place,
            remedy="Name a @table function, or a table by its name.",
        )
    return References(names, table, keys, severity=severity)


def fresh_within(
    age: str | timedelta, *, column: str | None = None, severity: Severity = "error"
) -> FreshWithin:
    """Declares that the newest row is at most so old when the table is audited.

        @table(reads=Click, partition_by=day("at"), audits=[fresh_within("2h", severity="warn")])

    Args:
        age: a duration, such as `2h`.
        column: the column with the rows' time, a datetime (UTC if it has no zone) or a date (a day's rows are
            as new as its end); by default the column of the table's partitions of time.
        severity: what a failure does.

    Raises:
        ProjectError: the age is not a positive duration, or the severity is not valid.
    """
    span = to_duration(age)
    if span <= timedelta(0):
        raise ProjectError(f"fresh_within({age!r}) must be positive", where=str(Place.of_caller()))
    return FreshWithin(str(age), span, column, severity=severity)


def rows_like_before(share: float, *, severity: Severity = "error") -> RowsLikeBefore:
    """Declares that the number of rows is like that of the table's own history, within a share of it.

        @table(reads=Click, partition_by=day("at"), audits=[rows_like_before(0.5)])

    Of a table with partitions of time, each partition that is complete is compared: one that was published
    with its own rows then, a new one with the median of the (at most seven) before it. The newest is still
    being filled, and is compared once there is a newer one. Any other table is compared as a whole with the
    rows that are published. The first build has no history, and passes.

    Args:
        share: 0.5: from half as many rows to half as many again.
        severity: what a failure does.

    Raises:
        ProjectError: the share is not a positive number, or the severity is not valid.
    """
    is_number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if not is_number or not 0 < share < float("inf"):
        raise ProjectError(
            f"rows_like_before({share!r}) needs a positive share, such as 0.5", where=str(Place.of_caller())
        )
    return RowsLikeBefore(float(share), severity=severity)


def satisfies(schema: type[dy.Schema], *, severity: Severity = "error") -> Satisfies:
    """Declares that the rows satisfy the rules of a further schema, which may name only some of the columns.

        @table(reads=Click, schema=Clean, audits=[satisfies(Plausible, severity="warn")])

    Args:
        schema: a dataframely schema. Its rules about several rows, and its primary key, hold over the whole
            table.
        severity: what a failure does.

    Raises:
        ProjectError: it is not a schema, or the severity is not valid.
    """
    import dataframely as dy

    if not (isinstance(schema, type) and issubclass(schema, dy.Schema)):
        raise ProjectError(
            f"satisfies({schema!r}) does not name a dataframely schema", where=str(Place.of_caller())
        )
    return Satisfies(schema, severity=severity)
