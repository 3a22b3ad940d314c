"""Move the times of encoded events, each in its own format; every other byte stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
from msgspec import Raw

from headrace.declare.event import Contract
from headrace.events.contracts.fields import fields_of
from headrace.events.contracts.times import EPOCH_FORMATS, has_zone, parse_times
from headrace.events.formats import DECODE_ERRORS, numbers
from headrace.kernel.errors import CallError
from headrace.kernel.time import now_micros

__all__ = ["TimeShift"]

_SECOND = 1_000_000

Time = str | int | Decimal


class TimeShift:
    """Moves the times of JSON events by a whole number of seconds.

    Args:
        contract: the contract, whose rules name the field that is the time, and its formats.
        by: the distance; fractions of a second are dropped.

    Attributes:
        by: the distance.
        early: the number of moved times in the repeated hour of a clock change. They are written without a
            zone, so they are parsed as the first occurrence of that hour: an hour too early.
    """

    by: timedelta
    early: int

    def __init__(self, contract: Contract, by: timedelta) -> None:
        self._name = next(field.key for field in fields_of(contract.struct) if field.name == contract.time)
        self._formats, self._zone = contract.time_formats, contract.timezone
        field = msgspec.field(name=self._name, default=Raw(b"null"))
        self._decode_time = numbers.decoder(msgspec.defstruct("Timed", [("time", Raw, field)]))
        self._seconds = by // timedelta(seconds=1)
        self.by = timedelta(seconds=self._seconds)
        self.early = 0

    @staticmethod
    def to_now(contract: Contract, batches: Iterable[Sequence[bytes]], where: str) -> TimeShift:
        """The shift after which the latest time is now.

        Args:
            contract: as for TimeShift.
            batches: all the events.
            where: the origin of the events, for the error.

        Raises:
            CallError: no time in them can be parsed.
        """
        shift = TimeShift(contract, timedelta(0))
        latest = [micros for events in batches if (micros := shift._find_latest(events)) is not None]
        if not latest:
            raise CallError(
                f"no event has a {shift._name!r} that can be parsed, so no time can be moved to now",
                where=where,
                remedy=f"The contract allows {', '.join(shift._formats)}.",
            )
        return TimeShift(contract, timedelta(microseconds=now_micros() - max(latest)))

    def _find_latest(self, events: Sequence[bytes]) -> int | None:
        """Find the latest time, in microseconds since 1970; None: no time can be parsed."""
        times = [_parse_raw(raw) for raw in map(self._raw_time, events)]
        latest = [_parse(times, time_format, self._zone).max() for time_format in self._formats]
        return max((micros for micros in latest if isinstance(micros, int)), default=None)

    def move(self, events: Sequence[bytes]) -> list[bytes]:
        """Move the times of some events. An event whose time cannot be parsed stays as it is."""
        raws = [self._raw_time(event) for event in events]
        times = [_parse_raw(raw) for raw in raws]
        moved = list(events)
        for time_format in self._formats:
            instants = _parse(times, time_format, self._zone)
            if time_format in EPOCH_FORMATS:
                ahead = self._seconds * _SECOND // EPOCH_FORMATS[time_format]
                texts: Sequence[Time | None] = [
                    None if instant is None else _add(time, ahead)
                    for instant, time in zip(instants.to_list(), times, strict=True)
                ]
            else:
                local = _local(instants + self._seconds * _SECOND, time_format, self._zone)
                self.early += _count_repeated(local)
                texts = local.dt.strftime(_pattern(time_format)).to_list()
            for at, text in enumerate(texts):
                if text is not None:
                    moved[at] = self._replace(events[at], raws[at], numbers.encode(text))
                    times[at] = None
        return moved

    def _raw_time(self, event: bytes) -> bytes:
        try:
            return bytes(self._decode_time(event).time)
        except DECODE_ERRORS:
            return b"null"

    def _replace(self, event: bytes, old: bytes, new: bytes) -> bytes:
        if event.count(old) == 1:
            return event.replace(old, new)
        fields = msgspec.json.decode(event, type=dict[str, Raw])
        return numbers.encode({**fields, self._name: Raw(new)})


_decode_plain = numbers.decoder(Any)


def _parse_raw(raw: bytes) -> Time | None:
    try:
        value = _decode_plain(raw)
    except DECODE_ERRORS:
        return None
    return value if type(value) in (str, int, Decimal) else None


def _parse(times: Sequence[Time | None], time_format: str, zone: str | None) -> pl.Series:
    """Parse times to microseconds since 1970; null for a time in another format."""
    values = [float(time) if isinstance(time, Decimal) else time for time in times]
    parsed = parse_times(values, [time_format], zone)
    unparsed = parsed.null.copy()
    unparsed[list(parsed.errors)] = True
    return pl.Series(parsed.micros).set(pl.Series(unparsed), None)


def _add(time: Time | None, ahead: int) -> Time:
    """Add to a number, or to the text of one."""
    if isinstance(time, str):
        return str(_add(Decimal(time) if "." in time else int(time), ahead))
    assert time is not None
    return time + ahead


def _pattern(time_format: str) -> str:
    return "%Y-%m-%dT%H:%M:%S%.fZ" if time_format == "rfc3339" else time_format


def _local(instants: pl.Series, time_format: str, zone: str | None) -> pl.Series:
    """Convert instants to the times to write: in the contract's zone if the format does not name one."""
    times = instants.cast(pl.Datetime("us"))
    if zone is not None and not has_zone(_pattern(time_format)):
        times = times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return times


def _count_repeated(times: pl.Series) -> int:
    """Count the times in an hour that the clocks of their zone show for the second time."""
    zone = times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None
    if zone is None:
        return 0
    reparsed = times.dt.replace_time_zone(None).dt.replace_time_zone(zone, ambiguous="earliest")
    return int((reparsed != times).sum())
