"""@changes: a contract on a table of a database, as a msgspec struct of its row.

Its events are the changes of the table's rows in Debezium's envelopes, whoever put them on the topic.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Struct

from headrace.declare.alerts import Alerts
from headrace.declare.event import Contract, contract_of
from headrace.declare.place import Place
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import parse_duration

__all__ = ["CHANGED_AT", "CHANGE_FIELDS", "SNAPSHOT_ENDS", "changes", "current"]

S = TypeVar("S", bound=type[Struct])

CHANGED_AT = "_changed_at"
CHANGE_FIELDS: list[tuple[str, Any, Any]] = [
    ("_op", str | None, None),
    ("_lsn", int | None, None),
    (CHANGED_AT, datetime | None, None),
    ("_transaction", int | None, None),
    ("_snapshot", str | None, None),
    ("_unchanged", list[str] | None, None),
]
"""What a change says of itself, beside the columns of its row: what was done (`c`, `u`, `d`, `r`: read by a
snapshot, `t`: truncated); where it stands in the database's log; when it was committed, and by which
transaction; its place in a snapshot; the columns whose values the database did not send."""

SNAPSHOT_ENDS = ("last", "last_in_data_collection")
"""`_snapshot` of the row that ends the snapshot of its table."""

_ANY_TIME = timedelta(days=36_500)  # the database's clock is not judged


def changes(
    *,
    topic: str,
    key: Sequence[str],
    dedup_within: str | timedelta = "1d",
    extra: Literal["allow", "forbid"] = "allow",
    time_unit: Literal["ms", "us", "ns"] | None = None,
    partitions: int = 1,
    retention: str | timedelta | None = None,
    version: int = 1,
) -> Callable[[S], S]:
    """Declares that the decorated struct is a row of the table whose changes come on a topic.

    Args:
        topic: as Debezium names it: PREFIX.SCHEMA.TABLE.
        key: the columns of the table's primary key.
        dedup_within: how long after a change (by the source's clock) the same one again is refused as a
            duplicate; Debezium sends again what it had sent just before it was stopped.
        extra: what to do with columns that the struct does not name.
        time_unit: what a number counts that stands for an instant, since 1970: milli-, micro- or nanoseconds.
            A schema beside the row says so for itself. None: such a number is refused.
        partitions: how many log partitions the topic is made with.
        retention: how long the log keeps a change at least; None: what the topic has.
        version: raised when a column goes, or rows that were good are refused (see Contract).

    Raises:
        ProjectError: the topic is not of that form, the key is empty, names no field or one that may be
            null, a field begins with `_` or the class is no msgspec Struct, or has a `__post_init__`; there is
            no such unit.
    """

    def declared(struct: S) -> S:
        place = Place.of(struct)
        if not (inspect.isclass(struct) and issubclass(struct, Struct)):
            raise ProjectError("@changes needs a class that derives from headrace.Struct", where=str(place))
        _check(struct, topic, key, place)
        if time_unit not in (None, "ms", "us", "ns"):
            raise ProjectError(f"time_unit={time_unit!r} is not ms, us or ns", where=str(place))
        try:
            spans = parse_duration(dedup_within), None if retention is None else parse_duration(retention)
        except ValueError as error:
            raise ProjectError(str(error), where=str(place)) from error
        change: type[Struct] = msgspec.defstruct(
            struct.__name__, CHANGE_FIELDS, bases=(struct,), module=struct.__module__, kw_only=True
        )
        struct.__contract__ = Contract(  # type: ignore[attr-defined]
            topic=topic, struct=change, time=CHANGED_AT, key=None, identity=(*key, "_lsn", "_op", CHANGED_AT),
            dedup_within=spans[0], time_formats=("rfc3339", "epoch_us"), coerce=False, max_ahead=_ANY_TIME,
            extra=extra, partitions=partitions, retention=spans[1], format="debezium", version=version,
            place=place, row_key=tuple(key), time_unit=time_unit,
            alerts=Alerts(ignore=["duplicate"]),  # Debezium sends again what it is not sure of
        )  # fmt: skip
        return struct

    return declared


def current(declared: Any) -> Table:
    """The table of a database table's rows as they now are: one a key, of the columns of its struct.

    `headrace build` makes it from the changelog of every @changes class; this names it, for `reads=` and
    TableSource. Its name is the topic's table's with `_current`.

    Raises:
        ProjectError: `declared` is no class under @changes.
    """
    contract = declared if isinstance(declared, Contract) else contract_of(declared)
    if contract is None or not contract.row_key:
        raise ProjectError(f"current({declared!r}) needs a class under @changes", where=str(Place.of_caller()))
    name = f"{contract.table}_current"
    table = _MADE.get(contract.struct)
    if table is None:
        table = Table(name, _kept_by_the_build, (contract,), None, False, None, contract.place, current=True)
        _MADE[contract.struct] = table
    return table


_MADE: WeakKeyDictionary[type[Struct], Table] = WeakKeyDictionary()  # so that it is one object a contract


def _kept_by_the_build(_: Any) -> Any:
    raise ProjectError("a table of current rows is made by headrace build alone")


def _check(struct: type[Struct], topic: str, key: Sequence[str], place: Place) -> None:
    if len(topic.split(".")) < 3 or not all(topic.split(".")):
        raise ProjectError(
            f"topic={topic!r} is not PREFIX.SCHEMA.TABLE",
            where=str(place),
            remedy="Debezium names a topic so: `shop.public.customers` for table public.customers.",
        )
    hints = get_type_hints(struct)
    names = [field.name for field in msgspec.structs.fields(struct)]
    if not key or isinstance(key, str):
        raise ProjectError("key= lists the columns of the primary key", where=str(place))
    for name in key:
        if name not in names:
            raise ProjectError(
                f"key names {name!r}, which is no field of {struct.__name__}",
                where=str(place),
                remedy=f"Its fields are {', '.join(names)}.",
            )
        kind = hints[name]
        if get_origin(kind) in (Union, types.UnionType) and types.NoneType in get_args(kind):
            raise ProjectError(f"{name!r} is of the key, so it can't be null", where=str(place))
    hidden = [name for name in names if name.startswith("_")]
    if hidden:
        raise ProjectError(
            f"{hidden[0]!r} begins with _, as the columns of a change do",
            where=str(place),
            remedy='Name the column with msgspec\'s field(name="...").',
        )
    if hasattr(struct, "__post_init__"):
        raise ProjectError(
            "a row under @changes has no __post_init__: a deleted row has no values to look at",
            where=str(place),
            remedy="Bound the fields with Annotated[..., Meta(...)].",
        )
