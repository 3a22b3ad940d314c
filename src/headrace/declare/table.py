"""@table: a table is a function from its inputs to its rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import attrs

from headrace.declare.audits import Audit, FreshWithin
from headrace.declare.convert import to_tuple
from headrace.declare.event import Contract, contract_of
from headrace.declare.partitioning import Partitioning
from headrace.declare.place import Place
from headrace.declare.reserved import FAILING_ROW_COLUMNS, refuse_reserved
from headrace.declare.source import Source
from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    import dataframely as dy
    import polars as pl

    from headrace.declare.query import Query

__all__ = ["Table", "check_audits", "table"]


@attrs.frozen(kw_only=True, eq=False)
class Table:
    """A declared table; calling it calls its function.

    Attributes:
        name: the function's name, also the table's name in the lake.
        function, reads, partition_by, rowwise, schema, renames, reads_files, env: see `table`.
        place: the line of the declaration.
        current: whether it holds the current rows of a database table (declare.changes.current). The build
            then makes it without its function.
        query: the query of a database that makes it instead of its function (declare.query).
        audits: see `table`.
    """

    name: str
    function: Callable[..., pl.LazyFrame]
    reads: tuple[Contract | Source | Table | str, ...]
    place: Place
    partition_by: Partitioning | None = None
    rowwise: bool = False
    schema: type[dy.Schema] | None = None
    renames: Mapping[str, str] = attrs.field(factory=dict)
    current: bool = False
    reads_files: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    query: Query | None = None
    audits: tuple[Audit, ...] = ()

    def __call__(self, *frames: pl.LazyFrame, **options: Any) -> pl.LazyFrame:
        return self.rename(self.function(*frames, **options))

    def rename(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows of the function, with the table's names of the columns."""
        return rows.rename(self.renames) if self.renames else rows

    @property
    def takes_now(self) -> bool:
        """Whether the function has a parameter `now`."""
        return "now" in inspect.signature(self.function).parameters

    @property
    def references(self) -> tuple[str, ...]:
        """The names of the other tables that its audits read, each once."""
        names = [audit.other_table for audit in self.audits if audit.other_table not in (None, self.name)]
        return tuple(dict.fromkeys(name for name in names if name is not None))


def table(
    *,
    reads: Any,
    partition_by: Partitioning | None = None,
    rowwise: bool = False,
    schema: type[dy.Schema] | None = None,
    renames: Mapping[str, str] | None = None,
    reads_files: str | Sequence[str] = (),
    env: str | Sequence[str] = (),
    audits: Audit | Sequence[Audit] = (),
) -> Callable[[Callable[..., pl.LazyFrame]], Table]:
    """Declares that the decorated function makes the table of its name.

        @table(reads=Click, partition_by=day("at"))
        def purchases(clicks: pl.LazyFrame) -> pl.LazyFrame:
            return clicks.filter(pl.col("price") > 0)

    The function takes one polars LazyFrame for each of `reads`, in their order, and returns a LazyFrame. If it
    has a parameter `now`, that gets the input's clock: the latest arrival on the topic as of the snapshot that
    is read, an aware datetime. It is the same whenever the same snapshot is read again.

    Args:
        reads: an @event or @changes class, a source, a table, or the name of a table that is declared
            elsewhere; or a list of these.
        partition_by: the partitioning (`hour`, `day`, `month` or `by`). Only the partitions whose input changed
            are rebuilt. None: the table is replaced as a whole.
        rowwise: whether the function handles every row by itself, f(a + b) = f(a) + f(b). Such a table reads
            one event or table, and also runs on the stream.
        schema: a dataframely schema of every published row; None: no check.
        renames: column of the function's rows → its name in the table; a later rename makes no row again.
        reads_files: files that the function reads by itself, relative to the project's folder. A change in
            one of them makes the table stale.
        env: environment variables that the function reads. Another value makes the table stale.
        audits: what must hold of the rows besides the schema (`references`, `fresh_within`, `rows_like_before`,
            `satisfies`), before they are published.

    Raises:
        ProjectError: an input or the partitioning is not valid, a column is renamed twice, the function does
            not take one frame for each input, a rowwise table reads several or a source, a path in
            `reads_files` leaves the project, or an audit is not valid or names a column that the schema lacks.
    """

    def declare(function: Callable[..., pl.LazyFrame]) -> Table:
        place = Place.of(function)
        return Table(
            name=function.__name__,
            function=function,
            reads=_check_reads(reads, function, place, rowwise=rowwise),
            place=place,
            partition_by=_check_partitioning(partition_by, place),
            rowwise=rowwise,
            schema=schema,
            renames=_check_renames({} if renames is None else renames, place),
            reads_files=_check_files(to_tuple(reads_files), place),
            env=to_tuple(env),
            audits=check_audits(audits, partition_by, schema, place),
        )

    return declare


