"""The judge: a contract and raw events in, one verdict an event out, as rows of the topic's table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from numpy.typing import NDArray

from headrace.declare.event import Contract
from headrace.events.reasons import LONGEST, Reason, reason_of
from headrace.events.seen import Seen
from headrace.events.shape import META, TIMESTAMP, Column, shape_of
from headrace.events.times import parse_times
from headrace.kernel.time import from_micros
from headrace.log.port import Batch, Headers

__all__ = ["FIRST", "First", "Judge", "Verdicts", "first_of"]

FIRST = "headrace.first"
"""The header that a replayed record carries: `partition:offset`, where it first stood on the log."""

NAMES, OTHERS = 20, "(others)"  # unknown fields are counted by name, up to so many

First = tuple[int, int]
_FIRST_FORM = re.compile(rb"(\d{1,9}):(\d{1,18})")
_GOOD = ("_log_partition", "_log_offset", "_arrived_at")


@dataclass(frozen=True)
class Verdicts:
    """What became of a batch.

    Attributes:
        rows: every event once, as the topic's table stores it (shape.table_schema); good ones first,
            each part in the order of the batch.
        good: how many of them are good.
        refused: code → how many.
        latest: the latest arrival, microseconds since 1970; 0 in an empty batch.
        extra: field that the contract does not name → how many events carry it; of an event's several
            the first counts, and beyond 20 names they count together. Such fields are not kept.
    """

    rows: pa.Table
    good: int
    refused: Counter[str]
    latest: int
    extra: Counter[str] = field(default_factory=Counter)

    @property
    def online(self) -> pa.Table:
        """The good part without the columns of refusal: contract fields, _log_partition, _log_offset
        and _arrived_at."""
        fields = [name for name in self.rows.column_names if name not in META.names]
        return self.rows.slice(0, self.good).select([*fields, *_GOOD])


class Judge:
    """Judges the events of one topic.

    Args:
        contract: what they must be.
        admitted: which of some first positions the topic's table already holds as good; by default
            all of them, since who does not know must not admit one twice.
    """

    def __init__(
        self,
        contract: Contract,
        admitted: Callable[[Collection[First]], Collection[First]] = frozenset,
    ) -> None:
        self.contract = contract
        self._shape = shape_of(contract)
        # Decoded exactly first: what msgspec passes over it does not tell, and most events hold no more.
        self._decoder = msgspec.json.Decoder(self._shape.exact, strict=not contract.coerce)
        self._kept = msgspec.json.Decoder(self._shape.struct, strict=not contract.coerce)
        self._keeps = self._shape.struct is not self._shape.exact
        self._keys = {c.key for c in self._shape.columns}
        self._extra: Counter[str] = Counter()
        self._admitted = admitted
        self._seen = Seen(contract.within) if contract.within is not None else None
        self._renamed = {c.key: c.name for c in self._shape.columns if c.key != c.name}
        self._empty_is_null = {c.key for c in self._shape.columns if c.empty_is_null and contract.coerce}

    def remember(self, good: pl.DataFrame) -> None:
        """Takes good rows of the topic's table, in the order of their times, as admitted."""
        if self._seen is not None:
            times = good[self.contract.time].to_physical().to_numpy()
            self._seen.admit(good.select(self.contract.identity), times)

    def judge(self, batch: Batch) -> Verdicts:
        """One verdict for each event of the batch. No event raises.

        Good events are remembered as admitted: whoever does not store the verdicts must not go on
        with this judge.
        """
        self._extra = Counter()
        places, events, refused = self._decode(batch.values)
        table, broken = self._columns(events)
        if self._shape.checks is not None:
            self._check(self._shape.checks, table, broken)
        arrived = batch.arrived_at[places]
        times = _micros(table[self.contract.time])
        for at in np.flatnonzero(times > arrived + self.contract.future // timedelta(microseconds=1)):
            broken.setdefault(int(at), self._future(int(times[at]), int(arrived[at])))
        keep = np.ones(len(events), bool)
        keep[list(broken)] = False
        firsts = _firsts(batch.headers)
        if firsts:
            self._refuse_replayed(firsts, places, keep, broken)
        if self._seen is not None:
            self._refuse_seen(self._seen, table, times, keep, broken)
        refused |= {int(places[at]): reason for at, reason in broken.items()}
        if broken:
            table = table.filter(pa.array(keep))
            places = places[keep]
        bad = sorted(refused)
        reasons = [refused[at] for at in bad]
        nothing = _nothing(table.schema, len(bad))
        rows = pa.concat_tables(
            [
                _stamped(table, batch, places, None, firsts),
                _stamped(nothing, batch, np.array(bad, np.int64), reasons, firsts),
            ]
        )
        latest = int(batch.arrived_at.max(initial=0))
        return Verdicts(rows, len(places), Counter([reason.code for reason in reasons]), latest, self._extra)

    def _decode(self, values: list[bytes]) -> tuple[NDArray[np.int64], list[Struct], dict[int, Reason]]:
        """Each event by itself: the places of those that decode, their structs, and why others do not."""
        events: list[Struct] = []
        refused: dict[int, Reason] = {}
        decode, add = self._decoder.decode, events.append
        for at, raw in enumerate(values):
            try:
                add(decode(raw))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                reason = self._again(raw, error, add)
                if reason is not None:
                    refused[at] = reason
        places = np.arange(len(values))
        if refused:
            places = np.delete(places, list(refused))
        return places, events, refused

    def _again(self, raw: bytes, error: Exception, add: Callable[[Any], None]) -> Reason | None:
        """Why an event is refused; or None, when it decodes once `""` is taken for null where it may be,
        and fields that the contract does not name are passed over where it keeps such events."""
        reason = reason_of(error)
        if reason.code == "extra" and self._keeps:
            try:
                add(self._kept.decode(raw))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as second:
                reason = reason_of(second)
            else:
                self._count(reason.field)
                return None
        if reason.code == "wrong_type" and reason.field in self._empty_is_null:
            try:
                found = msgspec.json.decode(raw)
                for key in self._empty_is_null:
                    if found.get(key) == "":
                        found[key] = None
                add(msgspec.convert(found, self._shape.struct, strict=False))
                self._count(next((key for key in found if self._keeps and key not in self._keys), None))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as second:
                reason = reason_of(second)
            else:
                return None
        if reason.field in self._renamed:
            return Reason(reason.code, self._renamed[reason.field], reason.reason)
        return reason

    def _count(self, name: str | None) -> None:
        """One more event with a field of this name, which the contract does not have."""
        if name is not None:
            self._extra[name if name in self._extra or len(self._extra) < NAMES else OTHERS] += 1

    def _columns(self, events: list[Struct]) -> tuple[pa.Table, dict[int, Reason]]:
        """The contract's fields as a table of n rows, and what is wrong with some of them."""
        broken: dict[int, Reason] = {}
        arrays = []
        for column in self._shape.columns:
            values = column.values(events)
            if column.type == TIMESTAMP:
                parsed = parse_times(values, self.contract.times)
                array = pa.array(parsed.micros, mask=parsed.null, type=pa.int64()).cast(TIMESTAMP)
                for at, (code, reason) in parsed.broken.items():
                    broken.setdefault(at, Reason(code, column.name, reason))
            else:
                array = _array(values, column, broken)
            arrays.append(array)
        return pa.table(arrays, schema=self._shape.schema), broken

    def _check(self, declared: type[Struct], table: pa.Table, broken: dict[int, Reason]) -> None:
        """The declared struct's own `__post_init__`, for every event that is right so far."""
        for at, row in enumerate(table.to_pylist()):
            if at not in broken:
                try:
                    declared(**row)
                except (ValueError, TypeError) as error:
                    broken[at] = Reason("out_of_range", None, str(error)[:LONGEST])

    def _future(self, time: int, arrived: int) -> Reason:
        return Reason(
            "future", self.contract.time, f"{from_micros(time)} is after its arrival at {from_micros(arrived)}"
        )

    def _refuse_replayed(
        self,
        firsts: dict[int, First],
        places: NDArray[np.int64],
        keep: NDArray[np.bool_],
        broken: dict[int, Reason],
    ) -> None:
        """A replayed event is admitted once, however often it is replayed."""
        admitted = set(self._admitted(set(firsts.values())))
        for at in np.flatnonzero(keep).tolist():
            first = firsts.get(int(places[at]))
            if first in admitted:
                keep[at] = False
                broken[at] = Reason("duplicate", None, "the event it replays was admitted before")
            elif first is not None:
                admitted.add(first)

    def _refuse_seen(
        self,
        seen: Seen,
        table: pa.Table,
        times: NDArray[np.int64],
        keep: NDArray[np.bool_],
        broken: dict[int, Reason],
    ) -> None:
        identity = table.select(self.contract.identity)
        if broken:
            identity, times = identity.filter(pa.array(keep)), times[keep]
        new = seen.admit(pl.DataFrame(pl.from_arrow(identity)), times)
        again = np.flatnonzero(keep)[~new].tolist()
        keep[again] = False
        why = f"one with the same {', '.join(self.contract.identity)} was admitted"
        for at in again:
            broken[at] = Reason("duplicate", None, why)


def first_of(headers: Headers | None) -> First | None:
    """Where the record with these headers first stood, if it is a replay."""
    form = _FIRST_FORM.fullmatch(headers.get(FIRST, b"")) if headers else None
    return None if form is None else (int(form.group(1)), int(form.group(2)))


def _firsts(headers: Collection[Headers | None]) -> dict[int, First]:
    """Place → first position, for the records that were replayed."""
    found: dict[int, First] = {}
    if not any(headers):
        return found
    for at, one in enumerate(headers):
        first = first_of(one)
        if first is not None:
            found[at] = first
    return found


def _array(values: list[Any], column: Column, broken: dict[int, Reason]) -> Any:
    try:
        array = pa.array(values, column.type)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        # Rare enough to be found one by one: a number too large within a nested list, a lone surrogate.
        for at, value in enumerate(values):
            try:
                pa.scalar(value, column.type)
            except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError) as error:
                broken.setdefault(at, Reason("out_of_range", column.name, str(error)[:LONGEST]))
                values[at] = None
        array = pa.array(values, column.type)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if column.type == pa.float64():
        for at in np.flatnonzero(
            pc.is_finite(array).fill_null(True).to_numpy(zero_copy_only=False) == 0
        ).tolist():
            broken.setdefault(at, Reason("out_of_range", column.name, "it is not a finite number"))
    return array


