"""@event: a contract on a topic, as a msgspec struct."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, TypeVar, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Struct

from headrace.declare.alerts import Alerts
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import from_micros, micros, parse_duration

__all__ = ["Contract", "contract_of", "event"]

S = TypeVar("S", bound=type[Struct])

OLDEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Contract:
    """What an event of one topic must be.

    Attributes:
        topic: the topic.
        struct: the msgspec struct that an event decodes to.
        time: the datetime field that says when it happened.
        key: the field whose value chooses the log partition, or None.
        identity: the fields that make two events the same one.
        dedup_within: how far apart in time two events of one identity may lie to be the same one, the second of
            which is refused as a duplicate (docs/guide/contracts.md says in full); None: none is refused.
        time_formats: how a time may be spelled: `rfc3339`, strptime formats, and one of `epoch_s`, `epoch_ms`,
            `epoch_us` for a number since 1970. A time without a zone is refused as naive, unless its
            format has one as literal text (`UTC`), or `timezone` says which.
        timezone: the zone of a time that has none, `Europe/Paris`.
        coerce: whether "35" is taken for 35.
        max_ahead: how far after its arrival an event's time may lie before it is refused.
        max_late: how far before its arrival an event's time may lie before it is refused; None: any.
        oldest: an event whose time lies before this instant is refused.
        extra: what to do with fields the contract does not name: `allow` them, kept as JSON in column `_extra`,
            or `forbid` them: the event is refused.
        partitions: how many log partitions the topic is made with.
        alerts: from which rate on refused events raise an alert; None: never.
        forward: two more topics of the log, on Kafka, that get the good events as they came, and the
            refused ones with why; None: none.
        retention: how long the log keeps an event at least; None: what the topic has, and for good where
            it is made. The topic's table keeps what was ingested, however long ago.
        format: how the raw bytes hold an event (events.formats): `json`, or `connect` for Kafka Connect's
            `{"schema": ..., "payload": ...}`; `debezium` for changes of a database's rows (@changes).
        version: raised by who changes the contract so that events that were good are refused, or a
            field goes; the topic's table remembers the last (events.evolution).
        upcasters: older struct → what makes the present one of it, newest first.
        place: where it is declared.
        row_key: under @changes, the columns of the table's primary key; of an ordinary event none.
        time_unit: under @changes, what numbers that stand for instants count: `ms`, `us` or `ns` since 1970.
    """

    topic: str
    struct: type[Struct]
    time: str
    key: str | None
    identity: tuple[str, ...]
    dedup_within: timedelta | None
    time_formats: tuple[str, ...]
    coerce: bool
    max_ahead: timedelta
    extra: Literal["allow", "forbid"]
    partitions: int
    retention: timedelta | None
    format: str
    place: Place
    timezone: str | None = None
    max_late: timedelta | None = None
    oldest: datetime = OLDEST
    alerts: Alerts | None = field(default_factory=Alerts)
    forward: tuple[str, str] | None = None
    version: int = 1
    upcasters: Mapping[type[Struct], Callable[[Any], Any]] = field(default_factory=dict)
    row_key: tuple[str, ...] = ()
    time_unit: Literal["ms", "us", "ns"] | None = None

    @property
    def table(self) -> str:
        """The name of the topic's Iceberg table."""
        return self.topic.replace(".", "_").replace("-", "_")


