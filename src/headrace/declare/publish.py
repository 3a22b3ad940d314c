"""@publish: tables as a star schema in PostgreSQL: dimensions, facts and views."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from headrace.declare.place import Place
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Dimension", "Fact", "Publication", "publish"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,50}")  # a name in PostgreSQL is cut off after 63 bytes


@attrs.frozen(eq=False)
class Dimension:
    """A dimension of a star schema.

        users = Dimension("dim_user", clean_events, key="user_id", rows=describe_users)

    Its table in PostgreSQL has a surrogate key (`dim_user` → `user_key`), and the columns of its rows.

    Attributes:
        name: its name in PostgreSQL: lower-case letters, digits and `_`.
        reads: the table that it is made from.
        key: the column that identifies a member.
        rows: a function from the frame of `reads` to the rows: one for each member, or with `since` one for
            each state of it. None: the rows of `reads`.
        since: the time from which a state of a member holds: the dimension keeps the history (type 2). Its
            table then has `valid_from`, `valid_to` (null: now) and `is_current` instead.
    """

    name: str
    reads: Table
    key: str
    rows: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None
    since: str | None = None

    @property
    def surrogate(self) -> str:
        """The name of its surrogate key."""
        return f"{self.name.removeprefix('dim_')}_key"


@attrs.frozen(eq=False)
class Fact:
    """A table of facts of a star schema: its columns, with surrogate keys instead of the dimensions' own.

        Fact("fact_events", clean_events, time="event_time", references={"user_id": users})

    Attributes:
        name: its name in PostgreSQL.
        reads: the table with the facts. Of one that is partitioned by the hour, day or
            month of `time`, only changed partitions are replaced.
        time: the column with the facts' time. It chooses the state of a dimension with history, and the row of
            `dim_date`, to which `date_key` refers.
        references: column → the dimension whose key it is.
        columns: the other columns; None: all.
    """

    name: str
    reads: Table
    time: str
    references: Mapping[str, Dimension]
    columns: Sequence[str] | None = None


@attrs.frozen(eq=False)
class Publication:
    """A star schema that a build publishes (see `publish`).

    Attributes:
        name: its schema in PostgreSQL.
        database: the name of the database among the setting `databases`.
        facts: its facts.
        views: view → its SELECT.
        function: the function that returned the views.
        place: the line of the declaration.
    """

    name: str
    database: str
    facts: tuple[Fact, ...]
    views: Mapping[str, str]
    function: Callable[[], Mapping[str, str]]
    place: Place

    @property
    def dimensions(self) -> list[Dimension]:
        """Its dimensions, each once."""
        return list(dict.fromkeys(d for fact in self.facts for d in fact.references.values()))

    @property
    def tables(self) -> list[Table]:
        """The tables that it is made from, each once."""
        read = [dimension.reads for dimension in self.dimensions] + [fact.reads for fact in self.facts]
        return list(dict.fromkeys(read))


def publish(
    *, database: str, facts: Sequence[Fact]
) -> Callable[[Callable[[], Mapping[str, str]]], Publication]:
    """Declares that a build publishes facts and their dimensions as a star schema in PostgreSQL.

        @publish(database="warehouse", facts=[events])
        def shop():
            return {"sales_by_day": "select date_key, sum(price) from fact_events group by 1"}

    The function's name is the schema's; it returns the views: name → SELECT, which names the tables without a
    schema. Nothing is published in a profile whose setting `databases` lacks the database.

    Args:
        database: the name of the database; headrace.toml has its address.
        facts: the facts, which name their dimensions.

    Raises:
        ProjectError: a name is not valid or is there twice, or there are no facts.
    """

    def declare(function: Callable[[], Mapping[str, str]]) -> Publication:
        place = Place.of(function)
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            raise ProjectError(
                f"{function.__name__} cannot be called without arguments: {error}",
                where=str(place),
                remedy="It returns the views and takes nothing: def NAME():",
            ) from error
        views = dict(function())
        publication = Publication(function.__name__, database, tuple(facts), views, function, place)
        names = [fact.name for fact in facts] + [d.name for d in publication.dimensions] + list(views)
        for name in (function.__name__, *names):
            if not _NAME.fullmatch(name):
                raise ProjectError(
                    f"{name!r} is not a valid name in PostgreSQL",
                    where=str(place),
                    remedy="Use at most 51 lower-case letters, digits and _, and begin with a letter.",
                )
            if names.count(name) > 1 or name in ("dim_date", "headrace_publication"):
                raise ProjectError(f"{name!r} is there twice", where=str(place), remedy="Rename one of them.")
        if not facts:
            raise ProjectError("there are no facts to publish", where=str(place))
        return publication

    return declare