def _check_reads(reads: Any, function: Callable[..., Any], place: Place, *, rowwise: bool) -> tuple[Any, ...]:
    values = reads if isinstance(reads, (list, tuple)) else [reads]
    inputs = tuple(_check_input(value, place) for value in values)
    _check_parameters(function, len(inputs), place)
    if rowwise and (len(inputs) != 1 or isinstance(inputs[0], Source)):
        raise ProjectError(
            "a rowwise table reads one event or one table",
            where=str(place),
            remedy="Leave out rowwise=True: it says that the function also runs on events as they come.",
        )
    return inputs


def _check_parameters(function: Callable[..., Any], inputs: int, place: Place) -> None:
    """Checks that the function takes what a build gives it: a frame for each input, and `now` if named."""
    signature = inspect.signature(function)
    options = {"now": None} if "now" in signature.parameters else {}
    try:
        signature.bind(*[None] * inputs, **options)
    except TypeError as error:
        raise ProjectError(
            f"{function.__name__} cannot be called with {plural(inputs, 'frame')}: {error}",
            where=str(place),
            remedy="It gets a polars LazyFrame for each of reads=, in their order, and now= if it has a"
            " parameter of this name.",
        ) from error


def _check_partitioning(value: Any, place: Place) -> Partitioning | None:
    if value is None or isinstance(value, Partitioning):
        return value
    raise ProjectError(
        f"partition_by={value!r} is not a partitioning",
        where=str(place),
        remedy='Write hour("at"), day("at"), month("at") or by("user_id", parts=64).',
    )


def _check_renames(renames: Any, place: Place) -> Mapping[str, str]:
    if not isinstance(renames, Mapping):
        raise ProjectError(
            f"renames={renames!r} is not a dict",
            where=str(place),
            remedy='Write renames={"the function\'s name": "the table\'s name"}.',
        )
    names = list(renames.values())
    for old, new in renames.items():
        if not (isinstance(old, str) and isinstance(new, str) and old and new):
            raise ProjectError(f"renames={renames!r}: a column's name is a text", where=str(place))
        if new in renames or names.count(new) > 1:
            raise ProjectError(
                f"renames={renames!r} gives {new!r} two meanings",
                where=str(place),
                remedy="Name each column once: the function's name, and then the table's.",
            )
    return dict(renames)


def check_audits(
    audits: Any, partition_by: Partitioning | None, schema: type[dy.Schema] | None, place: Place
) -> tuple[Audit, ...]:
    """The declared audits of a table, each once.

    Raises:
        ProjectError: one is not an audit, is there twice, or names a column that the schema lacks; or it needs
            the rows' time, and the table has neither partitions of time nor a named column; or the schema has a
            column that Headrace adds to failing rows.
    """
    declared = tuple(audits) if isinstance(audits, (list, tuple)) else (audits,)
    if schema is not None:
        refuse_reserved(
            schema.column_names(),
            FAILING_ROW_COLUMNS,
            "the failing rows of an audit",
            str(place),
            f"Give the column another name in the schema {schema.__name__} and in the table.",
        )
    rules: set[str] = set()
    for audit in declared:
        if not isinstance(audit, Audit):
            raise ProjectError(
                f"audits={audit!r} is not an audit",
                where=str(place),
                remedy='Write references("user", users), fresh_within("2h"), rows_like_before(0.5) or'
                " satisfies(Schema).",
            )
        if str(audit) in rules:
            raise ProjectError(f"the audit {audit} is there twice", where=str(place))
        rules.add(str(audit))
        has_time = partition_by is not None and partition_by.is_time
        if isinstance(audit, FreshWithin) and audit.column is None and not has_time:
            raise ProjectError(
                f"{audit} does not know the rows' time, because the table has no partitions of time",
                where=str(place),
                remedy=f'Name the column: fresh_within("{audit.text}", column="at").',
            )
        for column in audit.columns:
            if schema is not None and column not in schema.column_names():
                raise ProjectError(
                    f"the audit {audit} names column {column!r}, which the schema {schema.__name__} lacks",
                    where=str(place),
                    remedy=f"Its columns are: {', '.join(schema.column_names())}.",
                )
    return declared


def _check_files(paths: tuple[str, ...], place: Place) -> tuple[str, ...]:
    for path in paths:
        if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
            raise ProjectError(
                f"reads_files={path!r} leads out of the project",
                where=str(place),
                remedy="Name a file by its path from the folder of headrace.toml.",
            )
    return paths


def _check_input(value: Any, place: Place) -> Contract | Source | Table | str:
    contract = contract_of(value)
    if contract is not None:
        return contract
    if isinstance(value, (Source, Table, str)):
        return value
    raise ProjectError(
        f"reads={value!r} is not a valid input",
        where=str(place),
        remedy="Name an @event class, a @table function, a source or a table's name.",
    )
