"""@event: a contract on a topic, as a msgspec struct."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, TypeVar, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs
import msgspec
from msgspec import Struct

from headrace.declare.alerts import Alerts
from headrace.declare.convert import to_duration, to_optional_duration, to_tuple
from headrace.declare.place import Place
from headrace.declare.reserved import EVENT_COLUMNS, refuse_reserved
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import from_micros, micros
from headrace.kernel.topics import SYSTEM

__all__ = ["Contract", "contract_of", "event", "is_struct", "table_of"]

S = TypeVar("S", bound=type[Struct])

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")  # as Kafka has it


def _to_instant(value: str | date) -> datetime:
    """Converts a day (its beginning in UTC) or an instant, as text or as an object."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(instant, datetime) or (isinstance(value, str) and len(value) == 10):
            return datetime(instant.year, instant.month, instant.day, tzinfo=UTC)
        return from_micros(micros(instant))  # raises ValueError for a naive datetime
    except (ValueError, OverflowError) as error:
        raise ProjectError(
            f"oldest={value!r} is not a day or an instant with a time zone, such as '1970-01-01'",
            where=str(Place.of_caller()),
        ) from error


@attrs.frozen(kw_only=True)
class _EventRules:
    """The rules that a contract takes from its declaration; `event` documents them."""

    topic: str
    time: str
    key: str | None = None
    identity: tuple[str, ...] = attrs.field(default=(), converter=to_tuple)
    dedup_within: timedelta | None = attrs.field(default=None, converter=to_optional_duration)
    time_formats: tuple[str, ...] = attrs.field(default=("rfc3339",), converter=to_tuple)
    timezone: str | None = None
    coerce: bool = False
    max_ahead: timedelta = attrs.field(default=timedelta(minutes=5), converter=to_duration)
    max_late: timedelta | None = attrs.field(default=None, converter=to_optional_duration)
    oldest: datetime = attrs.field(default=_EPOCH, converter=_to_instant)
    extra: Literal["allow", "forbid"] = "allow"
    format: str = "json"
    partitions: int = 1
    retention: timedelta | None = attrs.field(default=None, converter=to_optional_duration)
    alerts: Alerts | None = attrs.Factory(Alerts)
    forward: tuple[str, str] | None = None
    version: int = 1
    upcasters: Mapping[type[Struct], Callable[[Any], Any]] = attrs.Factory(dict)


@attrs.frozen(kw_only=True)
class Contract(_EventRules):
    """A contract: the rules of an @event or @changes class, and the class.

    Attributes:
        struct: the msgspec struct that an event decodes to.
        place: the line of the declaration.
        row_key: under @changes the columns of the table's primary key; empty under @event.
        time_unit: under @changes the unit of times that are written as numbers since 1970.
    """

    struct: type[Struct]
    place: Place
    row_key: tuple[str, ...] = ()
    time_unit: Literal["ms", "us", "ns"] | None = None

    @property
    def table(self) -> str:
        """The name of the topic's Iceberg table."""
        return table_of(self.topic)


def table_of(topic: str) -> str:
    """The name of a topic's Iceberg table."""
    return topic.replace(".", "_").replace("-", "_")


