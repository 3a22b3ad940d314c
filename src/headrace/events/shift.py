"""Moving the times of events that are bytes, each in its own spelling; all else stays to the byte."""

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
    """Moves the contract's time of JSON events by one whole number of seconds.

    Args:
        contract: which field is the time, and how it is spelled.
        batches: all the events. The last of them will be now.
        where: where they come from, for the error.

    Raises:
        CallError: no time in them can be read.

    Attributes:
        by: how far.
        early: how many moved times lie in an hour that the zone's clocks show for the second time. Written
            without a zone they are read as the first: an hour too early.
    """

    by: timedelta
    early: int

    def __init__(self, contract: Contract, batches: Iterable[Sequence[bytes]], where: str) -> None:
        self._name = next(field.key for field in fields_of(contract.struct) if field.name == contract.time)
        self._spellings, self._zone = contract.time_formats, contract.timezone
        field = msgspec.field(name=self._name, default=Raw(b"null"))
        self._timed = numbers.decoder(msgspec.defstruct("Timed", [("time", Raw, field)]))
        last = None
        for events in batches:
            times = [_time(raw) for raw in map(self._raw_time, events)]
            for spelling in self._spellings:
                latest = _parse(times, spelling, self._zone).max()
                if isinstance(latest, int):
                    last = latest if last is None else max(last, latest)
        if last is None:
            raise CallError(
                f"no {self._name!r} in it can be read, so there is nothing to move to now",
                where=where,
                remedy=f"The contract's spellings are {', '.join(self._spellings)}.",
            )
        self._seconds = (now_micros() - last) // _SECOND
        self.by = timedelta(seconds=self._seconds)
        self.early = 0

    def move(self, events: Sequence[bytes]) -> list[bytes]:
        """The events with their times moved; one whose time cannot be read stays as it is."""
        raws = [self._raw_time(event) for event in events]
        times = [_time(raw) for raw in raws]
        moved = list(events)
        for spelling in self._spellings:
            instants = _parse(times, spelling, self._zone)
            if spelling in EPOCH_FORMATS:
                ahead = self._seconds * _SECOND // EPOCH_FORMATS[spelling]
                texts: Sequence[Time | None] = [
                    None if instant is None else _add(time, ahead)
                    for instant, time in zip(instants.to_list(), times, strict=True)
                ]
            else:
                local = _local(instants + self._seconds * _SECOND, spelling, self._zone)
                self.early += _count_second_showings(local)
                texts = local.dt.strftime(_pattern(spelling)).to_list()
            for at, text in enumerate(texts):
                if text is not None:
                    moved[at] = self._replace(events[at], raws[at], numbers.encode(text))
                    times[at] = None
        return moved

    def _raw_time(self, event: bytes) -> bytes:
        try:
            return bytes(self._timed(event).time)
        except DECODE_ERRORS:
            return b"null"

    def _replace(self, event: bytes, old: bytes, new: bytes) -> bytes:
        if event.count(old) == 1:
            return event.replace(old, new)
        fields = msgspec.json.decode(event, type=dict[str, Raw])
        return numbers.encode({**fields, self._name: Raw(new)})


_any = numbers.decoder(Any)


def _time(raw: bytes) -> Time | None:
    try:
        value = _any(raw)
    except DECODE_ERRORS:
        return None
    return value if type(value) in (str, int, Decimal) else None


def _parse(times: Sequence[Time | None], spelling: str, zone: str | None) -> pl.Series:
    """Microseconds since 1970, null where a time is not of this spelling."""
    values = [float(time) if isinstance(time, Decimal) else time for time in times]
    parsed = parse_times(values, [spelling], zone)
    unread = parsed.null.copy()
    unread[list(parsed.errors)] = True
    return pl.Series(parsed.micros).set(pl.Series(unread), None)


def _add(time: Time | None, ahead: int) -> Time:
    """The number, or the text of one, that lies so far ahead."""
    if isinstance(time, str):
        return str(_add(Decimal(time) if "." in time else int(time), ahead))
    assert time is not None
    return time + ahead


def _pattern(spelling: str) -> str:
    return "%Y-%m-%dT%H:%M:%S%.fZ" if spelling == "rfc3339" else spelling


def _local(instants: pl.Series, spelling: str, zone: str | None) -> pl.Series:
    """The times to be written: in the contract's zone where the spelling names none."""
    times = instants.cast(pl.Datetime("us"))
    if zone is not None and not has_zone(_pattern(spelling)):
        times = times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return times


def _count_second_showings(times: pl.Series) -> int:
    zone = times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None
    if zone is None:
        return 0
    read = times.dt.replace_time_zone(None).dt.replace_time_zone(zone, ambiguous="earliest")
    return int((read != times).sum())