def event(
    *,
    topic: str,
    time: str,
    key: str | None = None,
    identity: Sequence[str] = (),
    dedup_within: str | timedelta | None = None,
    time_formats: Sequence[str] = ("rfc3339",),
    timezone: str | None = None,
    coerce: bool = False,
    max_ahead: str | timedelta = "5m",
    max_late: str | timedelta | None = None,
    oldest: str | date = OLDEST,
    extra: Literal["allow", "forbid"] = "allow",
    partitions: int = 1,
    alerts: Alerts | None = Alerts(),  # noqa: B008 - it is frozen
    forward: tuple[str, str] | None = None,
    retention: str | timedelta | None = None,
    format: Literal["json", "connect", "avro"] = "json",
    version: int = 1,
    upcasters: Mapping[type[Struct], Callable[[Any], Any]] | None = None,
) -> Callable[[S], S]:
    """Declares that the decorated struct is the contract of a topic (see Contract for the arguments).

    Raises:
        ProjectError: a field that is named is not in the struct, `time` is no datetime, `dedup_within` is
            without `identity`, a duration, `oldest` or a zone cannot be read, `time_formats` has two
            kinds of number, `version` is below 1, or the class or an older one is no msgspec Struct.
    """

    def declared(struct: S) -> S:
        place = Place.of(struct)
        if not (inspect.isclass(struct) and issubclass(struct, Struct)):
            raise ProjectError("@event needs a class that derives from headrace.Struct", where=str(place))
        _check_fields(struct, time, key, identity, place)
        if dedup_within is not None and not identity:
            raise ProjectError(
                "dedup_within= needs identity=: the fields that make two events the same", where=str(place)
            )
        _check_rules(time_formats, timezone, version, upcasters or {}, place)
        try:
            windows = [
                None if one is None else parse_duration(one) for one in (dedup_within, max_late, retention)
            ]
            contract = Contract(
                topic=topic, struct=struct, time=time, key=key, identity=tuple(identity),
                dedup_within=windows[0], time_formats=tuple(time_formats), timezone=timezone, coerce=coerce,
                max_ahead=parse_duration(max_ahead), max_late=windows[1], oldest=_instant(oldest), extra=extra,
                partitions=partitions, retention=windows[2], alerts=alerts, forward=forward, format=format,
                version=version, upcasters=dict(upcasters or {}), place=place,
            )  # fmt: skip
        except ValueError as error:
            raise ProjectError(str(error), where=str(place)) from error
        if forward is not None and len({topic, *forward}) != 3:
            raise ProjectError(
                f"forward={forward!r} must name two topics, both others than {topic!r}", where=str(place)
            )
        struct.__contract__ = contract  # type: ignore[attr-defined]
        return struct

    return declared


def _instant(value: str | date) -> datetime:
    """The beginning of a day in UTC, or an instant. Raises ValueError where the value is neither."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(instant, datetime) or (isinstance(value, str) and len(value) == 10):
            return datetime(instant.year, instant.month, instant.day, tzinfo=UTC)
        return from_micros(micros(instant))  # a naive one raises ValueError
    except (ValueError, OverflowError) as error:
        what = f"oldest={value!r} is not a day or an instant with a time zone, such as '1970-01-01'"
        raise ValueError(what) from error


def _check_fields(
    struct: type[Struct], time: str, key: str | None, identity: Sequence[str], place: Place
) -> None:
    names = {f.name for f in msgspec.structs.fields(struct)}
    for role, name in [("time", time), ("key", key), *(("identity", n) for n in identity)]:
        if name is not None and name not in names:
            raise ProjectError(
                f"{role}={name!r} names no field of {struct.__name__}",
                where=str(place),
                remedy=f"Its fields are {', '.join(sorted(names))}.",
            )
    if get_type_hints(struct)[time] is not datetime:
        raise ProjectError(f"time={time!r} must be a field of type datetime", where=str(place))


def _check_rules(
    time_formats: Sequence[str],
    timezone: str | None,
    version: int,
    upcasters: Mapping[type[Struct], Callable[[Any], Any]],
    place: Place,
) -> None:
    if len([one for one in time_formats if one.startswith("epoch_")]) > 1:
        raise ProjectError(
            "time_formats= has two kinds of number: which one is meant cannot be told", where=str(place)
        )
    if timezone is not None:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ProjectError(f"there is no time zone {timezone!r}", where=str(place)) from error
    if version < 1:
        raise ProjectError(f"version={version}: the first is 1", where=str(place))
    for older in upcasters:
        if not (inspect.isclass(older) and issubclass(older, Struct)):
            raise ProjectError(f"upcasters= has {older!r}, which is no headrace.Struct", where=str(place))


def contract_of(declared: Any) -> Contract | None:
    """The contract of a class under @event (not one it merely inherits), else None."""
    return declared.__dict__.get("__contract__") if inspect.isclass(declared) else None