def _micros(column: Any) -> NDArray[np.int64]:
    micros: NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return micros


def _nothing(schema: pa.Schema, count: int) -> pa.Table:
    return pa.table([pa.nulls(count, field.type) for field in schema], schema=schema)


def _stamped(
    table: pa.Table,
    batch: Batch,
    places: NDArray[np.int64],
    reasons: list[Reason] | None,
    firsts: dict[int, First],
) -> pa.Table:
    """The rows with META's columns: where and when each event arrived, and why it is refused if it is."""
    count = len(places)
    columns: dict[str, Any] = {
        "_log_partition": batch.partitions[places],
        "_log_offset": batch.offsets[places],
        "_arrived_at": pa.array(batch.arrived_at[places], pa.int64()).cast(TIMESTAMP),
        "_valid": np.full(count, reasons is None),
    }
    if reasons is not None:
        columns["_raw"] = [batch.values[at] for at in places.tolist()]
        columns["_code"] = [reason.code for reason in reasons]
        columns["_field"] = [reason.field for reason in reasons]
        columns["_reason"] = [reason.reason for reason in reasons]
    if firsts:
        mine = [firsts.get(at, (None, None)) for at in places.tolist()]
        columns["_first_partition"] = [partition for partition, _ in mine]
        columns["_first_offset"] = [offset for _, offset in mine]
    for one in META:
        values = columns.get(one.name)
        array = pa.nulls(count, one.type) if values is None else _typed(values, one.type)
        table = table.append_column(one, array)
    return table


def _typed(values: Any, type_: pa.DataType) -> Any:
    return values if isinstance(values, pa.Array) else pa.array(values, type_)
