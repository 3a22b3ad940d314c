"""@table: a table is a function from what it reads to its rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from headrace.declare.event import Contract, contract_of
from headrace.declare.place import Place
from headrace.declare.source import Source
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import parse_duration

if TYPE_CHECKING:
    import dataframely as dy
    import polars as pl

__all__ = ["Day", "Table", "day", "table"]

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Day:
    """Partition by the UTC day of a column.

    One output day D is made from the input days D - before .. D + after, by the input's own time: an
    event's `time` field, or the column that the table read is itself partitioned by. `after` is also
    how long a day stays open: a function that takes `now` is run again for D until the input's clock
    has passed the end of D + after.
    """

    column: str
    before: timedelta = timedelta(0)
    after: timedelta = timedelta(0)


def day(column: str, *, before: str | timedelta = "0s", after: str | timedelta = "0s") -> Day:
    """Partition by the UTC day of `column`, reading whole days `before` and `after` as well.

    Raises:
        ProjectError: `before` or `after` is no whole number of days, or is negative.
    """
    if not isinstance(column, str):
        raise ProjectError(f"day({column!r}): name the column", where=str(Place.of_caller()))
    spans = []
    for name, value in (("before", before), ("after", after)):
        try:
            span = parse_duration(value)
        except ValueError as error:
            raise ProjectError(f"{name}: {error}", where=str(Place.of_caller())) from error
        if span % ONE_DAY:
            raise ProjectError(f"{name}={value!r} must be whole days", where=str(Place.of_caller()))
        if span < timedelta(0):
            raise ProjectError(f"{name}={value!r} must not be negative", where=str(Place.of_caller()))
        spans.append(span)
    return Day(column, *spans)


@dataclass(frozen=True, eq=False)
class Table:
    """A declared table; calling it calls its function.

    Attributes:
        name: the function's name; also the table's in the lake.
        function: from one polars LazyFrame for each of `reads`, in their order, to a LazyFrame. If
            it has a parameter `now`, that gets the input's clock: the latest arrival time of the
            topic at the snapshot read (an aware datetime, the same whenever the same snapshot is
            read again).
        reads: contracts, sources, tables, or names of tables that are declared elsewhere.
        partition_by: see Day; None: the table is replaced whole.
        rowwise: f(a + b) = f(a) + f(b), so that it also runs on the stream.
        schema: a dataframely schema that every row published satisfies, or None.
        place: where it is declared.
        reads_files: files that its code reads by itself, relative to the project's folder; another text
            in one of them makes the table stale.
        env: environment variables that its code reads; another value makes the table stale.
        current: it holds the current rows of the database's table that its contract is on; its function
            is not called (declare.changes.current).
    """

    name: str
    function: Callable[..., pl.LazyFrame]
    reads: tuple[Contract | Source | Table | str, ...]
    partition_by: Day | None
    rowwise: bool
    schema: type[dy.Schema] | None
    place: Place
    current: bool = False
    reads_files: tuple[str, ...] = ()
    env: tuple[str, ...] = ()

    def __call__(self, *frames: pl.LazyFrame, **options: Any) -> pl.LazyFrame:
        return self.function(*frames, **options)

    @property
    def takes_now(self) -> bool:
        """Whether the function has a parameter `now`."""
        return "now" in inspect.signature(self.function).parameters


def table(
    *,
    reads: Any,
    partition_by: Day | None = None,
    rowwise: bool = False,
    schema: type[dy.Schema] | None = None,
    reads_files: str | Sequence[str] = (),
    env: str | Sequence[str] = (),
) -> Callable[[Callable[..., pl.LazyFrame]], Table]:
    """Declares that the decorated function makes the table of its name (see Table for the arguments).

    Raises:
        ProjectError: `reads` names something that cannot be read, the function does not take one
            frame for each, a rowwise table reads several, or `reads_files` leads out of the project.
    """

    def declared(function: Callable[..., pl.LazyFrame]) -> Table:
        place = Place.of(function)
        given: Sequence[Any] = reads if isinstance(reads, (list, tuple)) else [reads]
        inputs = tuple(_readable(one, place) for one in given)
        takes = [n for n in inspect.signature(function).parameters if n != "now"]
        if len(takes) != len(inputs):
            raise ProjectError(
                f"{function.__name__} takes {len(takes)} frames but reads {len(inputs)}", where=str(place)
            )
        if rowwise and (len(inputs) != 1 or isinstance(inputs[0], Source)):
            raise ProjectError("a rowwise table reads one event or one table", where=str(place))
        return Table(
            function.__name__,
            function,
            inputs,
            partition_by,
            rowwise,
            schema,
            place,
            reads_files=_files_in_project(reads_files, place),
            env=(env,) if isinstance(env, str) else tuple(env),
        )

    return declared


def _files_in_project(paths: str | Sequence[str], place: Place) -> tuple[str, ...]:
    listed = (paths,) if isinstance(paths, str) else tuple(paths)
    for path in listed:
        if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
            raise ProjectError(
                f"reads_files={path!r} leads out of the project",
                where=str(place),
                remedy="Name a file by its path from the folder of headrace.toml.",
            )
    return listed


def _readable(one: Any, place: Place) -> Contract | Source | Table | str:
    contract = contract_of(one)
    if contract is not None:
        return contract
    if isinstance(one, (Source, Table, str)):
        return one
    raise ProjectError(
        f"reads={one!r} can't be read",
        where=str(place),
        remedy="Name an @event class, a @table function, a source or a table's name.",
    )