@attrs.frozen(kw_only=True)
class event(_EventRules):  # noqa: N801  it is a decorator
    """Declares that the decorated struct is the contract of a topic.

        @event(topic="clicks", time="at", key="user", identity=["user", "at"], dedup_within="1d")
        class Click(Struct):
            at: datetime
            user: int
            price: Annotated[float, Meta(ge=0)] | None = None

    Durations are text such as `30s`, `5m`, `1h30m` or `7d`, or timedeltas.

    Args:
        topic: the topic on the log. Its Iceberg table has the same name, with `_` for `.` and `-`.
        time: the datetime field with the time at which the event happened.
        key: the field whose value chooses the log partition; None: any partition.
        identity: the fields that identify an event. Two events with equal values are the same event.
        dedup_within: an event is refused as `duplicate` if an event with the same identity was admitted whose
            time is at most this far from it (docs/guide/contracts.md has the full rule); None: never.
        time_formats: how a time may be written: `rfc3339`, strptime formats, and at most one of `epoch_s`,
            `epoch_ms`, `epoch_us` for a number since 1970.
        timezone: the zone of a time that is written without one, such as `Europe/Paris`; None: such a time is
            refused as `naive_time`, unless its format has the zone as literal text (`UTC`).
        coerce: whether text is accepted for a number or a boolean ("35" for 35).
        max_ahead: how far an event's time may be after its arrival; beyond this the event is refused as
            `future`.
        max_late: how far an event's time may be before its arrival; beyond this the event is refused as `late`;
            None: any distance.
        oldest: an event whose time is before this day or instant is refused as `out_of_range`. A day begins at
            midnight UTC.
        extra: what happens to fields that the struct does not name: `allow` stores them as JSON in the column
            `_extra`, `forbid` refuses the event.
        format: how the bytes hold an event: `json`, `connect` (Kafka Connect's envelope of schema and
            payload) or `avro` (with a schema registry).
        partitions: the number of log partitions that the topic is created with.
        retention: how long the log keeps an event at least. None: the topic keeps its setting; if Headrace
            creates it, it keeps events forever. The topic's table keeps every event.
        alerts: the shares of refused events that raise an alert; None: no alerts.
        forward: two further Kafka topics: the first gets the good events unchanged, the second the refused
            events with the reasons; None: no forwarding.
        version: the version of the contract, from 1. Raise it for a change that refuses events that were good,
            or that removes a field.
        upcasters: older struct → function that converts it to the current struct, the newest first. An event
            that matches an older struct is converted by this function.

    Raises:
        ProjectError: the topic's name is not valid, a field that is named is not in the struct, a field has the
            name of a column that Headrace adds to a topic's table (`_valid`, ...), `time` is not a datetime
            field, `dedup_within` lacks `identity`, a duration, `oldest` or `timezone` is not valid,
            `time_formats` has two kinds of number, `version` is below 1, `forward` does not name two further
            topics, or the class or an older one is not a msgspec Struct.
    """

    def __attrs_post_init__(self) -> None:
        place = str(Place.of_caller())
        if not _TOPIC.fullmatch(self.topic):
            raise ProjectError(
                f"{self.topic!r} is not a valid topic name",
                where=place,
                remedy="Use letters, digits, '.', '_' and '-', at most 249.",
            )
        if self.dedup_within is not None and not self.identity:
            raise ProjectError("dedup_within= needs identity=, the fields that identify an event", where=place)
        if len([name for name in self.time_formats if name.startswith("epoch_")]) > 1:
            raise ProjectError(
                "time_formats= names two kinds of number",
                where=place,
                remedy="Name one of them: a number does not say its unit.",
            )
        if self.timezone is not None:
            try:
                ZoneInfo(self.timezone)
            except (ZoneInfoNotFoundError, ValueError) as error:
                raise ProjectError(
                    f"timezone={self.timezone!r} is not a known time zone", where=place
                ) from error
        if self.version < 1:
            raise ProjectError(f"version={self.version}: the first version is 1", where=place)
        for older in self.upcasters:
            if not is_struct(older):
                raise ProjectError(f"upcasters= has {older!r}, which is not a headrace.Struct", where=place)
        if self.forward is not None and len({self.topic, *self.forward}) != 3:
            raise ProjectError(
                f"forward={self.forward!r} must name two topics other than {self.topic!r}", where=place
            )
        if any(topic.startswith(SYSTEM) for topic in self.forward or ()):
            raise ProjectError(
                f"forward={self.forward!r}: topics that begin with {SYSTEM!r} are reserved for Headrace",
                where=place,
                remedy="Forward to topics of other names.",
            )

    def __call__(self, struct: S) -> S:
        """Attaches the contract to the class, and returns the class."""
        place = Place.of(struct)
        if not is_struct(struct):
            raise ProjectError("@event needs a class that derives from headrace.Struct", where=str(place))
        self._check_fields(struct, place)
        rules = attrs.asdict(self, recurse=False)
        struct.__contract__ = Contract(struct=struct, place=place, **rules)  # type: ignore[attr-defined]
        return struct

    def _check_fields(self, struct: type[Struct], place: Place) -> None:
        fields = {field.name for field in msgspec.structs.fields(struct)}
        roles = [("time", self.time), ("key", self.key), *(("identity", name) for name in self.identity)]
        for role, name in roles:
            if name is not None and name not in fields:
                raise ProjectError(
                    f"{role}={name!r} is not a field of {struct.__name__}",
                    where=str(place),
                    remedy=f"Its fields are {', '.join(sorted(fields))}.",
                )
        refuse_reserved(
            fields,
            EVENT_COLUMNS,
            "a topic's table",
            str(place),
            'Give the field another name in the class: valid: bool = field(name="_valid") reads `_valid`.',
        )
        if get_type_hints(struct)[self.time] is not datetime:
            raise ProjectError(f"time={self.time!r} must be a field of type datetime", where=str(place))


def is_struct(value: Any) -> bool:
    """Whether a value is a class that derives from headrace.Struct."""
    return inspect.isclass(value) and issubclass(value, Struct)


def contract_of(declared: Any) -> Contract | None:
    """The contract of a class under @event or @changes; None for any other value, and for a subclass of one."""
    return declared.__dict__.get("__contract__") if inspect.isclass(declared) else None
