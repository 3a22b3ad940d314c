"""@changes: a contract on a database table, as a msgspec struct of its row.

Its events are the changes of the table's rows in Debezium's envelopes, whichever program writes them.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Struct

from headrace.declare.alerts import Alerts
from headrace.declare.event import Contract, contract_of, is_struct
from headrace.declare.place import Place
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError

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
"""The columns of a change beside those of its row: the operation (`c` created, `u` updated, `d` deleted, `r`
read by a snapshot, `t` truncated); its position in the database's log; when and by which transaction it was
committed; its place in a snapshot; the columns whose values the database left out."""

SNAPSHOT_ENDS = ("last", "last_in_data_collection")
"""The values of `_snapshot` that mark the last row of a table's snapshot."""

_ANY_TIME = timedelta(days=36_500)  # the clock of the database is not judged


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
    """Declares that the decorated struct is a row of the table whose changes arrive on a topic.

        @changes(topic="shop.public.customers", key=["id"])
        class Customer(Struct):
            id: int
            email: str | None = None

    Args:
        topic: the topic, as Debezium names it: PREFIX.SCHEMA.TABLE.
        key: the columns of the table's primary key.
        dedup_within: how long after a change, by the database's clock, the same change is refused as
            `duplicate`. After a restart Debezium repeats the last changes that it sent.
        extra: see @event, for columns that the struct does not name.
        time_unit: the unit of a time that is written as a number since 1970, if the envelope has no schema with
            the unit; None: such a number is refused.
        partitions: see @event.
        retention: see @event.
        version: see @event.

    Raises:
        ProjectError: the topic, the key, the unit or a duration is not valid, a key column is not a field or
            may be null, a field begins with `_`, the class is not a msgspec Struct or has a `__post_init__`.
    """

    def declare(struct: S) -> S:
        place = Place.of(struct)
        if not is_struct(struct):
            raise ProjectError("@changes needs a class that derives from headrace.Struct", where=str(place))
        _check_topic(topic, place)
        _check_key(struct, key, place)
        _check_struct(struct, place)
        _check_unit(time_unit, place)
        struct.__contract__ = Contract(  # type: ignore[attr-defined]
            **_FIXED_RULES,
            topic=topic,
            struct=_change_struct(struct),
            identity=(*key, "_lsn", "_op", CHANGED_AT),
            dedup_within=dedup_within,
            extra=extra,
            partitions=partitions,
            retention=retention,
            version=version,
            place=place,
            row_key=tuple(key),
            time_unit=time_unit,
        )
        return struct

    return declare


def _check_unit(time_unit: str | None, place: Place) -> None:
    if time_unit not in (None, "ms", "us", "ns"):
        raise ProjectError(f"time_unit={time_unit!r} is not ms, us or ns", where=str(place))


_FIXED_RULES: dict[str, Any] = {
    "time": CHANGED_AT,
    "time_formats": ("rfc3339", "epoch_us"),
    "max_ahead": _ANY_TIME,
    "format": "debezium",
    "alerts": Alerts(ignore=["duplicate"]),  # after a restart Debezium repeats what it had sent
}


def _change_struct(row: type[Struct]) -> type[Struct]:
    return msgspec.defstruct(row.__name__, CHANGE_FIELDS, bases=(row,), module=row.__module__, kw_only=True)


def current(declared: Any) -> Table:
    """The table of the current rows of a database table: one row per key, with the columns of its struct.

    `headrace build` makes it from the changelog of every @changes class. Use it in `reads=` of @table and in
    TableSource. Its name is that of the topic's table with `_current` appended.

        @table(reads=current(Customer))
        def emails(customers: pl.LazyFrame) -> pl.LazyFrame:
            return customers.select("id", "email")

    Args:
        declared: a class under @changes.

    Raises:
        ProjectError: `declared` is not a class under @changes.
    """
    contract = declared if isinstance(declared, Contract) else contract_of(declared)
    if contract is None or not contract.row_key:
        raise ProjectError(f"current({declared!r}) needs a class under @changes", where=str(Place.of_caller()))
    table = _CURRENT_TABLES.get(contract.struct)
    if table is None:
        table = Table(
            name=f"{contract.table}_current",
            function=_refuse_call,
            reads=(contract,),
            place=contract.place,
            current=True,
        )
        _CURRENT_TABLES[contract.struct] = table
    return table


_CURRENT_TABLES: WeakKeyDictionary[type[Struct], Table] = WeakKeyDictionary()
"""One Table object per contract, since tables are compared by identity."""


def _refuse_call(_: Any) -> Any:
    raise ProjectError("only headrace build makes a table of current rows")


def _check_topic(topic: str, place: Place) -> None:
    parts = topic.split(".")
    if len(parts) < 3 or not all(parts):
        raise ProjectError(
            f"topic={topic!r} is not PREFIX.SCHEMA.TABLE",
            where=str(place),
            remedy="Debezium names the topic of table public.customers `shop.public.customers`, for example.",
        )


def _check_key(struct: type[Struct], key: Sequence[str], place: Place) -> None:
    if not key or isinstance(key, str):
        raise ProjectError("key= lists the columns of the primary key", where=str(place))
    hints = get_type_hints(struct)
    names = [field.name for field in msgspec.structs.fields(struct)]
    for name in key:
        if name not in names:
            raise ProjectError(
                f"key= names {name!r}, which is not a field of {struct.__name__}",
                where=str(place),
                remedy=f"Its fields are {', '.join(names)}.",
            )
        hint = hints[name]
        if get_origin(hint) in (Union, types.UnionType) and types.NoneType in get_args(hint):
            raise ProjectError(f"{name!r} is part of the key, so it cannot be null", where=str(place))


def _check_struct(struct: type[Struct], place: Place) -> None:
    for field in msgspec.structs.fields(struct):
        if field.name.startswith("_"):
            raise ProjectError(
                f"{field.name!r} begins with _, as the columns of a change do",
                where=str(place),
                remedy='Name the column with msgspec\'s field(name="...").',
            )
    if hasattr(struct, "__post_init__"):
        raise ProjectError(
            "a row under @changes cannot have a __post_init__: a deleted row has no values to check",
            where=str(place),
            remedy="Bound the fields with Annotated[..., Meta(...)].",
        )
