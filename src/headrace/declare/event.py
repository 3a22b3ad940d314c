"""@event: a contract on a topic, as a msgspec struct."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec
from msgspec import Struct

from headrace.declare.alerts import Alerts
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import duration

__all__ = ["Contract", "contract_of", "event"]

S = TypeVar("S", bound=type[Struct])


@dataclass(frozen=True)
class Contract:
    """What an event of one topic must be.

    Attributes:
        topic: the topic.
        struct: the msgspec struct that an event decodes to.
        time: the datetime field that says when it happened.
        key: the field whose value chooses the log partition, or None.
        identity: the fields that make two events the same one.
        within: how long after an event the same one again is refused as a duplicate; None: never.
        times: how a time may be spelled: `rfc3339` and strptime formats. A format without a zone
            needs its zone as literal text (`UTC`), or the time is refused as naive.
        coerce: whether "35" is taken for 35.
        future: how far after its arrival an event's time may lie before it is refused.
        extra: what to do with fields the contract does not name.
        partitions: how many log partitions the topic is made with.
        alerts: from which rate on refused events raise an alert; None: never.
        forward: two more topics of the log, on Kafka, that get the good events as they came, and the
            refused ones with why; None: none.
        retention: how long the log keeps an event at least; None: what the topic has, and for good where
            it is made. The topic's table keeps what was ingested, however long ago.
        place: where it is declared.
    """

    topic: str
    struct: type[Struct]
    time: str
    key: str | None
    identity: tuple[str, ...]
    within: timedelta | None
    times: tuple[str, ...]
    coerce: bool
    future: timedelta
    extra: Literal["keep", "refuse"]
    partitions: int
    alerts: Alerts | None
    forward: tuple[str, str] | None
    retention: timedelta | None
    place: Place

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
    within: str | timedelta | None = None,
    times: Sequence[str] = ("rfc3339",),
    coerce: bool = False,
    future: str | timedelta = "5m",
    extra: Literal["keep", "refuse"] = "keep",
    partitions: int = 1,
    alerts: Alerts | None = Alerts(),  # noqa: B008 - it is frozen
    forward: tuple[str, str] | None = None,
    retention: str | timedelta | None = None,
) -> Callable[[S], S]:
    """Declares that the decorated struct is the contract of a topic (see Contract for the arguments).

    Raises:
        ProjectError: a field that is named is not in the struct, `time` is no datetime, `within` is
            without `identity`, a duration cannot be read, or the class is no msgspec Struct.
    """

    def declared(struct: S) -> S:
        place = Place.of(struct)
        if not (inspect.isclass(struct) and issubclass(struct, Struct)):
            raise ProjectError("@event needs a class that derives from headrace.Struct", where=str(place))
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
        if within is not None and not identity:
            raise ProjectError(
                "within= needs identity=: the fields that make two events the same", where=str(place)
            )
        try:
            kept = None if retention is None else duration(retention)
            windows = (None if within is None else duration(within), duration(future))
        except ValueError as error:
            raise ProjectError(str(error), where=str(place)) from error
        if forward is not None and len({topic, *forward}) != 3:
            raise ProjectError(
                f"forward={forward!r} must name two topics, both others than {topic!r}", where=str(place)
            )
        struct.__contract__ = Contract(  # type: ignore[attr-defined]
            topic=topic, struct=struct, time=time, key=key, identity=tuple(identity), within=windows[0],
            times=tuple(times), coerce=coerce, future=windows[1], extra=extra, partitions=partitions,
            alerts=alerts, forward=forward, retention=kept, place=place,
        )  # fmt: skip
        return struct

    return declared


def contract_of(declared: Any) -> Contract | None:
    """The contract of a class under @event (not one it merely inherits), else None."""
    return declared.__dict__.get("__contract__") if inspect.isclass(declared) else None
